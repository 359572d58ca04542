package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/firewall"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

const (
	// firewallQuiet is how long packet filters must not change before they are examined:
	// whoever changes them comes to an end first, and then our own rules are put right.
	firewallQuiet = 2 * time.Second
	// firewallAgain is the same once something was found: when that is mended, it is said
	// soon.
	firewallAgain = 200 * time.Millisecond
	// firewallLongest is how long filters that change all the time are not examined.
	firewallLongest = 4 * time.Second
	// firewallRest is how long they are left alone after they were, at least.
	firewallRest = 500 * time.Millisecond
	// firewallRetry is how soon they are examined again after that failed.
	firewallRetry = 30 * time.Second
	// firewallShare is how many times as long as it took of a processor they are left alone.
	firewallShare = 20
)

// followFirewalls reports what others' packet filters keep from its way, whenever they
// change, or what has to pass them.
func (d *daemon) followFirewalls(ctx context.Context) error {
	if d.options.rules == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.reconciler.Ready():
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.watchFirewalls(ctx) })
	g.Go(func() error { return d.examineFirewalls(ctx) })
	return g.Wait()
}

// watchFirewalls passes on that packet filters changed.
func (d *daemon) watchFirewalls(ctx context.Context) error {
	for {
		err := firewall.Watch(ctx, func() { once.Wake(d.filters) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			return nil
		}
		if d.notices.State("watching the packet filters", err.Error()) {
			klog.Errorf("watching the packet filters, trying again: %v", err)
		}
		if err := once.Sleep(ctx, retryPause); err != nil {
			return err
		}
	}
}

func (d *daemon) examineFirewalls(ctx context.Context) error {
	again := time.AfterFunc(firewallRetry, func() { once.Wake(d.filters) })
	again.Stop()
	defer again.Stop()
	pause := firewallQuiet
	for {
		if err := d.awaitQuiet(ctx, pause); err != nil {
			return err
		}
		var found []network.Obstacle
		var err error
		took := processorTime(func() { found, err = d.findFirewalls(ctx) })
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, firewall.ErrChanging):
			once.Wake(d.filters) // what was found before stays
		case err != nil:
			if d.notices.State("packet filters", err.Error()) {
				klog.Warningf("it is not known whether a firewall on this host is in the way: %v", err)
			}
			again.Reset(firewallRetry) // no change may follow
		default:
			d.notices.Over("packet filters")
			pause = firewallQuiet
			if len(found) > 0 {
				pause = firewallAgain
			}
			d.obstacles.report("firewall", found)
		}
		if err := once.Sleep(ctx, max(firewallRest, firewallShare*took)); err != nil {
			return err
		}
	}
}

// processorTime returns how long f has a processor: on a busy machine it takes longer.
func processorTime(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before)
	f()
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after)
	return time.Duration(after.Nano() - before.Nano())
}

// awaitQuiet waits for a change, and then until there is no other one for as long as pause.
func (d *daemon) awaitQuiet(ctx context.Context, pause time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.filters:
	}
	quiet, longest := time.NewTimer(pause), time.NewTimer(firewallLongest)
	defer quiet.Stop()
	defer longest.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.filters:
			quiet.Reset(pause)
		case <-quiet.C:
			return nil
		case <-longest.C:
			return nil
		}
	}
}

// findFirewalls returns what packet filters keep from its way now.
func (d *daemon) findFirewalls(ctx context.Context) ([]network.Obstacle, error) {
	ifaces, err := d.machine.Interfaces(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	t := newTraffic(d.backend, d.host, d.holding, d.desiredPeers, ifaces)
	d.podsIface = t.pods.Name
	d.mu.Unlock()
	var found, before []network.Obstacle
	looks := 0
	err = firewall.Read(ctx, func(rs *firewall.Ruleset) {
		before, found = found, t.examine(rs)
		looks++
	})
	if errors.Is(err, firewall.ErrChanging) && looks > 1 && slices.Equal(before, found) {
		err = nil // what changes all the time has nothing to do with it
	}
	return found, err
}

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
func newTraffic(b backend.Backend, h backend.Host, holding subnet.Holding, peers []*subnet.Lease, ifaces []kernel.Interface) traffic {
	if holding.Own == nil {
		return traffic{}
	}
	t := traffic{addr: h.Addr.V4, own: holding.Own.Subnet.V4, network: holding.Config.Network().V4}
	tunnel := ""
	for _, o := range b.Local(h, holding.Config.Network(), holding.Own) {
		if d, ok := state.DatagramsOf(o); ok {
			tunnel, t.port, t.srcPort = d.Dev, d.Port, d.SrcPort
		}
	}
	t.external, t.tunnel = firewall.Iface{Name: h.Iface}, firewall.Iface{Name: tunnel, Pods: true}
	for _, i := range ifaces {
		is := firewall.Iface{Name: i.Name, Index: i.Index, Bridge: i.Bridge}
		switch i.Name {
		case h.Iface:
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
	some := min(len(peers), maxRemotes)
	for n := range some {
		l := peers[n*len(peers)/some]
		objects, err := b.Peer(h, holding.Own, l)
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
func (t traffic) examine(rs *firewall.Ruleset) []network.Obstacle {
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
	var obstacles []network.Obstacle
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

// maxNamed is how many peers an obstacle names.
const maxNamed = 3

func (t traffic) obstacle(c *closed) network.Obstacle {
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
		return network.Obstacle{
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
	return network.Obstacle{
		Subject: t.network.String(),
		Problem: fmt.Sprintf("%s drops %s between %s (%s)", c.drop.TableName(), what, who, c.drop.Rule()),
		Remedy:  c.drop.OpenNetwork(t.network),
	}
}
