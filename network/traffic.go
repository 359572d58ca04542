package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/firewall"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// traffic is what has to pass this host's packet filters.
type traffic struct {
	external firewall.Iface
	addr     netip.Addr // of this host
	port     uint16     // of the tunnel; 0 if there is none
	srcPort  uint16     // the same for datagrams' source; 0 if it may be any
	tunnel   firewall.Iface
	pods     firewall.Iface // of this host
	own      netip.Prefix
	network  netip.Prefix
	peers    []remote // of many, some
}

// remote is a peer, and the interface by which its packets come.
type remote struct {
	subnet netip.Prefix
	public netip.Addr
	iface  firewall.Iface
}

const (
	// maxRemotes is how many peers are looked at one by one.
	maxRemotes = 64
	// maxFirewallSteps bounds with how many rules packets are compared for that: some 50 ms.
	maxFirewallSteps = 500_000
)

// newTraffic tells what passes on a host.
func newTraffic(w *Desired, ifaces []kernel.Interface) traffic {
	if w == nil {
		return traffic{}
	}
	t := traffic{addr: w.Host.V4.Addr, own: w.Own.Subnet.V4, network: w.Config.Network().V4}
	tunnel := ""
	for _, o := range w.Backend.Local(w.Host, w.Config.Network(), w.Own) {
		if d, ok := state.DatagramsOf(o); ok {
			tunnel, t.port, t.srcPort = d.Dev, d.Port, d.SrcPort
		}
	}
	t.external, t.tunnel = firewall.Iface{Name: w.Host.V4.Iface}, firewall.Iface{Name: tunnel, Pods: true}
	for _, i := range ifaces {
		is := firewall.Iface{Name: i.Name, Index: i.Index, Bridge: i.Bridge}
		switch i.Name {
		case w.Host.V4.Iface:
			t.external = is
		case tunnel:
			is.Pods = true
			t.tunnel = is
		default:
			if slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool { return t.own.Contains(a.Prefix.Addr()) && !a.Prefix.IsSingleIP() }) {
				is.Pods = true
				t.pods = is
			}
		}
	}
	some := min(len(w.Peers), maxRemotes)
	for n := range some {
		l := w.Peers[n*len(w.Peers)/some]
		objects, err := w.Backend.Peer(w.Host, ip.V4, w.Own, l)
		if err != nil || len(objects) == 0 {
			continue
		}
		r := remote{l.Subnet.V4, l.PublicIP.V4, t.external}
		if slices.ContainsFunc(objects, func(o state.Object) bool { return through(o, tunnel) }) {
			r.iface = t.tunnel
		}
		t.peers = append(t.peers, r)
	}
	return t
}

// through reports whether an object leads packets to a peer into the tunnel.
func through(o state.Object, tunnel string) bool {
	path, ok := state.PathOf(o)
	return ok && path.Host.IsValid() || tunnel != "" && state.PeerDevice(o) == tunnel
}

// closed is what a chain keeps from its way.
type closed struct {
	drop     firewall.Drop
	port     bool // of the tunnel, else what pods send
	outbound bool // with port
	protos   map[byte]bool
	all      bool // whichever peer it comes from or goes to
	peers    []string
}

// anyone is all addresses there are.
var anyone = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// examine leads samples of the traffic through rules.
func (t traffic) examine(rs *firewall.Ruleset) []Obstacle {
	var all []*closed
	add := func(p firewall.Packet, port bool, r *remote) (found, vague bool) {
		drops, vague := rs.Drops(p)
		for _, drop := range drops {
			c := closed{drop: drop, port: port, outbound: port && p.Path == firewall.Outbound}
			i := slices.IndexFunc(all, func(is *closed) bool { return is.sameAs(c) })
			if i < 0 {
				i = len(all)
				c.protos = make(map[byte]bool)
				all = append(all, &c)
			}
			all[i].protos[p.Proto] = true
			if r == nil {
				all[i].all = true
			} else if name := r.name(port); !slices.Contains(all[i].peers, name) {
				all[i].peers = append(all[i].peers, name)
			}
		}
		return len(drops) > 0, vague
	}
	var ifaces []firewall.Iface
	for _, r := range t.peers {
		if !slices.Contains(ifaces, r.iface) {
			ifaces = append(ifaces, r.iface)
		}
	}
	for _, iface := range ifaces {
		for _, sample := range t.samples(iface) {
			everyone := remote{subnet: t.network, iface: iface}
			found, vague := add(sample.packet(everyone), sample.port, nil)
			for i, r := range t.peers {
				if found || !vague || rs.Steps() > maxFirewallSteps {
					break
				}
				if r.iface == iface {
					add(sample.packet(r), sample.port, &t.peers[i])
				}
			}
		}
	}
	var obstacles []Obstacle
	for _, c := range all {
		obstacles = append(obstacles, t.obstacle(c))
	}
	return obstacles
}

// sample makes a packet that comes from, or goes to, a peer.
type sample struct {
	port   bool
	packet func(remote) firewall.Packet
}

// samples are those for peers whose packets come by an interface.
func (t traffic) samples(iface firewall.Iface) []sample {
	var all []sample
	if t.port != 0 && iface == t.tunnel {
		host := func(r remote) netip.Prefix {
			if r.public.IsValid() {
				return netip.PrefixFrom(r.public, 32)
			}
			return anyone
		}
		us := netip.PrefixFrom(t.addr, 32)
		all = append(all, sample{true, func(r remote) firewall.Packet {
			return firewall.Packet{Path: firewall.Inbound, In: t.external, Src: host(r), Dst: us, Proto: unix.IPPROTO_UDP, SrcPort: t.srcPort, DstPort: t.port}
		}}, sample{true, func(r remote) firewall.Packet {
			return firewall.Packet{Path: firewall.Outbound, Out: t.external, Src: us, Dst: host(r), Proto: unix.IPPROTO_UDP, SrcPort: t.srcPort, DstPort: t.port}
		}})
	}
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		all = append(all, sample{false, func(r remote) firewall.Packet {
			return firewall.Packet{Path: firewall.Forwarded, In: iface, Out: t.pods, Src: r.subnet, Dst: t.own, Proto: proto, Pods: true}
		}})
		if t.pods.Name != "" {
			all = append(all, sample{false, func(r remote) firewall.Packet {
				return firewall.Packet{Path: firewall.Forwarded, In: t.pods, Out: iface, Src: t.own, Dst: r.subnet, Proto: proto, Pods: true}
			}})
		}
	}
	return all
}

func (r remote) name(public bool) string {
	if public {
		return r.public.String()
	}
	return r.subnet.String()
}

// sameAs reports whether what opens one of the two opens the other.
func (c *closed) sameAs(d closed) bool {
	return c.port == d.port && c.outbound == d.outbound && c.drop.TableName() == d.drop.TableName() && c.drop.Base == d.drop.Base
}

func (t traffic) obstacle(c *closed) Obstacle {
	who := "peers"
	if all := len(c.peers) == len(t.peers); !c.all && !all {
		who = strings.Join(c.peers[:min(len(c.peers), maxNamed)], ", ")
		if more := len(c.peers) - maxNamed; more > 0 {
			who += fmt.Sprintf(" and %d more", more)
		}
	}
	if c.port {
		what := fmt.Sprintf("from %s on %s", who, t.external.Name)
		if c.outbound {
			what = fmt.Sprintf("to %s by %s", who, t.external.Name)
		}
		return Obstacle{
			Subject: fmt.Sprintf("UDP port %d", t.port),
			Problem: fmt.Sprintf("%s drops the tunnel's datagrams %s (%s)", c.drop.TableName(), what, c.drop.Rule()),
			Remedy:  c.drop.OpenPort(t.port, c.outbound),
		}
	}
	what := "packets"
	switch {
	case !c.protos[unix.IPPROTO_TCP]:
		what = "UDP"
	case !c.protos[unix.IPPROTO_UDP]:
		what = "TCP"
	}
	if who == "peers" {
		who = "pods"
	} else {
		who = "pods here and at " + who
	}
	return Obstacle{
		Subject: t.network.String(),
		Problem: fmt.Sprintf("%s drops %s between %s (%s)", c.drop.TableName(), what, who, c.drop.Rule()),
		Remedy:  c.drop.OpenNetwork(t.network),
	}
}
