package dist_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// cniHost is a host with CNI plugins, and the directories that they see as /run and
// /var/lib in place of this machine's.
type cniHost struct {
	*host
	run, lib, config, plugins string
}

// installCNI installs the plugins on a host, and the configuration that is shipped.
func (h *host) installCNI() *cniHost {
	h.n.t.Helper()
	c := &cniHost{host: h, run: filepath.Join(h.Dir, "run"), lib: filepath.Join(h.Dir, "lib")}
	var err error
	c.config, err = filepath.Abs("cni")
	check(h.n.t, err)
	c.plugins, err = filepath.Abs("../build/cni")
	check(h.n.t, err)
	for _, dir := range []string{c.run, c.lib} {
		check(h.n.t, os.MkdirAll(dir, 0o755))
	}
	return c
}

// start runs flanneld as Documentation/cni.md says, with its subnet file where the
// plugin looks for it.
func (c *cniHost) start() *lab.Daemon {
	c.n.t.Helper()
	d, err := c.StartFlanneld(daemonBinary, "-ip-masq", "-subnet-file="+filepath.Join(c.run, "flannel/subnet.env"))
	check(c.n.t, err)
	c.n.t.Cleanup(d.Kill)
	check(c.n.t, d.WaitReady(c.n.ctx))
	return d
}

// call does what a container runtime does for a pod, with these variables, and
// returns what the plugins said.
func (c *cniHost) call(command string, pod *lab.Namespace, env ...string) string {
	c.n.t.Helper()
	const script = `mount --bind "$1" /run && mount --bind "$2" /var/lib && exec "$3"/cnitool "$4" flannel "$5"`
	return c.command(append(env, "NETCONFPATH="+c.config, "CNI_PATH="+c.plugins),
		"unshare", "--mount", "sh", "-c", script, "sh", c.run, c.lib, c.plugins, command, pod.Path())
}

// command runs a program on the host and returns what it wrote.
func (h *host) command(env []string, argv ...string) string {
	h.n.t.Helper()
	p, err := h.Start(filepath.Base(argv[0]), argv, env, lab.ProcessOptions{})
	check(h.n.t, err)
	code, err := p.Wait(h.n.ctx)
	check(h.n.t, err)
	if code != 0 {
		h.n.t.Fatalf("%q on %s ended with %d: %s", argv, h.Name, code, p.Log())
	}
	return p.Log()
}

// pod is a namespace that the plugins have given an address.
type pod struct {
	*lab.Namespace
	c    *cniHost
	env  []string // of all calls for it
	addr netip.Addr
}

// add makes a pod.
func (c *cniHost) add(name string, env ...string) *pod {
	c.n.t.Helper()
	sandbox, err := c.AddSandbox(name)
	check(c.n.t, err)
	text := c.call("add", sandbox, env...)
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal([]byte(text), &result); err != nil || len(result.IPs) != 1 {
		c.n.t.Fatalf("the plugins said (%v):\n%s", err, text)
	}
	return &pod{Namespace: sandbox, c: c, env: env, addr: result.IPs[0].Address.Addr()}
}

// del has the plugins take the pod's network away, and ends the pod.
func (p *pod) del() {
	p.c.n.t.Helper()
	p.c.call("del", p.Namespace, p.env...)
	if addrs, err := p.Addrs("eth0"); err == nil {
		p.c.n.t.Errorf("%s still has the addresses %s", p.Name, addrs)
	}
	p.Close()
}

// wantInSubnet checks that the pod has what its host's subnet file says.
func (p *pod) wantInSubnet(env map[string]string) {
	t := p.c.n.t
	t.Helper()
	bridge, err := netip.ParsePrefix(env["FLANNEL_SUBNET"])
	check(t, err)
	if got, err := p.Addrs("eth0"); err != nil || !slices.Contains(got, netip.PrefixFrom(p.addr, bridge.Bits())) {
		t.Errorf("%s has the addresses %s (%v), and the plugins said %s", p.Name, got, err, p.addr)
	}
	if !bridge.Contains(p.addr) || p.addr == bridge.Addr() {
		t.Errorf("%s has the address %s in the subnet %s", p.Name, p.addr, bridge)
	}
	if got, err := p.c.Addrs("cni0"); err != nil || !slices.Contains(got, bridge) {
		t.Errorf("cni0 has the addresses %s (%v), want %s", got, err, bridge)
	}
	if mtu, err := p.MTU("eth0"); strconv.Itoa(mtu) != env["FLANNEL_MTU"] {
		t.Errorf("%s has the MTU %d (%v), want %s", p.Name, mtu, err, env["FLANNEL_MTU"])
	}
	p.c.call("check", p.Namespace, p.env...)
}

// wantReaches checks that a pod pings another, which sees it by its own address.
func (p *pod) wantReaches(to *pod) {
	t := p.c.n.t
	t.Helper()
	check(t, p.WaitPing(p.c.n.ctx, to.addr))
	if from := to.accept(p.Namespace, netip.AddrPortFrom(to.addr, 80)); from != p.addr {
		t.Errorf("%s connects to %s as %s", p.addr, to.addr, from)
	}
}

// accept has the pod listen at port 80 and a client connect to an address that leads
// there, and returns whom the pod sees.
func (p *pod) accept(client *lab.Namespace, addr netip.AddrPort) netip.Addr {
	t := p.c.n.t
	t.Helper()
	var listener *net.TCPListener
	check(t, p.Do(func() (err error) {
		listener, err = net.ListenTCP("tcp4", &net.TCPAddr{Port: 80})
		return err
	}))
	defer listener.Close()
	check(t, listener.SetDeadline(time.Now().Add(soon)))
	ctx, cancel := context.WithTimeout(p.c.n.ctx, soon)
	defer cancel()
	conn, err := client.DialContext(ctx, "tcp", addr.String())
	check(t, err)
	defer conn.Close()
	accepted, err := listener.AcceptTCP()
	check(t, err)
	defer accepted.Close()
	return accepted.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
}

// remains are what the plugins know of pods, and what there is of them on the host:
// an address, a veth, the options of the delegate, and the chain of the ports.
func (c *cniHost) remains() []string {
	t := c.n.t
	t.Helper()
	var all []string
	check(t, filepath.WalkDir(c.lib, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && entry.Name() != "lock" && entry.Name() != "last_reserved_ip.0" {
			all = append(all, strings.TrimPrefix(path, c.lib))
		}
		return err
	}))
	check(t, c.Do(func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if strings.HasPrefix(link.Name, "veth") {
				all = append(all, link.Name)
			}
		}
		return err
	}))
	for line := range strings.Lines(c.command(nil, "iptables", "-t", "nat", "-S")) {
		if strings.HasPrefix(line, "-N CNI-DN-") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}

// Pods of two hosts, made by the plugins that runtimes use, reach each other with
// each backend, and nothing stays of those that are gone.
func TestCNI(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	for _, backend := range []string{"vxlan", "host-gw", "udp"} {
		t.Run(backend, func(t *testing.T) {
			n := n.in(t)
			n.configure("10.5.0.0/16", backend)
			const port8080 = `CAP_ARGS={"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}`
			var pods []*pod
			var bridges []netip.Addr
			for _, h := range n.hosts {
				c := h.installCNI()
				daemon := c.start()
				bridges = append(bridges, netip.MustParsePrefix(daemon.Env()["FLANNEL_SUBNET"]).Addr())
				p := c.add("pod-"+backend, port8080)
				p.wantInSubnet(daemon.Env())
				if got := c.remains(); len(got) != 5 { // one of each kind, and the runtime's own note
					t.Errorf("of a pod there is %q", got)
				}
				pods = append(pods, p)
			}
			pods[0].wantReaches(pods[1])
			pods[1].wantReaches(pods[0])
			check(t, pods[0].WaitPing(n.ctx, n.server.Addr)) // outside, as the host
			if from := pods[0].accept(n.hosts[1].Namespace, netip.AddrPortFrom(n.hosts[0].Addr, 8080)); from != n.hosts[1].Addr {
				t.Errorf("%s connects to a port of %s as %s", n.hosts[1].Addr, n.hosts[0].Addr, from)
			}
			// The way to itself: the plugin has the bridge's address stand for the pod's.
			if from := pods[0].accept(pods[0].Namespace, netip.AddrPortFrom(n.hosts[0].Addr, 8080)); from != bridges[0] {
				t.Errorf("a pod connects to its own port of the host as %s", from)
			}
			for _, p := range pods {
				p.del()
				if got := p.c.remains(); len(got) > 0 {
					t.Errorf("of a pod that is gone there is %q", got)
				}
			}
		})
	}
}

func followCNI(g *guide) {
	g.lay("192.168.0.2", 2, nil)
	g.startEtcd()
	g.install(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	h, other := g.nodes[0], g.nodes[1]
	for _, h := range g.nodes {
		check(g.t, os.CopyFS(filepath.Join(h.sys.Root, "opt/cni/bin"), os.DirFS("../build/cni")))
		h.run("ln", "-s", "/opt/cni/bin/cnitool", "/usr/local/bin/")
	}
	g.run("install", h, other)
	g.run("echo FLANNELD_IP_MASQ", h, other)
	g.run("ip netns add pod", h, other)
	g.run("$ ip netns exec pod ip address show eth0", h)
	addr := strings.Fields(other.run("ip", "netns", "exec", "pod", "ip", "-4", "-o", "address", "show", "eth0"))[3]
	to := netip.MustParsePrefix(addr).Addr().String()
	h.run("ip", "netns", "exec", "pod", "busybox", "ping", "-c", "1", "-W", "5", to)
	h.run("ip", "netns", "exec", "pod", "busybox", "ping", "-c", "1", "-W", "5", g.server.Addr.String())
	g.run("NETCONFPATH=", h, other)
	for _, h := range g.nodes {
		if left := h.run("ip", "netns") + h.run("sh", "-c", "ip link | grep veth || true"); left != "" {
			g.t.Errorf("of a pod that is gone there is\n%s", left)
		}
	}
}

// The addresses of pods that are gone go to others, also in a subnet that is small.
func TestCNIAddressesAreUsedAgain(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/27", "host-gw") // the subnets are /29
	c := n.hosts[0].installCNI()
	env := c.start().Env()
	const most = 5 // of 8 addresses; the first, the last and the bridge's are not for pods
	for round := range 2 {
		var pods []*pod
		given := map[netip.Addr]bool{}
		for i := range most {
			p := c.add(fmt.Sprintf("pod%d-%d", round, i))
			p.wantInSubnet(env)
			given[p.addr] = true
			pods = append(pods, p)
		}
		if len(given) != most {
			t.Errorf("%d pods have the addresses %v", most, given)
		}
		for _, p := range pods {
			p.del()
		}
	}
}
