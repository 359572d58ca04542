package udptunnel

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"flanneld/pkg/lab"
	"flanneld/pkg/tun"
)

// engineEnv makes the test binary run a tunnel, as a daemon would.
const engineEnv = "TUNNEL_TEST_ENGINE"

// engine is what such a process does.
type engine struct {
	Device      string
	Local       netip.AddrPort
	Own         netip.Prefix
	Network     netip.Prefix
	Addr        netip.Addr
	MTU         int
	SourceCheck bool
	Offload     bool
	Queues      int
	Peers       map[netip.Prefix]netip.Addr
	Profile     string
	Yardstick   bool // it is no tunnel
}

func (e engine) config() Config {
	return Config{
		Device: e.Device, Local: e.Local, Own: e.Own, Network: e.Network, Addr: e.Addr,
		MTU: e.MTU, SourceCheck: e.SourceCheck, Offload: e.Offload, Queues: e.Queues,
		Log: func(s string) { fmt.Println(s) },
	}
}

func TestMain(m *testing.M) {
	if text := os.Getenv(engineEnv); text != "" {
		if err := runEngine(text); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func runEngine(text string) error {
	var e engine
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return err
	}
	if e.Yardstick {
		return yardstick(e)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	t, err := Open(e.config())
	if err != nil {
		return err
	}
	if err := t.Table().Replace(e.Peers); err != nil {
		return err
	}
	if e.Profile != "" {
		f, err := os.Create(e.Profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	fmt.Println("ready")
	err = t.Run(ctx)
	fmt.Println("counters:", t.Counters())
	return err
}

// The networks of the lab.
var (
	lan     = netip.MustParsePrefix("192.168.60.0/24")
	network = netip.MustParsePrefix("10.60.0.0/16")
	subnets = [...]netip.Prefix{netip.MustParsePrefix("10.60.1.0/24"), netip.MustParsePrefix("10.60.2.0/24")}
)

// pair are two hosts with a pod each.
type pair struct {
	lab   *lab.Lab
	hosts [2]*lab.Host
	pods  [2]*lab.Pod
	procs [2]*lab.Process
}

// ways in which the pods of a pair reach each other.
const (
	byTunnel  = "tunnel"
	byPackets = "packets" // a tunnel without offload
	byLoop    = "loop"    // a loop as flannel's
	byVXLAN   = "vxlan"
	byRoute   = "route"
)

// newPair makes hosts whose pods reach each other in some way.
func newPair(t testing.TB, way string, change func(*engine)) *pair {
	t.Helper()
	l, err := lab.New(lab.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	p := &pair{lab: l}
	sw, err := l.AddSwitch("lan", lan)
	check(t, err)
	for i := range p.hosts {
		p.hosts[i], err = l.AddHost(fmt.Sprintf("h%d", i+1), sw, lab.HostOptions{})
		check(t, err)
	}
	for i, h := range p.hosts {
		other := p.hosts[1-i]
		mtu := 1500
		switch way {
		case byTunnel, byPackets, byLoop:
			mtu = 1472
			e := engine{
				Device: makeDevice(t, h, i, mtu), Local: netip.AddrPortFrom(h.Addr, 8285), Own: subnets[i],
				Network: network, Addr: subnets[i].Addr(), MTU: mtu, SourceCheck: true, Offload: way == byTunnel,
				Queues: 1, Yardstick: way == byLoop,
				Peers: map[netip.Prefix]netip.Addr{subnets[1-i]: other.Addr},
			}
			if change != nil {
				change(&e)
			}
			p.procs[i] = startEngine(t, h, e)
		case byVXLAN:
			mtu = 1450
			makeVXLAN(t, h, i, other)
		case byRoute:
			check(t, h.AddRoute(lab.Route{Dst: subnets[1-i], Via: other.Addr}))
		}
		p.pods[i], err = h.AddPod("pod", map[string]string{
			"FLANNEL_SUBNET": netip.PrefixFrom(subnets[i].Addr().Next(), 24).String(),
			"FLANNEL_MTU":    fmt.Sprint(mtu),
		})
		check(t, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.pods[0].WaitPing(ctx, p.pods[1].Addr); err != nil {
		t.Fatalf("%v\n%s", err, p.logs())
	}
	return p
}

func (p *pair) logs() string {
	var b strings.Builder
	for _, proc := range p.procs {
		if proc != nil {
			b.WriteString(proc.Log())
		}
	}
	return b.String()
}

// makeDevice makes a TUN device as the daemon would: with an address, up, and a
// route to the whole network.
func makeDevice(t testing.TB, h *lab.Host, i, mtu int) string {
	t.Helper()
	var name string
	check(t, h.Do(func() error {
		var err error
		name, err = tun.Create("flannel%d", "")
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	}))
	check(t, h.AddAddr(name, netip.PrefixFrom(subnets[i].Addr(), 32)))
	check(t, h.AddRoute(lab.Route{Dst: network, Dev: name}))
	return name
}

func makeVXLAN(t testing.TB, h *lab.Host, i int, other *lab.Host) {
	t.Helper()
	mac := func(i int) []byte { return []byte{2, 2, 2, 2, 2, byte(i)} }
	check(t, h.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = "flannel.1", 1450, mac(i)
		v := &netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: 1, VtepDevIndex: eth0.Attrs().Index,
			SrcAddr: h.Addr.AsSlice(), Port: 8472,
		}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(v); err != nil {
			return err
		}
		gw := subnets[1-i].Addr().AsSlice()
		for _, n := range []netlink.Neigh{
			{LinkIndex: v.Index, State: netlink.NUD_PERMANENT, IP: gw, HardwareAddr: mac(1 - i)},
			{
				LinkIndex: v.Index, State: netlink.NUD_PERMANENT, Family: syscall.AF_BRIDGE,
				Flags: netlink.NTF_SELF, IP: other.Addr.AsSlice(), HardwareAddr: mac(1 - i),
			},
		} {
			if err := netlink.NeighSet(&n); err != nil {
				return err
			}
		}
		_, dst, err := net.ParseCIDR(subnets[1-i].String())
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{
			LinkIndex: v.Index, Dst: dst, Gw: gw, Flags: int(netlink.FLAG_ONLINK),
		})
	}))
}

func startEngine(t testing.TB, h *lab.Host, e engine) *lab.Process {
	t.Helper()
	text, err := json.Marshal(e)
	check(t, err)
	proc, err := h.Start("engine", []string{"/proc/self/exe"}, []string{engineEnv + "=" + string(text)}, lab.ProcessOptions{})
	check(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	check(t, proc.WaitLog(ctx, "ready\n"))
	return proc
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
