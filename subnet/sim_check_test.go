package subnet_test

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// believed returns the lease that a daemon believes to be its own: the one that
// its Keeper handed out last, without saying that the subnet is another's, until
// that ends by the daemon's own clock. Frozen or cut off, it goes on believing
// for as long. It returns nil if there is none.
func (p *process) believed() *subnet.Lease {
	own := p.holding.Own
	if own == nil || p.holding.Holder != "" || !own.Reserved() && !time.Now().Before(own.Expires) {
		return nil
	}
	return own
}

// sure reports whether a daemon believes to have a lease: also one that it was given, and has not
// handed out yet.
func (p *process) sure() bool {
	p.sim.mu.Lock()
	defer p.sim.mu.Unlock()
	l := p.given
	return p.believed() != nil || l != nil && p.holding.Holder == "" && (l.Reserved() || time.Now().Before(l.Expires))
}

// moment orders the writes of all stores, one of which took the place of the other.
type moment struct {
	store    int
	revision uint64
}

func (m moment) before(o moment) bool {
	return m.store < o.store || m.store == o.store && m.revision < o.revision
}

// moment returns when a revision was written. Stores have revisions of their own.
func (s *sim) moment(revision uint64) moment {
	return moment{slices.Index(s.bases, revision/revisions*revisions), revision}
}

// robbed reports whether the store lost the lease, or someone took it away, before
// its time. That a daemon goes on believing in it until it hears of that is no
// fault of any daemon; that it does hear of it is seen at the end.
func (s *sim) robbed(l *subnet.Lease) bool {
	written := s.moment(l.Revision)
	return written.before(s.replaced) || written.before(s.taken[l.Subnet])
}

// rob notes that someone is about to write or delete a lease that may be a daemon's.
func (s *sim) rob(subnet ip.Subnet) {
	s.taken[subnet] = s.moment(s.stored().Revision + 1)
	s.disturb()
}

// disturb notes that what a daemon has to find that has just started is not what
// was there before.
func (s *sim) disturb() {
	for _, h := range s.hosts {
		if h.daemon != nil {
			h.daemon.disturbed = true
		}
	}
}

// checkOwners checks that no daemon believes in what this one believes in. Believing
// begins with what a Keeper hands out, so nothing happens between two checks.
func (s *sim) checkOwners(p *process) {
	own := p.believed()
	if own == nil || s.robbed(own) {
		return
	}
	for _, h := range s.hosts {
		if h.daemon == nil || h.daemon == p {
			continue
		}
		if l := h.daemon.believed(); l != nil && l.Subnet.Overlaps(own.Subnet) && !s.robbed(l) {
			s.fail("both %s and %s believe to have %s, as written by revisions %d and %d, until %s and %s",
				p.host.public, h.public, own.Subnet, own.Revision, l.Revision, own.Expires, l.Expires)
		}
	}
}

// checkRestart checks that a daemon took up a lease that its host had when it
// started, if it is still there, and among several the one it knew; and that one,
// too, if there was none and nobody had it.
func (s *sim) checkRestart(p *process) {
	if p.disturbed {
		return
	}
	var there []ip.Subnet
	for _, l := range p.leases {
		if l.Reserved() || time.Now().Before(l.Expires) {
			there = append(there, l.Subnet)
		}
	}
	own := p.holding.Own.Subnet
	switch {
	case slices.Contains(there, p.previous) && own != p.previous:
		s.fail("%s has %s after it started, and had a lease of %s", p.host.public, own, p.previous)
	case len(p.leases) == 0 && p.unclaimed && own != p.previous:
		s.fail("%s has %s after it started, and had %s before, which is free", p.host.public, own, p.previous)
	case len(there) > 0 && !slices.Contains(there, own):
		s.fail("%s has %s after it started, and had leases of %s", p.host.public, own, there)
	}
}

// wrote takes what a daemon, which may have ended since, wrote: a lease in the
// place of another one, nil if there was none or it could not be read. It checks
// that it was no other host's, and that no lease expires while all is well.
func (s *sim) wrote(p *process, was, l *subnet.Lease) {
	for _, h := range s.hosts {
		switch d := h.daemon; {
		case d == nil || d == p:
		case h == p.host && d.listed: // what the one before it asked for came too late to be found
		case h == p.host:
			d.leases = append(d.leases, l)
		case d.previous == l.Subnet:
			d.unclaimed = false
		}
	}
	if was == nil && s.calm {
		s.fail("%s let its lease %s expire", p.host.public, l.Subnet)
	}
	s.checkOverwritten(p, was)
}

// checkOverwritten checks that a daemon wrote over no other host's lease, and
// deleted none.
func (s *sim) checkOverwritten(p *process, was *subnet.Lease) {
	if was != nil && was.PublicIP != p.host.attrs.PublicIP {
		s.fail("%s wrote over the lease %s of %s", p.host.public, was.Subnet, was.PublicIP)
	}
}

// unsettled returns what is not as it should be: that each daemon that runs has a
// subnet, if there is one for it, that the store says the same, and that each knows
// all the others.
func (s *sim) unsettled() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored := s.stored()
	free := len(s.subnets) - len(keys(stored))
	for _, h := range s.hosts {
		if h.daemon == nil {
			continue
		}
		now := h.daemon.holding
		if now.Own == nil || now.Holder != "" {
			if free > 0 {
				return fmt.Sprintf("%s has no subnet, and %d are free", h.public, free)
			}
			continue
		}
		l := stored.Find(now.Own.Subnet)
		switch {
		case l == nil || l.Attrs != h.attrs || l.Revision != now.Own.Revision || l.Reserved() != now.Own.Reserved():
			return fmt.Sprintf("%s has %+v, and the store %+v", h.public, now.Own, l)
		case h.daemon.believed() == nil || now.Own.Expires.After(l.Expires):
			return fmt.Sprintf("%s believes in %s until %s, and the store until %s", h.public, l.Subnet, now.Own.Expires, l.Expires)
		case !maps.Equal(keys(now.Snapshot), keys(stored)):
			return fmt.Sprintf("%s knows of %v, and the store of %v", h.public, now.Snapshot, stored)
		}
	}
	return ""
}

// keys returns the revisions of all keys.
func keys(s subnet.Snapshot) map[ip.Subnet]uint64 {
	revisions := make(map[ip.Subnet]uint64)
	for _, l := range s.Leases {
		revisions[l.Subnet] = l.Revision
	}
	for _, p := range s.Problems {
		revisions[p.Subnet] = p.Revision
	}
	return revisions
}
