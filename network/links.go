package network

import (
	"context"
	"net/netip"
	"sync"

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// links are what the kernel said of the ways to other hosts. An answer, once given, stays
// the same: a host that was not asked about stays unknown.
type links struct {
	mu    sync.Mutex
	reach map[netip.Addr]reach
}

// reach is how the kernel sends to a host. The zero value is unknown.
type reach struct {
	dev    string
	routed bool // by a router
}

func newLinks() *links { return &links{reach: make(map[netip.Addr]reach)} }

// OnLink implements backend.Links.
func (l *links) OnLink(iface string, a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, asked := l.reach[a]
	if !asked {
		l.reach[a] = reach{}
	}
	return asked && r == reach{dev: iface}
}

// unknown returns those of the leases' hosts about which there is no answer yet.
func (l *links) unknown(h backend.Host, leases []*subnet.Lease) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	var hosts []netip.Addr
	for _, a := range hostsOf(h, leases) {
		if _, asked := l.reach[a]; !asked {
			hosts = append(hosts, a)
		}
	}
	return hosts
}

// learn adds answers where there are none.
func (l *links) learn(hosts []netip.Addr, answers []reach) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, a := range hosts {
		if _, asked := l.reach[a]; !asked {
			l.reach[a] = answers[i]
		}
	}
}

// known returns the answer about a host.
func (l *links) known(a netip.Addr) reach {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reach[a]
}

// reaches asks the kernel how packets of this host reach other hosts. What has no way at
// the moment is unknown.
func reaches(ctx context.Context, view PathView, h backend.Host, hosts []netip.Addr) ([]reach, error) {
	queries := make([]kernel.PathQuery, len(hosts))
	for i, a := range hosts {
		queries[i] = kernel.PathQuery{To: a, From: h.Of(ip.FamilyOf(a)).Addr}
	}
	paths, err := view.Paths(ctx, queries)
	if err != nil {
		return nil, err
	}
	answers := make([]reach, len(hosts))
	for i, path := range paths {
		if path.Err == nil {
			answers[i] = reach{path.Dev, path.Via.IsValid()}
		}
	}
	return answers, nil
}

// Learn asks about the ways to those hosts of the leases that are new, if a backend needs
// to know them. One goroutine calls it.
func (p *Paths) Learn(ctx context.Context, b backend.Backend, h backend.Host, leases []*subnet.Lease) {
	if !backend.UsesLinks(b) {
		return
	}
	p.mu.Lock()
	l, before := p.links, p.learned
	p.mu.Unlock()
	hosts := l.unknown(h, changed(before, leases))
	var answers []reach
	if len(hosts) > 0 {
		var err error
		if answers, err = reaches(ctx, p.view, h, hosts); err != nil {
			hosts = nil
			p.reroute() // they are asked about with all others
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links.learn(hosts, answers) // which may be others by now
	p.learned = leases
}

// Links returns what is known of the ways to other hosts, for a backend that needs it;
// nil for another one.
func (p *Paths) Links(b backend.Backend) backend.Links {
	if !backend.UsesLinks(b) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links
}

// relink asks about the hosts of all peers again, and of the leases that may become peers. It
// reports whether an answer changed. Where the kernel has no way at the moment, the answer
// stays.
func (p *Paths) relink(ctx context.Context, w *Desired) (moved bool, err error) {
	if !backend.UsesLinks(w.Backend) {
		return false, nil
	}
	p.mu.Lock()
	l, learned := p.links, p.learned
	p.mu.Unlock()
	hosts := hostsOf(w.Host, w.Peers, learned)
	answers, err := reaches(ctx, p.view, w.Host, hosts)
	if err != nil {
		return false, err
	}
	next := newLinks()
	for i, a := range hosts {
		was := l.known(a)
		if answers[i] == (reach{}) {
			answers[i] = was
		}
		moved = moved || answers[i] != was
		next.reach[a] = answers[i]
	}
	if !moved {
		return false, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range hostsOf(w.Host, changed(learned, p.learned)) { // meanwhile
		next.learn([]netip.Addr{a}, []reach{l.known(a)})
	}
	p.links = next
	return true, nil
}

// hostsOf returns the addresses of the hosts of leases, each once, in the families that h has.
func hostsOf(h backend.Host, lists ...[]*subnet.Lease) []netip.Addr {
	var hosts []netip.Addr
	seen := make(map[netip.Addr]bool)
	for _, leases := range lists {
		for _, lease := range leases {
			for _, f := range ip.Families {
				if a := lease.PublicIP.Of(f); a.IsValid() && !seen[a] && h.Of(f).Iface != "" {
					seen[a] = true
					hosts = append(hosts, a)
				}
			}
		}
	}
	return hosts
}
