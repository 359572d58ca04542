package network

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// PathView is what can be seen of the ways that packets take.
type PathView interface {
	Interfaces(context.Context) ([]kernel.Interface, error)
	Paths(context.Context, []kernel.PathQuery) ([]kernel.Path, error)
	Matched(kernel.PathQuery) (kernel.TableRoute, bool, error)
	ForeignRoutes(context.Context, ip.Family, func(netip.Prefix) bool) ([]kernel.TableRoute, error)
	Rules(context.Context, ip.Family) ([]kernel.Rule, error)
}

const (
	// pathDebounce lets changes of routes and rules come to an end before the kernel is
	// asked again; if they do not, it is asked after pathDebounceMost all the same.
	pathDebounce     = 300 * time.Millisecond
	pathDebounceMost = 2 * time.Second
	// pathLoad bounds the time that is spent on asking: one part in so many, unless that
	// would take longer than pathPauseMost.
	pathLoad      = 20
	pathPauseMost = 2 * time.Second
	// pathRetry is how soon it is asked again after that failed.
	pathRetry = time.Second
	// Up to pathCheckAll peers, all are asked about. Of more, these are: new ones, those
	// that an earlier check found cut off, those that a foreign route is about, and
	// pathSample others.
	pathCheckAll = 1000
	pathSample   = 256
)

// Paths asks the kernel which way packets for the peers take, whenever routes, rules or
// interfaces changed, and reports what leads them astray.
type Paths struct {
	view   PathView
	report func([]Obstacle)
	moved  func() // Links has other answers: another desired state is due at once
	lookout

	mu       sync.Mutex
	spec     *Desired
	rerouted bool // since the last check
	links    *links
	learned  []*subnet.Lease // that links has been told of

	// Of Run alone:
	checked          []*subnet.Lease // as of the last check
	astray, rejected map[ip.Subnet]bool
	seen             map[ip.Family]pathsSeen
}

// pathsSeen is what decides about the ways of packets beside what is ours.
type pathsSeen struct {
	ifaces  []kernel.Interface
	foreign []kernel.TableRoute // that overlap our network
	rules   []kernel.Rule
}

// NewPaths returns Paths that do nothing before the first desired state. They call report and
// moved from Run.
func NewPaths(view PathView, report func([]Obstacle), moved func()) *Paths {
	return &Paths{view: view, report: report, moved: moved, links: newLinks(), rerouted: true, lookout: lookout{
		woken: make(chan struct{}, 1), quiet: pathDebounce, longest: pathDebounceMost, retry: pathRetry,
		logf: klog.V(1).Infof, failed: "checking which way packets take, trying again: %v",
	}}
}

// SetDesired replaces what is desired.
func (p *Paths) SetDesired(w Desired) {
	p.mu.Lock()
	p.spec = &w
	p.mu.Unlock()
	p.wake()
}

// Event takes an event of the kernel.
func (p *Paths) Event(e dataplane.Event) {
	if e.Paths || e.Lost || e.Iface != "" {
		p.reroute()
	}
}

// reroute takes that routes, rules or interfaces changed.
func (p *Paths) reroute() {
	p.redo()
	p.wake()
}

// redo has the next check ask about all.
func (p *Paths) redo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rerouted = true
}

// Run checks paths until ctx ends, and returns ctx.Err().
func (p *Paths) Run(ctx context.Context) error {
	return p.run(ctx, func(ctx context.Context) (rest time.Duration, err error) {
		start := time.Now()
		if err = p.check(ctx); err != nil {
			p.redo()
		}
		return min((pathLoad-1)*time.Since(start), pathPauseMost), err
	})
}

// check asks the kernel and reports what it says.
func (p *Paths) check(ctx context.Context) error {
	p.mu.Lock()
	w, rerouted := p.spec, p.rerouted
	p.rerouted = false
	p.mu.Unlock()
	if w == nil || w.Own == nil {
		p.redo() // nothing was asked
		return nil
	}
	families := w.Config.Network().Families()
	for _, f := range families {
		_, seen := p.seen[f]
		rerouted = rerouted || !seen
	}
	if rerouted {
		if err := p.look(ctx, w); err != nil {
			return err
		}
		p.mu.Lock()
		w = p.spec // which goes by who is on the link
		p.mu.Unlock()
	}
	var found []Obstacle
	astray, rejected := make(map[ip.Subnet]bool), make(map[ip.Subnet]bool)
	for _, f := range families {
		c := newPathCheck(p.view, w, f, p.seen[f])
		chosen := p.choose(w, c, rerouted)
		for _, l := range chosen {
			c.addPeer(l)
		}
		c.addOwn()
		if err := c.ask(ctx); err != nil {
			return err
		}
		if err := c.askSources(ctx, again(w.Peers, chosen, p.rejected)); err != nil {
			return err
		}
		wrong, err := WrongInterface(ctx, p.view, f, c.host, c.ifaces, w.Peers)
		if err != nil {
			return err
		}
		maps.Copy(rejected, c.rejected)
		maps.Copy(astray, c.astray)
		found = slices.Concat(found, c.obstacles(), wrong)
	}
	p.checked, p.astray, p.rejected = w.Peers, astray, rejected
	p.report(found)
	return nil
}

// LookAtPaths returns what leads packets astray now of what is desired.
func LookAtPaths(ctx context.Context, view PathView, w Desired) (found []Obstacle, err error) {
	p := NewPaths(view, func(now []Obstacle) { found = now }, func() {})
	p.Learn(ctx, w.Backend, w.Host, w.Peers)
	w.Host.Links = p.Links(w.Backend)
	p.SetDesired(w)
	err = p.check(ctx)
	return found, err
}

// look sees what else decides about the ways of packets, and asks again who is on the link.
func (p *Paths) look(ctx context.Context, w *Desired) error {
	ifaces, err := p.view.Interfaces(ctx)
	if err != nil {
		return err
	}
	all := make(map[ip.Family]pathsSeen)
	for _, f := range w.Config.Network().Families() {
		seen := pathsSeen{ifaces: ifaces}
		if seen.rules, err = p.view.Rules(ctx, f); err != nil {
			return err
		}
		if seen.foreign, err = p.view.ForeignRoutes(ctx, f, w.Config.Network().Of(f).Overlaps); err != nil {
			return err
		}
		all[f] = seen
	}
	p.seen = all
	changed, err := p.relink(ctx, w)
	if changed {
		p.moved()
	}
	return err
}

// choose returns the peers to ask about.
func (p *Paths) choose(w *Desired, c *pathCheck, rerouted bool) []*subnet.Lease {
	if rerouted && (len(w.Peers) <= pathCheckAll || p.checked == nil) {
		return w.Peers
	}
	chosen := changed(p.checked, w.Peers)
	if len(p.astray) > 0 {
		for _, l := range w.Peers {
			if p.astray[l.Subnet] {
				chosen = append(chosen, l)
			}
		}
	}
	if rerouted {
		chosen = append(chosen, c.touched()...)
		for range pathSample {
			chosen = append(chosen, w.Peers[rand.IntN(len(w.Peers))])
		}
	}
	slices.SortFunc(chosen, func(a, b *subnet.Lease) int { return a.Subnet.Compare(b.Subnet) })
	return slices.Compact(chosen)
}

// again returns those that were chosen of the peers, and beside them some others.
func again(peers, chosen []*subnet.Lease, others map[ip.Subnet]bool) []*subnet.Lease {
	if len(others) == 0 || len(chosen) == len(peers) {
		return chosen
	}
	all := slices.Clone(chosen)
	for _, l := range peers {
		if others[l.Subnet] && !slices.Contains(chosen, l) {
			all = append(all, l)
		}
	}
	return all
}

// changed returns the leases of now that were not there before, or not so. Both are
// sorted by subnet.
func changed(before, now []*subnet.Lease) (all []*subnet.Lease) {
	for _, l := range subnet.Changes(before, now) {
		if l != nil {
			all = append(all, l)
		}
	}
	return all
}

// peersOf returns those of the peers that have a subnet of a family, sorted by that.
func peersOf(peers []*subnet.Lease, f ip.Family) []*subnet.Lease {
	without := func(l *subnet.Lease) bool { return !l.Subnet.Of(f).IsValid() }
	by := func(a, b *subnet.Lease) int { return a.Subnet.Of(f).Compare(b.Subnet.Of(f)) }
	if slices.ContainsFunc(peers, without) {
		peers = slices.DeleteFunc(slices.Clone(peers), without)
	}
	if !slices.IsSortedFunc(peers, by) {
		peers = slices.SortedFunc(slices.Values(peers), by)
	}
	return peers
}

// peerOf returns the first of the peers, sorted by their subnets of its family, that a
// destination is about.
func peerOf(peers []*subnet.Lease, dst netip.Prefix) (*subnet.Lease, bool) {
	f := ip.FamilyOf(dst.Addr())
	i, _ := slices.BinarySearchFunc(peers, dst, func(l *subnet.Lease, dst netip.Prefix) int {
		return ip.LastAddr(l.Subnet.Of(f)).Compare(dst.Addr())
	})
	if i < len(peers) && peers[i].Subnet.Of(f).Overlaps(dst) {
		return peers[i], true
	}
	return nil, false
}
