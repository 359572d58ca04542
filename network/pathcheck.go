package network

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// pathCheck is one look at the ways that packets of a family take.
type pathCheck struct {
	pathsSeen
	family  ip.Family
	view    PathView
	w       *Desired
	host    backend.Underlay
	network netip.Prefix
	peers   []*subnet.Lease // that have something of the family, by that
	local   []state.Path    // of ours, whoever the peers are
	devices map[string]bool // ours
	within  map[ip.Subnet][]netip.Addr
	pods    podSide
	queries []question
	astray  map[ip.Subnet]bool // peers that are cut off
	// rejected are peers whose packets do not come in, or some of them.
	rejected map[ip.Subnet]bool
	causes   map[cause]*mention // the subjects that they hurt, in the order of the peers
}

// question is a query and what the kernel should answer.
type question struct {
	kernel.PathQuery
	subject string                 // of an obstacle
	peer    ip.Subnet              // whose packets these are
	want    func(kernel.Path) bool // whether an answer is right
	note    string                 // what the answer matters for
	bits    int                    // a route in main that is less specific is not in our way: ours is missing
}

// way words where packets go.
func way(path kernel.Path) string {
	switch {
	case path.Err != nil:
		return "packets are dropped"
	case path.Via.IsValid():
		return fmt.Sprintf("packets go to %s by %s", path.Via, path.Dev)
	}
	return "packets go by " + path.Dev
}

// cause is why packets go astray.
type cause struct {
	problem, remedy string
	kind            ObstacleKind
}

// hurts notes what is cut off for a cause.
func (c *pathCheck) hurts(why cause, subject string) {
	if c.causes[why] == nil {
		c.causes[why] = new(mention)
	}
	if hurt := c.causes[why]; !slices.Contains(hurt.names, subject) {
		hurt.add(subject)
	}
}

func newPathCheck(view PathView, w *Desired, f ip.Family, seen pathsSeen) *pathCheck {
	c := &pathCheck{
		pathsSeen: seen, family: f, view: view, w: w, host: w.Host.Of(f), network: w.Config.Network().Of(f), peers: peersOf(w.Peers, f),
		devices: make(map[string]bool), within: make(map[ip.Subnet][]netip.Addr),
		astray: make(map[ip.Subnet]bool), rejected: make(map[ip.Subnet]bool), causes: make(map[cause]*mention),
	}
	for _, o := range w.Backend.Local(w.Host, w.Config.Network(), w.Own) {
		if path, ok := state.PathOf(o); ok && path.Dev != "" {
			c.local = append(c.local, path)
		}
		if state.IsDevice(o) {
			c.devices[o.Key().Scope] = true
		}
	}
	c.foreign = slices.DeleteFunc(slices.Clone(c.foreign), func(r kernel.TableRoute) bool {
		return r.IsLocal() && c.hasNetwork(r.Dst.Addr())
	})
	for _, r := range c.foreign {
		if l, ok := peerOf(c.peers, r.Dst); ok && l.Subnet.Of(f).Bits() <= r.Dst.Bits() {
			c.within[l.Subnet] = append(c.within[l.Subnet], c.inside(r.Dst))
		}
	}
	c.pods = c.findPods()
	return c
}

// hasNetwork reports whether an address of this host comes with a route to its network,
// which says it all.
func (c *pathCheck) hasNetwork(a netip.Addr) bool {
	return slices.ContainsFunc(c.ifaces, func(i kernel.Interface) bool {
		return slices.ContainsFunc(i.Addrs, func(have kernel.Address) bool { return have.Prefix.Addr() == a && !have.Prefix.IsSingleIP() })
	})
}

// inside returns an address in p that another host could have, if there is one.
func (c *pathCheck) inside(p netip.Prefix) netip.Addr {
	first := p.Masked().Addr()
	if p.IsSingleIP() {
		return first
	}
	for a := first.Next(); p.Contains(a); a = a.Next() {
		if !c.isLocal(a) {
			return a
		}
	}
	return first
}

// touched returns the peers that foreign routes are about: of each route, the first.
func (c *pathCheck) touched() []*subnet.Lease {
	var peers []*subnet.Lease
	for _, r := range c.foreign {
		if l, ok := peerOf(c.peers, r.Dst); ok {
			peers = append(peers, l)
		}
	}
	return peers
}

// addPeer asks which way packets for a peer take.
func (c *pathCheck) addPeer(l *subnet.Lease) {
	if !l.Subnet.Of(c.family).IsValid() || !c.w.Own.Subnet.Of(c.family).IsValid() {
		return
	}
	objects, err := c.w.Backend.Peer(c.w.Host, c.family, c.w.Own, l)
	if err != nil {
		return
	}
	for _, o := range objects {
		way, ok := state.PathOf(o)
		switch {
		case !ok:
		case way.Host.IsValid():
			if ip.FamilyOf(way.Host) == c.family {
				c.addHost(l, "", func(path kernel.Path) bool { return !c.deadEnd(path.Dev) })
			}
		case ip.FamilyOf(way.Dst.Addr()) != c.family:
		case way.Dev == "":
			c.addSubnet(l, 1, func(path kernel.Path) bool { return path.Dev == c.host.Iface })
			return
		default:
			c.addRoute(l, way)
			if way.Via == l.PublicIP.Of(c.family) {
				// We send straight to the peer's host. A router between is none of ours.
				c.addHost(l, ", but must be on the link of "+way.Dev, func(path kernel.Path) bool { return path.Dev != way.Dev || !path.Via.IsValid() })
			}
			return
		}
	}
	for _, r := range c.local {
		if r.Dst.Overlaps(l.Subnet.Of(c.family)) {
			c.addRoute(l, r)
		}
	}
}

// deadEnd reports whether packets to other hosts, from the address of the external
// interface, surely do not get there by a device: it is ours, or a VPN's, or not in use for
// any network. Another interface of the host may do as well.
func (c *pathCheck) deadEnd(dev string) bool {
	if dev == c.host.Iface {
		return false
	}
	i := byName(c.ifaces, dev)
	return c.devices[dev] || i != nil && (i.PointToPoint || i.Loopback || !slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool {
		return ip.FamilyOf(a.Prefix.Addr()) == c.family && (c.family == ip.V4 || !a.Prefix.Addr().IsLinkLocalUnicast()) // which each has
	}))
}

func (c *pathCheck) addRoute(l *subnet.Lease, r state.Path) {
	c.addSubnet(l, r.Dst.Bits(), func(path kernel.Path) bool {
		return !path.Local && path.Dev == r.Dev && path.Via == r.Via
	})
}

// addSubnet asks for addresses in a peer's subnet: of this host's packets, and of pods'.
func (c *pathCheck) addSubnet(l *subnet.Lease, bits int, want func(kernel.Path) bool) {
	for _, to := range append([]netip.Addr{c.inside(l.Subnet.Of(c.family))}, c.within[l.Subnet]...) {
		q := question{PathQuery: kernel.PathQuery{To: to}, subject: l.Subnet.Of(c.family).String(), peer: l.Subnet, want: want, bits: bits}
		c.queries = append(c.queries, q)
		if c.pods.addr.IsValid() {
			q.From, q.IIF = c.pods.addr, c.pods.dev
			c.queries = append(c.queries, q)
		}
	}
}

// hostOf is what messages call the host of a lease.
func hostOf(l *subnet.Lease, f ip.Family) string {
	return fmt.Sprintf("%s, the host of %s", l.PublicIP.Of(f), l.Subnet)
}

// addHost asks for a peer's public address.
func (c *pathCheck) addHost(l *subnet.Lease, note string, want func(kernel.Path) bool) {
	to := l.PublicIP.Of(c.family)
	c.queries = append(c.queries, question{
		PathQuery: kernel.PathQuery{To: to, From: c.host.Addr},
		subject:   hostOf(l, c.family), peer: l.Subnet, want: want, note: note,
	})
}

// ask has the kernel answer all questions.
func (c *pathCheck) ask(ctx context.Context) error {
	queries := make([]kernel.PathQuery, len(c.queries))
	for i, q := range c.queries {
		queries[i] = q.PathQuery
	}
	paths, err := c.view.Paths(ctx, queries)
	if err != nil {
		return err
	}
	explained := 0
	for i, q := range c.queries {
		if paths[i].Err == nil && q.want(paths[i]) {
			continue
		}
		// What many have in common is found with the first of them.
		if explained++; explained > maxExplained {
			break
		}
		why, found, err := c.explain(q, paths[i])
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		c.astray[q.peer] = true
		c.hurts(why, q.subject)
	}
	return nil
}

// maxExplained bounds the search for causes.
const maxExplained = 2000

// explain finds what leads a packet astray. It reports false if nothing is in the way:
// then a route of ours is missing, which is reported as such.
func (c *pathCheck) explain(q question, path kernel.Path) (cause, bool, error) {
	r, matched, err := c.view.Matched(q.PathQuery)
	if err != nil {
		return cause{}, false, err
	}
	if matched && q.want(kernel.Path{Dev: r.Dev, Via: r.Via, Local: r.IsLocal()}) {
		return cause{}, false, nil // our route came back since the kernel was asked
	}
	if !matched {
		r, matched = c.refusing(q.PathQuery)
	}
	how := "not reachable: " + way(path) + q.note
	if p := q.peer.Of(c.family); p.Contains(r.Dst.Addr()) && p.Bits() < r.Dst.Bits() {
		how = "in part " + how
	}
	if !matched {
		rule, ok := c.rule(q.PathQuery, kernel.Rule.Refuses)
		if !ok {
			return cause{}, false, nil
		}
		return cause{problem: how + fmt.Sprintf(": the rule %q stands before table main", rule), remedy: c.ruleBefore(rule, q)}, true, nil
	}
	switch {
	case r.IsLocal():
		remedy := c.addrRemedy(r)
		return cause{problem: fmt.Sprintf("in part not reachable: %s is an address of this host, on %s", r.Dst.Addr(), r.Dev), remedy: remedy}, remedy != "", nil
	case r.Main() && r.Dst.Bits() < q.bits:
		return cause{}, false, nil
	case r.Main() && !within(c.network, r.Dst) && !within(c.host.Net, r.Dst):
		// A route that others need: no command would be right for all.
		return cause{problem: how + fmt.Sprintf(": the route %s is in the way", r)}, true, nil
	case r.Main():
		return cause{problem: how + fmt.Sprintf(": the route %s is in the way", r), remedy: c.routeRemedy(r)}, true, nil
	}
	rule, ok := c.rule(q.PathQuery, func(rule kernel.Rule) bool { return rule.LooksUp(r.Table) })
	if !ok {
		return cause{problem: how + fmt.Sprintf(": the route %s is in the way", r), remedy: r.Delete()}, true, nil
	}
	return cause{problem: how + fmt.Sprintf(": the rule %q stands before table main and finds the route %s", rule, r), remedy: c.ruleBefore(rule, q)}, true, nil
}

// within reports whether a network has all of p.
func within(network, p netip.Prefix) bool {
	return network.Contains(p.Addr()) && network.Bits() <= p.Bits()
}

// refusing returns the most specific foreign route that drops the packet.
func (c *pathCheck) refusing(q kernel.PathQuery) (best kernel.TableRoute, found bool) {
	for _, r := range c.foreign {
		if r.Refuses() && !r.Kernel() && r.Dst.Contains(q.To) && (!found || r.Dst.Bits() > best.Dst.Bits()) {
			best, found = r, true
		}
	}
	return best, found
}

// rule returns the first rule that applies to a packet and fits.
func (c *pathCheck) rule(q kernel.PathQuery, fits func(kernel.Rule) bool) (kernel.Rule, bool) {
	for _, r := range c.rules {
		if fits(r) && r.Matches(q) {
			return r, true
		}
	}
	return kernel.Rule{}, false
}

// ruleBefore is the command that has packets looked up in table main before a rule.
func (c *pathCheck) ruleBefore(rule kernel.Rule, q question) string {
	to := c.network
	if !to.Contains(q.To) {
		if to = c.host.Net; !to.IsValid() || !to.Contains(q.To) {
			to = netip.PrefixFrom(q.To, q.To.BitLen())
		}
	}
	command := "ip rule"
	if c.family == ip.V6 {
		command = "ip -6 rule"
	}
	return fmt.Sprintf("%s add to %s lookup main prio %d", command, to, max(rule.Priority, 1)-1)
}

// routeRemedy is the command that takes a route of table main away.
func (c *pathCheck) routeRemedy(r kernel.TableRoute) string {
	if r.Kernel() {
		if addr := c.addrRemedy(r); addr != "" {
			return addr
		}
	}
	return r.Delete()
}

// addrRemedy is the command that takes away the address for which the kernel made a
// route; empty if there is none.
func (c *pathCheck) addrRemedy(r kernel.TableRoute) string {
	for _, i := range c.ifaces {
		for _, a := range i.Addrs {
			if i.Name == r.Dev && (a.Prefix.Masked() == r.Dst || r.IsLocal() && a.Prefix.Addr() == r.Dst.Addr()) {
				return fmt.Sprintf("ip addr del %s dev %s", a.Prefix, printable.Word(i.Name))
			}
		}
	}
	return ""
}

// obstacles returns what was found.
func (c *pathCheck) obstacles() []Obstacle {
	all := make([]Obstacle, 0, len(c.causes))
	for why, hurt := range c.causes {
		subject := strings.Join(hurt.names, ", ")
		if hurt.more > 0 {
			subject = fmt.Sprintf("peers in %s", c.network)
		}
		all = append(all, Obstacle{why.kind, subject, why.problem, why.remedy})
	}
	slices.SortFunc(all, func(a, b Obstacle) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Problem, b.Problem))
	})
	return all
}
