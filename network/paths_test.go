package network

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// pathFixture answers as a host that has all routes that are desired, and foreign ones.
type pathFixture struct {
	PathView
	mu      sync.Mutex
	foreign []kernel.TableRoute
	routed  map[netip.Addr]bool // hosts behind a router
	strict  bool                // about where packets are from that come in by eth0
	refused map[netip.Addr]bool // hosts whose packets are dropped for that
	down    bool
	late    bool // our routes come back after the kernel was asked for paths
	asked   []netip.Addr
	// meanwhile is called once, while the kernel is asked for paths; fails is the error of that.
	meanwhile func()
	fails     error
}

func (w *pathFixture) Interfaces(context.Context) ([]kernel.Interface, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return []kernel.Interface{{Name: "eth0", Up: true, StrictSource: w.strict, Addrs: []kernel.Address{{Prefix: hostNet}}}}, nil
}

func (w *pathFixture) Rules(context.Context, ip.Family) ([]kernel.Rule, error) { return nil, nil }

func (w *pathFixture) ForeignRoutes(_ context.Context, _ ip.Family, counts func(netip.Prefix) bool) ([]kernel.TableRoute, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.foreign), func(r kernel.TableRoute) bool { return !counts(r.Dst) }), nil
}

func (w *pathFixture) Paths(_ context.Context, queries []kernel.PathQuery) ([]kernel.Path, error) {
	w.mu.Lock()
	meanwhile := w.meanwhile
	w.meanwhile = nil
	w.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails != nil {
		return nil, w.fails
	}
	paths := make([]kernel.Path, len(queries))
	for i, q := range queries {
		w.asked = append(w.asked, q.To)
		if paths[i] = w.path(q.To); q.IIF == "eth0" && w.refused[q.From] {
			paths[i] = kernel.Path{Err: unix.EXDEV}
		}
	}
	return paths, nil
}

func (w *pathFixture) path(to netip.Addr) kernel.Path {
	if w.down {
		return kernel.Path{Err: unix.ENETUNREACH}
	}
	for _, r := range w.foreign {
		if r.Dst.Contains(to) {
			return kernel.Path{Dev: r.Dev}
		}
	}
	switch a := to.As4(); {
	case w.routed[to], w.late && a[0] == 10:
		return kernel.Path{Dev: "eth0", Via: peerAddr(250)}
	case a[0] == 10: // the peer's number is its host's
		return kernel.Path{Dev: "eth0", Via: peerAddr(int(a[2])<<8 | int(a[3]))}
	}
	return kernel.Path{Dev: "eth0"}
}

func (w *pathFixture) Matched(q kernel.PathQuery) (kernel.TableRoute, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.foreign {
		if r.Dst.Contains(q.To) {
			return r, true, nil
		}
	}
	if a := q.To.As4(); w.late && a[0] == 10 {
		ours := route(int(a[2])<<8|int(a[3]), int(a[2])<<8|int(a[3]))
		return kernel.TableRoute{Dst: ours.Dst, Via: ours.Via, Dev: ours.Dev, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}, true, nil
	}
	return kernel.TableRoute{}, false, nil
}

// change changes the world, and tells p of it. It returns whom the kernel is asked about
// then.
func (w *pathFixture) change(p *Paths, f func()) []netip.Addr {
	w.mu.Lock()
	w.asked = nil
	if f != nil {
		f()
	}
	w.mu.Unlock()
	p.reroute()
	time.Sleep(time.Minute)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// withPaths runs f with Paths on a world, and what they last reported.
func withPaths(t *testing.T, f func(p *Paths, w *pathFixture, reported func() []Obstacle, moved *int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &pathFixture{routed: make(map[netip.Addr]bool)}
		var mu sync.Mutex
		var now []Obstacle
		moved := 0
		p := NewPaths(w, func(o []Obstacle) {
			mu.Lock()
			defer mu.Unlock()
			now = o
		}, func() { moved++ })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = p.Run(ctx) }()
		f(p, w, func() []Obstacle {
			mu.Lock()
			defer mu.Unlock()
			return now
		}, &moved)
		cancel()
		<-ended
	})
}

func pathDesired(first, last int) Desired {
	var peers []*subnet.Lease
	for n := first; n <= last; n++ {
		peers = append(peers, lease(n, n))
	}
	w := desire(peers...)
	w.Config = &subnet.Config{V4: subnet.Range{Network: w.Networks[0]}}
	return w
}

func foreign(dst string) kernel.TableRoute {
	return kernel.TableRoute{Dst: netip.MustParsePrefix(dst), Dev: "vpn", Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC, Type: unix.RTN_UNICAST}
}

// Of very many peers some are asked about, but those that something is about always are.
func TestPathsOfManyPeers(t *testing.T) {
	withPaths(t, func(p *Paths, w *pathFixture, reported func() []Obstacle, _ *int) {
		const peers = 20 * pathCheckAll
		desired := pathDesired(1, peers)
		p.SetDesired(desired)
		if asked := w.change(p, nil); len(asked) < peers {
			t.Errorf("at first, %d were asked about", len(asked))
		}
		if asked := w.change(p, nil); len(asked) > 3*pathSample {
			t.Errorf("later, %d were asked about", len(asked))
		}
		w.change(p, func() { w.foreign = []kernel.TableRoute{foreign("10.0.31.7/32")} })
		if o := reported(); len(o) != 1 || o[0].Subject != "10.0.31.7/32" {
			t.Fatalf("obstacles %q", o)
		}
		// What is about many is found with some of them; it is one obstacle.
		w.change(p, func() { w.foreign = []kernel.TableRoute{foreign("10.0.0.0/9")}; w.foreign[0].Table = 52 })
		o := reported()
		if len(o) != 1 || o[0].Subject != "peers in "+desired.Config.Network().V4.String() {
			t.Fatalf("obstacles %q", o)
		}
		w.change(p, nil)
		if again := reported(); !slices.Equal(o, again) {
			t.Errorf("the same is worded %q, then %q", o, again)
		}
		w.change(p, func() { w.foreign = nil })
		if o := reported(); len(o) > 0 {
			t.Errorf("obstacles %q", o)
		}
		// A new peer is asked about although nothing else changed.
		w.mu.Lock()
		w.foreign, w.asked = []kernel.TableRoute{foreign("10.0.200.1/32")}, nil
		w.mu.Unlock()
		more := desired
		more.Peers = append(slices.Clone(desired.Peers), lease(200<<8|1, 200<<8|1))
		p.SetDesired(more)
		time.Sleep(time.Minute)
		synctest.Wait()
		if o := reported(); len(o) != 1 || !strings.Contains(o[0].Problem, "vpn") {
			t.Errorf("obstacles %q", o)
		}
		if len(w.asked) > 10 {
			t.Errorf("for one peer, %d were asked about", len(w.asked))
		}
	})
}

// Peers whose packets are dropped for where they are from are named, however many others there
// are, as long as it is so; where no interface is strict about that nobody is asked.
func TestSources(t *testing.T) {
	refused := func(numbers ...int) map[netip.Addr]bool {
		all := make(map[netip.Addr]bool)
		for _, n := range numbers {
			all[peerAddr(n)] = true
		}
		return all
	}
	withPaths(t, func(p *Paths, w *pathFixture, reported func() []Obstacle, _ *int) {
		const peers = 20 * pathCheckAll
		want := Obstacle{
			Kind: OnRPFilter, Problem: "packets that come in by eth0 are dropped, as the way back is by eth0, and net.ipv4.conf.eth0.rp_filter is 1",
			Remedy: "sysctl -w net.ipv4.conf.eth0.rp_filter=2",
		}
		expect := func(what, subject string) {
			t.Helper()
			var all []Obstacle
			if want.Subject = subject; subject != "" {
				all = []Obstacle{want}
			}
			if o := reported(); !slices.Equal(o, all) {
				t.Errorf("%s: obstacles %q", what, o)
			}
		}
		p.SetDesired(onLink(1, peers))
		w.change(p, func() { w.refused = refused(77) })
		expect("nothing is strict", "")
		few := onLink(1, 900)
		p.SetDesired(few)
		w.change(p, func() { w.strict, w.refused = true, refused(1, 6) })
		expect("two of few", peerAddr(1).String()+", the host of "+few.Peers[0].Subnet.String()+", "+peerAddr(6).String()+", the host of "+few.Peers[5].Subnet.String())
		w.change(p, func() { w.foreign = []kernel.TableRoute{foreign("10.0.0.1/32")} })
		if o := reported(); len(o) != 2 || !strings.HasPrefix(o[0].Subject, "10.0.0.1/32") || o[1].Subject != peerAddr(6).String()+", the host of "+few.Peers[5].Subnet.String() {
			t.Errorf("where another obstacle is in the way of one, too: %q", o)
		}
		down := few
		down.Host.V4.Up = false
		p.SetDesired(down)
		w.change(p, func() { w.foreign = nil })
		expect("the interface is down", "")
		p.SetDesired(onLink(1, peers))
		for range 30 {
			w.change(p, func() { w.refused = refused(numbers(1, peers)...) })
			expect("all of many", "peers in "+few.Config.Network().V4.String())
		}
		if len(p.rejected) > rejectedMost || len(p.astray) > 0 || len(w.asked) > 5*pathSample {
			t.Errorf("%d are kept, %d are astray, and %d are asked about", len(p.rejected), len(p.astray), len(w.asked))
		}
		w.change(p, func() { w.refused = nil })
		expect("none", "")
	})
}

// onLink are peers whose hosts are on the link of the external interface.
func onLink(first, last int) Desired {
	w := pathDesired(first, last)
	w.Host.V4.Up, w.Host.V4.Net = true, netip.MustParsePrefix("192.168.0.0/16")
	return w
}

func numbers(first, last int) (all []int) {
	for n := first; n <= last; n++ {
		all = append(all, n)
	}
	return all
}

// The external interface is the wrong one if no peer is in its network, and all are in another's.
func TestWrongInterface(t *testing.T) {
	of := func(name, addr string) kernel.Interface {
		return kernel.Interface{Name: name, Up: true, Addrs: []kernel.Address{{Prefix: netip.MustParsePrefix(addr)}}}
	}
	used := backend.Underlay{Iface: "nat", Addr: netip.MustParseAddr("10.0.2.15"), Net: netip.MustParsePrefix("10.0.2.0/24")}
	peers := []*subnet.Lease{lease(1, 1), lease(2, 2)} // in hostNet
	right := of("eth1", hostNet.String())
	down, vpn, one := right, right, right
	down.Up, vpn.PointToPoint = false, true
	one.Addrs = []kernel.Address{{Prefix: netip.PrefixFrom(peerAddr(1), 32)}}
	elsewhere := lease(3, 3)
	elsewhere.PublicIP.V4 = netip.MustParseAddr("203.0.113.1")
	beside := lease(4, 4)
	beside.PublicIP.V4 = netip.MustParseAddr("10.0.2.16")
	for _, c := range []struct {
		what   string
		ifaces []kernel.Interface
		peers  []*subnet.Lease
		by     string // the interface by which the kernel sends to them
		remedy string
	}{
		{"another leads to them", []kernel.Interface{of("nat", "10.0.2.15/24"), right}, peers, "eth1", "start flanneld with -iface=eth1"},
		{"no other one", []kernel.Interface{of("nat", "10.0.2.15/24"), of("eth2", "172.16.0.1/24")}, peers, "nat", ""},
		{"a route to them", []kernel.Interface{right}, peers, "nat", ""},
		{"another that is down", []kernel.Interface{down}, peers, "eth1", ""},
		{"a VPN", []kernel.Interface{vpn}, peers, "eth1", ""},
		{"a single address", []kernel.Interface{one}, peers, "eth1", ""},
		{"no peers", []kernel.Interface{right}, nil, "eth1", ""},
		{"a peer elsewhere", []kernel.Interface{right}, append(slices.Clone(peers), elsewhere), "eth1", ""},
		{"a peer beside us", []kernel.Interface{right}, append(slices.Clone(peers), beside), "eth1", ""},
	} {
		found, err := WrongInterface(t.Context(), waysBy(c.by), ip.V4, used, c.ifaces, c.peers)
		if err != nil {
			t.Fatal(err)
		}
		if (len(found) == 0) != (c.remedy == "") || len(found) > 0 && (found[0].Remedy != c.remedy || found[0].Kind != OnInterface) {
			t.Errorf("%s: %q", c.what, found)
		}
	}
}

// waysBy is a host that sends all packets by one interface.
type waysBy string

func (w waysBy) Paths(_ context.Context, queries []kernel.PathQuery) ([]kernel.Path, error) {
	return slices.Repeat([]kernel.Path{{Dev: string(w)}}, len(queries)), nil
}

// What is missing of ours, because nothing can be had, is no obstacle.
func TestNoPathIsNoObstacle(t *testing.T) {
	withPaths(t, func(p *Paths, w *pathFixture, reported func() []Obstacle, _ *int) {
		p.SetDesired(pathDesired(1, 9))
		w.change(p, func() { w.down = true })
		if o := reported(); len(o) > 0 {
			t.Errorf("obstacles %q", o)
		}
	})
}

// A route of ours that is back while the kernel is being asked is in nobody's way.
func TestRestoredRouteIsNoObstacle(t *testing.T) {
	withPaths(t, func(p *Paths, w *pathFixture, reported func() []Obstacle, _ *int) {
		p.SetDesired(pathDesired(1, 9))
		w.change(p, func() { w.late = true })
		if o := reported(); len(o) > 0 {
			t.Errorf("obstacles %q", o)
		}
	})
}

// Who is on the link is known before a backend asks; it changes when routes do, and not
// while there is no way at all.
func TestLinksFollowRoutes(t *testing.T) {
	withPaths(t, func(p *Paths, w *pathFixture, _ func() []Obstacle, moved *int) {
		desired := directDesired(lease(1, 1), lease(2, 2))
		w.routed[peerAddr(2)] = true
		p.Learn(t.Context(), desired.Backend, desired.Host, desired.Peers[:1])
		p.Learn(t.Context(), desired.Backend, desired.Host, desired.Peers)
		first := p.Links(desired.Backend)
		if !first.OnLink("eth0", peerAddr(1)) || first.OnLink("eth0", peerAddr(2)) || first.OnLink("eth1", peerAddr(1)) || first.OnLink("eth0", peerAddr(3)) {
			t.Error("it is not known who is on the link")
		}
		// An answer once given stays the same.
		p.Learn(t.Context(), desired.Backend, desired.Host, []*subnet.Lease{lease(3, 3)})
		if first.OnLink("eth0", peerAddr(3)) {
			t.Error("an answer changed")
		}
		p.Learn(t.Context(), desired.Backend, desired.Host, desired.Peers)
		p.SetDesired(desired)
		w.change(p, nil)
		w.change(p, func() { w.down = true })
		if *moved != 0 || p.Links(desired.Backend) != first {
			t.Errorf("answers changed %d times for no reason", *moved)
		}
		w.change(p, func() { w.down, w.routed = false, map[netip.Addr]bool{peerAddr(1): true} })
		second := p.Links(desired.Backend)
		if *moved != 1 || second == first || second.OnLink("eth0", peerAddr(1)) || !second.OnLink("eth0", peerAddr(2)) {
			t.Errorf("after %d changes it is not known who is on the link", *moved)
		}
		if !first.OnLink("eth0", peerAddr(1)) {
			t.Error("the former answers changed")
		}
		if p.Links(desire().Backend) != nil {
			t.Error("a backend that needs no links has some")
		}
	})
}

// dualWorld is a host that has the routes of dualDesired, those of the kernel for its pods, and
// foreign ones.
type dualWorld struct {
	PathView
	foreign []kernel.TableRoute
	asked   []kernel.PathQuery
}

func (w *dualWorld) Interfaces(context.Context) ([]kernel.Interface, error) {
	of := func(name string, addrs ...string) kernel.Interface {
		i := kernel.Interface{Name: name, Up: true, Addrs: []kernel.Address{{Prefix: netip.MustParsePrefix("fe80::1/64")}}}
		for _, a := range addrs {
			i.Addrs = append(i.Addrs, kernel.Address{Prefix: netip.MustParsePrefix(a)})
		}
		return i
	}
	return []kernel.Interface{of("eth0", "192.168.0.1/16"), of("eth1", "2001:db8::1:2:3/64"), of("cni0", "10.5.1.1/24", "fc00:0:0:1::1/64")}, nil
}

func (w *dualWorld) Rules(context.Context, ip.Family) ([]kernel.Rule, error) { return nil, nil }

func (w *dualWorld) ForeignRoutes(_ context.Context, f ip.Family, counts func(netip.Prefix) bool) (all []kernel.TableRoute, _ error) {
	for _, r := range w.foreign {
		if ip.FamilyOf(r.Dst.Addr()) == f && counts(r.Dst) {
			all = append(all, r)
		}
	}
	return all, nil
}

func (w *dualWorld) Paths(_ context.Context, queries []kernel.PathQuery) (paths []kernel.Path, _ error) {
	w.asked = append(w.asked, queries...)
	for _, q := range queries {
		r, _, _ := w.Matched(q)
		paths = append(paths, kernel.Path{Dev: r.Dev, Via: r.Via})
	}
	return paths, nil
}

func (w *dualWorld) Matched(q kernel.PathQuery) (kernel.TableRoute, bool, error) {
	for _, r := range w.foreign {
		if r.Dst.Contains(q.To) {
			return r, true, nil
		}
	}
	for _, own := range []string{"10.5.1.0/24", "fc00:0:0:1::/64"} {
		if p := netip.MustParsePrefix(own); p.Contains(q.To) {
			return kernel.TableRoute{Dst: p, Dev: "cni0", Table: unix.RT_TABLE_MAIN}, true, nil
		}
	}
	for dst, via := range map[string]string{"10.5.2.0/24": "10.5.2.0", "10.5.3.0/24": "10.5.3.0", "fc00:0:0:2::/64": "fc00:0:0:2::"} {
		if p := netip.MustParsePrefix(dst); p.Contains(q.To) {
			return kernel.TableRoute{Dst: p, Dev: state.VXLANName(ip.FamilyOf(q.To), 1), Via: netip.MustParseAddr(via), Table: unix.RT_TABLE_MAIN}, true, nil
		}
	}
	return kernel.TableRoute{}, false, nil
}

// What leads packets of one family astray is told of that family alone, with a command for it;
// a peer is asked about in the families that it has, for this host's packets and for pods'.
func TestPathsOfFamilies(t *testing.T) {
	w := &dualWorld{}
	var found []Obstacle
	p := NewPaths(w, func(o []Obstacle) { found = o }, func() {})
	desired := dualDesired(t, dualConfig)
	check := func() {
		t.Helper()
		p.redo()
		if err := p.check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p.SetDesired(desired)
	if check(); len(found) > 0 {
		t.Errorf("nothing is wrong, and there is %v", found)
	}
	asked := make(map[string]int)
	for _, q := range w.asked {
		for _, s := range []string{"10.5.1.0/24", "10.5.2.0/24", "10.5.3.0/24", "fc00:0:0:1::/64", "fc00:0:0:2::/64"} {
			from := "host"
			if q.IIF == "cni0" && ip.FamilyOf(q.From) == ip.FamilyOf(q.To) {
				from = "pod"
			}
			if netip.MustParsePrefix(s).Contains(q.To) {
				asked[s+" "+from]++
			}
		}
	}
	for _, want := range []string{"10.5.1.0/24 host", "10.5.2.0/24 host", "10.5.2.0/24 pod", "10.5.3.0/24 pod", "fc00:0:0:1::/64 host", "fc00:0:0:2::/64 host", "fc00:0:0:2::/64 pod"} {
		if asked[want] == 0 {
			t.Errorf("it was not asked about %s, but about %v", want, asked)
		}
	}
	w.foreign = []kernel.TableRoute{{Dst: netip.MustParsePrefix("fc00:0:0:2::/64"), Dev: "vpn", Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC, Type: unix.RTN_UNICAST}}
	check()
	if len(found) != 1 || found[0].Subject != "fc00:0:0:2::/64" || !strings.Contains(found[0].Problem, "packets go by vpn") {
		t.Errorf("packets of IPv6 go by vpn, and there is %v", found)
	}
	q := question{PathQuery: kernel.PathQuery{To: netip.MustParseAddr("fc00:0:0:2::1")}}
	if remedy := newPathCheck(w, &desired, ip.V6, pathsSeen{}).ruleBefore(kernel.Rule{Priority: 100}, q); remedy != "ip -6 rule add to fc00::/48 lookup main prio 99" {
		t.Errorf("of a rule that leads them there is said: %s", remedy)
	}
	desired.Config = &subnet.Config{V4: desired.Config.V4}
	desired.Own = &subnet.Lease{Subnet: ip.SubnetOf(desired.Own.Subnet.V4)}
	p.SetDesired(desired)
	if check(); len(found) > 0 {
		t.Errorf("in a network without IPv6 there is %v", found)
	}
}

// Peers are found by an address of either family, whether they have both or not.
func TestPeerOf(t *testing.T) {
	of := func(prefixes ...string) *subnet.Lease {
		var s ip.Subnet
		for _, text := range prefixes {
			if p := netip.MustParsePrefix(text); p.Addr().Is4() {
				s.V4 = p
			} else {
				s.V6 = p
			}
		}
		return &subnet.Lease{Subnet: s}
	}
	peers := []*subnet.Lease{of("fc00:0:0:9::/64"), of("10.5.2.0/24", "fc00:0:0:7::/64"), of("10.5.3.0/24"), of("10.5.4.0/24", "fc00:0:0:2::/64"), of("10.5.5.0/24", "fc00:0:0:1::/64")}
	slices.SortFunc(peers, func(a, b *subnet.Lease) int { return a.Subnet.Compare(b.Subnet) })
	for _, l := range peers {
		for _, f := range l.Subnet.Families() {
			if got, ok := peerOf(peersOf(peers, f), l.Subnet.Of(f)); !ok || got != l {
				t.Errorf("%s is of %v", l.Subnet.Of(f), got)
			}
		}
	}
	for _, text := range []string{"10.5.1.0/24", "10.5.9.0/24", "fc00:0:0:3::/64", "fc00:0:0:a::/64"} {
		p := netip.MustParsePrefix(text)
		if got, ok := peerOf(peersOf(peers, ip.FamilyOf(p.Addr())), p); ok {
			t.Errorf("%s is of %s", p, got.Subnet)
		}
	}
}

// Whoever may become a peer is known when other answers are in force, whether it is one when
// the kernel is asked, comes meanwhile, or could not be asked about when it came.
func TestLinksOfWhoIsNoPeerYet(t *testing.T) {
	withPaths(t, func(p *Paths, w *pathFixture, _ func() []Obstacle, moved *int) {
		desired := directDesired(lease(1, 1))
		learn := func(n int) {
			var all []*subnet.Lease
			for i := 1; i <= n; i++ {
				all = append(all, lease(i, i))
			}
			p.Learn(t.Context(), desired.Backend, desired.Host, all)
		}
		learn(2)
		p.SetDesired(desired)
		w.change(p, func() {
			w.routed = map[netip.Addr]bool{peerAddr(1): true}
			w.meanwhile = func() { learn(3) }
		})
		links := p.Links(desired.Backend)
		if *moved != 1 || links.OnLink("eth0", peerAddr(1)) {
			t.Errorf("answers changed %d times", *moved)
		}
		for n := 2; n <= 3; n++ {
			if !links.OnLink("eth0", peerAddr(n)) {
				t.Errorf("it is not known that %s is on the link", peerAddr(n))
			}
		}

		w.mu.Lock()
		w.fails = unix.ENOBUFS
		w.mu.Unlock()
		learn(4)
		if p.Links(desired.Backend).OnLink("eth0", peerAddr(4)) {
			t.Error("it is known what the kernel did not say")
		}
		w.mu.Lock()
		w.fails = nil
		w.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if !p.Links(desired.Backend).OnLink("eth0", peerAddr(4)) {
			t.Errorf("it is not known that %s is on the link", peerAddr(4))
		}
	})
}
