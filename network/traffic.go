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

// traffic is what has to pass this host's packet filters for the pods of a family.
type traffic struct {
	family  ip.Family
	tunnels []exit
	direct  exit           // what peers are reached by without one
	pods    firewall.Iface // of this host
	gateway netip.Addr     // of the pods: this host's address there
	own     netip.Prefix
	network netip.Prefix
	peers   []remote // of many, some
}

// exit is an interface by which peers are reached, and what its packets leave in.
type exit struct {
	iface    firewall.Iface
	external firewall.Iface
	addr     netip.Addr // of this host
	port     uint16     // 0 if packets leave as they are
	srcPort  uint16     // the same for datagrams' source; 0 if it may be any
}

// remote is a peer, and the way by which its packets come.
type remote struct {
	subnet netip.Prefix
	public netip.Addr
	way    exit
}

const (
	// maxRemotes is how many peers are looked at one by one.
	maxRemotes = 64
	// maxFirewallSteps bounds with how many rules packets are compared for that: some 50 ms.
	maxFirewallSteps = 500_000
)

// trafficOf tells what passes on a host, for each family.
func trafficOf(w *Desired, ifaces []kernel.Interface) (all []traffic) {
	if w == nil {
		return nil
	}
	for _, f := range w.Own.Subnet.Families() {
		all = append(all, newTraffic(w, f, ifaces))
	}
	return all
}

func newTraffic(w *Desired, f ip.Family, ifaces []kernel.Interface) traffic {
	t := traffic{family: f, own: w.Own.Subnet.Of(f), network: w.Config.Network().Of(f)}
	named := func(name string) firewall.Iface {
		if i := byName(ifaces, name); i != nil {
			return firewall.Iface{Name: i.Name, Index: i.Index, Bridge: i.Bridge}
		}
		return firewall.Iface{Name: name}
	}
	host := w.Host.Of(f)
	t.direct = exit{iface: named(host.Iface), external: named(host.Iface), addr: host.Addr}
	ours := []string{host.Iface}
	for _, o := range w.Backend.Local(w.Host, w.Config.Network(), w.Own) {
		d, ok := state.DatagramsOf(o)
		if !ok {
			continue
		}
		under := w.Host.Of(d.Family)
		via := exit{iface: named(d.Dev), external: named(under.Iface), addr: under.Addr, port: d.Port, srcPort: d.SrcPort}
		via.iface.Pods = true
		t.tunnels = append(t.tunnels, via)
		ours = append(ours, d.Dev, under.Iface)
	}
	for _, i := range ifaces {
		for _, a := range i.Addrs {
			if t.own.Contains(a.Prefix.Addr()) && !a.Prefix.IsSingleIP() && !slices.Contains(ours, i.Name) {
				t.pods, t.gateway = named(i.Name), a.Prefix.Addr()
				t.pods.Pods = true
			}
		}
	}
	some := min(len(w.Peers), maxRemotes)
	for n := range some {
		l := w.Peers[n*len(w.Peers)/some]
		if !l.Subnet.Of(f).IsValid() {
			continue
		}
		objects, err := w.Backend.Peer(w.Host, f, w.Own, l)
		if err != nil || len(objects) == 0 {
			continue
		}
		r := remote{subnet: l.Subnet.Of(f), way: t.direct}
		for _, via := range t.tunnels {
			if slices.ContainsFunc(objects, func(o state.Object) bool { return leads(o, via.iface.Name) }) {
				r.way = via
			}
		}
		if r.way.addr.IsValid() {
			r.public = l.PublicIP.Of(ip.FamilyOf(r.way.addr))
		}
		t.peers = append(t.peers, r)
	}
	return t
}

// leads reports whether an object leads packets to a peer into a tunnel.
func leads(o state.Object, tunnel string) bool {
	path, ok := state.PathOf(o)
	if ok && path.Host.IsValid() {
		return state.Needs(o)[0].Scope == tunnel
	}
	return ok && path.Dev == tunnel
}

// subject is what a sample stands for.
type subject int

const (
	podsPackets subject = iota
	datagrams           // of the tunnel
	discovery           // by which IPv6 hosts on a link find each other
)

// closed is what a chain keeps from its way.
type closed struct {
	drop     firewall.Drop
	subject  subject
	outbound bool // with datagrams
	port     uint16
	iface    string // that datagrams and discovery are at
	protos   map[byte]bool
	all      bool // whichever peer it comes from or goes to
	peers    []string
}

// examine leads samples of the traffic through rules.
func (t traffic) examine(rs *firewall.Ruleset) []Obstacle {
	var all []*closed
	add := func(s sample, p firewall.Packet, r *remote) (found, vague bool) {
		drops, vague := rs.Drops(p)
		for _, drop := range drops {
			c := closed{drop: drop, subject: s.subject, outbound: s.subject == datagrams && p.Path == firewall.Outbound, port: s.port, iface: s.iface}
			i := slices.IndexFunc(all, func(is *closed) bool { return is.sameAs(c) })
			if i < 0 {
				i = len(all)
				c.protos = make(map[byte]bool)
				all = append(all, &c)
			}
			all[i].protos[p.Proto] = true
			if r == nil {
				all[i].all = true
			} else if name := r.name(s.subject == datagrams); !slices.Contains(all[i].peers, name) {
				all[i].peers = append(all[i].peers, name)
			}
		}
		return len(drops) > 0, vague
	}
	var ways []exit
	for _, r := range t.peers {
		if !slices.Contains(ways, r.way) {
			ways = append(ways, r.way)
		}
	}
	for _, way := range ways {
		for _, sample := range t.samples(way) {
			everyone := remote{subnet: t.network, way: way}
			found, vague := add(sample, sample.packet(everyone), nil)
			for i, r := range t.peers {
				if found || !vague || sample.subject == discovery || rs.Steps() > maxFirewallSteps {
					break
				}
				if r.way == way {
					add(sample, sample.packet(r), &t.peers[i])
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
	subject subject
	iface   string // as in closed
	port    uint16
	packet  func(remote) firewall.Packet
}

// samples are those for peers whose packets come by a way.
func (t traffic) samples(way exit) []sample {
	var all []sample
	if way.port != 0 && way.addr.IsValid() {
		host := func(r remote) netip.Prefix {
			if r.public.IsValid() {
				return single(r.public)
			}
			return anyone(ip.FamilyOf(way.addr))
		}
		us := single(way.addr)
		of := sample{subject: datagrams, iface: way.external.Name, port: way.port}
		in, out := of, of
		in.packet = func(r remote) firewall.Packet {
			return firewall.Packet{Path: firewall.Inbound, In: way.external, Src: host(r), Dst: us, Proto: unix.IPPROTO_UDP, SrcPort: way.srcPort, DstPort: way.port}
		}
		out.packet = func(r remote) firewall.Packet {
			return firewall.Packet{Path: firewall.Outbound, Out: way.external, Src: us, Dst: host(r), Proto: unix.IPPROTO_UDP, SrcPort: way.srcPort, DstPort: way.port}
		}
		all = append(all, in, out)
	}
	all = append(all, discoveries(way.external, way.addr)...)
	if t.pods.Name != "" {
		all = append(all, discoveries(t.pods, t.gateway)...)
	}
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		all = append(all, sample{packet: func(r remote) firewall.Packet {
			return firewall.Packet{Path: firewall.Forwarded, In: way.iface, Out: t.pods, Src: r.subnet, Dst: t.own, Proto: proto, Pods: true}
		}})
		if t.pods.Name != "" {
			all = append(all, sample{packet: func(r remote) firewall.Packet {
				return firewall.Packet{Path: firewall.Forwarded, In: t.pods, Out: way.iface, Src: t.own, Dst: r.subnet, Proto: proto, Pods: true}
			}})
		}
	}
	return all
}

// single is the prefix of one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// anyone is all addresses of a family.
func anyone(f ip.Family) netip.Prefix {
	if f == ip.V4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// solicited are the multicast addresses by which IPv6 hosts are asked for; all begin as these.
var solicited = netip.MustParsePrefix("ff02::1:ff00:0/104")

// discoveries are the samples of what others on an interface's link, which may be pods, and
// this host, which has an address there, find each other by. There are none in IPv4: ARP does
// not come to these filters.
func discoveries(iface firewall.Iface, addr netip.Addr) (all []sample) {
	if !addr.Is6() {
		return nil
	}
	last := addr.As16()
	asked := solicited.Addr().As16()
	copy(asked[13:], last[13:])
	everyone := anyone(ip.V6)
	in := firewall.Packet{Path: firewall.Inbound, In: iface, Src: everyone, Proto: unix.IPPROTO_ICMPV6}
	out := firewall.Packet{Path: firewall.Outbound, Out: iface, Src: single(addr), Proto: unix.IPPROTO_ICMPV6}
	for _, one := range []struct {
		firewall.Packet
		typ byte
		to  netip.Prefix
	}{
		{in, firewall.NeighborSolicit, single(netip.AddrFrom16(asked))},
		{in, firewall.NeighborAdvert, single(addr)},
		{out, firewall.NeighborSolicit, solicited},
		{out, firewall.NeighborAdvert, everyone},
	} {
		p := one.Packet
		p.ICMPType, p.Dst = one.typ, one.to
		all = append(all, sample{subject: discovery, iface: iface.Name, packet: func(remote) firewall.Packet { return p }})
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
	return c.subject == d.subject && c.outbound == d.outbound && c.port == d.port && c.iface == d.iface && c.drop.TableName() == d.drop.TableName() && c.drop.Base == d.drop.Base
}

func (t traffic) obstacle(c *closed) Obstacle {
	who := "peers"
	if all := len(c.peers) == len(t.peers); !c.all && !all {
		who = strings.Join(c.peers[:min(len(c.peers), maxNamed)], ", ")
		if more := len(c.peers) - maxNamed; more > 0 {
			who += fmt.Sprintf(" and %d more", more)
		}
	}
	switch c.subject {
	case datagrams:
		what := fmt.Sprintf("from %s on %s", who, c.iface)
		if c.outbound {
			what = fmt.Sprintf("to %s by %s", who, c.iface)
		}
		return Obstacle{
			Subject: fmt.Sprintf("UDP port %d", c.port),
			Problem: fmt.Sprintf("%s drops the tunnel's datagrams %s (%s)", c.drop.TableName(), what, c.drop.Rule()),
			Remedy:  c.drop.OpenPort(c.port, c.outbound),
		}
	case discovery:
		return Obstacle{
			Subject: "IPv6 on " + c.iface,
			Problem: fmt.Sprintf("%s drops the packets by which neighbours there find each other (%s)", c.drop.TableName(), c.drop.Rule()),
			Remedy:  c.drop.OpenDiscovery(),
		}
	case podsPackets:
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
