package subnet

import (
	"cmp"
	"fmt"
	"slices"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// Whose a lease is. A host's public address may change while no daemon runs there. Its
// lease then bears the old address, and is found by the machine that wrote it. A copy of
// a machine, made with its disk, has the same ID and remembers the same subnet; so before
// such a lease is taken over, whoever wrote it is asked whether it is alive: see
// conflict.go.

// unreadable is the holder of a subnet whose key says nothing that we understand.
const unreadable = "someone whose lease cannot be read"

// holder says who has our subnet by a lease of it; nothing if we have. What it says
// of us may be what we have not yet learned that we wrote.
func (t *turn) holder(l *Lease) string {
	if own := t.listed.Own; own != nil {
		if l == nil || l.Machine == own.Host {
			return ""
		}
		return "the Node " + printable.Name(l.Machine)
	}
	switch own := t.holding.Own; {
	case !l.PublicIP.Matches(own.PublicIP) && !l.PublicIP.Matches(t.attrs.PublicIP):
		return fmt.Sprintf("the host with the public address %s", l.PublicIP)
	case l.Machine != "" && !SameMachine(l.Machine, own.Machine) && !SameMachine(l.Machine, t.attrs.Machine):
		return fmt.Sprintf("the machine %s, which has our public address %s, too", printable.Name(l.Machine), l.PublicIP)
	case l.Machine != "" && l.Machine == t.identity.previousMachine && l.Machine != own.Machine && l.Machine != t.attrs.Machine:
		return fmt.Sprintf("the machine %s, which has our public address %s and our machine ID, too", printable.Name(l.Machine), l.PublicIP)
	}
	return ""
}

// movedIn returns the lease that we wrote in the place of ours, if it is there.
func (t *turn) movedIn(s Snapshot) *Lease {
	if l := s.Find(t.stored.moving); l != nil && t.wrote(l) {
		return l
	}
	return nil
}

// wrote reports whether a lease bears our public address, and is this machine's.
func (t *turn) wrote(l *Lease) bool {
	own := t.holding.Own
	return l.PublicIP.Matches(own.PublicIP) && (l.Machine == own.Machine || SameMachine(l.Machine, own.Machine))
}

// movedLate returns the subnet of a lease of ours that has a part of our subnet, of which there is
// none: a write that was thought to have failed may be carried out later.
func (t *turn) movedLate(s Snapshot) ip.Subnet {
	for _, l := range s.Leases {
		if l.Machine != "" && t.wrote(l) && l.Subnet.Shares(t.holding.Own.Subnet) {
			return l.Subnet
		}
	}
	return ip.Subnet{}
}

// claimant says who has a prefix of our subnet by another key, while we have no lease; nothing if
// nobody has.
func (t *turn) claimant(s Snapshot) string {
	own := t.holding.Own
	for _, f := range t.holding.Config.families() {
		for _, l := range s.Leases {
			if f.covered(l) && f.of(l) == f.of(own) && !l.PublicIP.Matches(own.PublicIP) && !l.PublicIP.Matches(t.attrs.PublicIP) {
				return fmt.Sprintf("the host with the public address %s, by the lease %s", l.PublicIP, l.Subnet)
			}
		}
		if f.unreadable(own, s) {
			return unreadable
		}
	}
	return ""
}

// rival says who has a prefix of ours by an older lease; nothing if nobody has: each host that lost
// its key claims it again, and two may have had the same.
func (t *turn) rival(s Snapshot, own *Lease) string {
	all := s.Leases
	first, last := 0, len(all)
	if !own.Subnet.V6.IsValid() { // the leases are by their IPv4 subnets
		i, _ := search(all, own.Subnet)
		for first = i; first > 0 && all[first-1].Subnet.V4 == own.Subnet.V4; first-- {
		}
		for last = i; last < len(all) && all[last].Subnet.V4 == own.Subnet.V4; last++ {
		}
	}
	sharing := []*Lease{own}
	for _, l := range all[first:last] {
		if l == own || !l.Subnet.Shares(own.Subnet) {
			continue
		}
		if _, garbled := s.problem(l.Subnet); !garbled { // else nobody can say whose it is
			sharing = append(sharing, l)
		}
	}
	for _, f := range t.holding.Config.families() {
		if w := f.losers(sharing)[own]; w != nil && f.covered(w) && f.of(w) == f.of(own) && !f.supersedes(w, own) {
			return fmt.Sprintf("the host with the public address %s, by the lease %s, which is older", w.PublicIP, w.Subnet)
		}
	}
	return ""
}

// usurper says which lease has our subnet, of which there is none; nothing if we may
// claim it again. What overlapped it while it was there has no part in it.
func (t *turn) usurper(s Snapshot) string {
	c, own := t.holding.Config, t.holding.Own.Subnet
	for _, f := range c.families() {
		has := func(there ip.Subnet, revision uint64) bool {
			p, before := there.Of(f.Family), revision <= t.renewal.seen && t.renewal.seen <= s.Revision // else it is another history
			// Of one prefix the older lease has it, and ours would be the younger one.
			return p.Overlaps(own.Of(f.Family)) && f.contains(p) && (!before || p == own.Of(f.Family))
		}
		lost := f.losers(s.Leases)
		for _, l := range s.Leases {
			if _, isLost := lost[l]; !isLost && has(l.Subnet, l.Revision) {
				return fmt.Sprintf("the host with the public address %s, by the lease %s, which overlaps it", l.PublicIP, l.Subnet)
			}
		}
		for _, p := range s.Problems {
			if has(p.Subnet, p.Revision) {
				return fmt.Sprintf("whoever has the lease %s, which overlaps it and cannot be read", p.Subnet)
			}
		}
	}
	return ""
}

// follow makes s the latest snapshot, also of who has our subnet.
func (t *turn) follow(s Snapshot) {
	t.holding.Snapshot, t.holding.Partial = s, false
	if t.holding.Holder == "" && t.mode != offline {
		return
	}
	own := *t.holding.Own
	if _, isProblem := s.problem(own.Subnet); isProblem {
		t.holding.Holder = unreadable
	} else if l := s.Find(own.Subnet); l != nil && t.holder(l) != "" {
		t.holding.Holder = t.holder(l)
	} else if l == nil && !t.assigned {
		t.holding.Holder = cmp.Or(t.claimant(s), t.holding.Holder)
	} else if !t.assigned {
		t.holding.Holder = cmp.Or(t.rival(s, l), t.holding.Holder)
	}
	if t.holding.Holder != "" {
		// When we last wrote is history, maybe that of a store which was replaced:
		// old is what is older than this.
		own.Revision = s.Revision
		t.holding.Own = &own
	}
}

// kept reports whether a lease is the one that we started with without the store. Our
// public address may have changed since.
func (t *turn) kept(l *Lease) bool {
	return l.Subnet != t.identity.copied && t.mode == offline && t.holding.Holder == "" && l.Subnet == t.holding.Own.Subnet && t.holder(l) == ""
}

// moved reports whether a lease is this machine's, though it bears another public address:
// it is of the subnet that this host had before, and its machine has our ID. The ID alone
// is not enough, since machines made from one image may all have one.
func (t *turn) moved(l *Lease) bool {
	switch {
	case !t.mayHaveMoved(l):
		return false
	case l.Machine == "": // flannel wrote it, which does not answer
		return t.hadAddress(l.PublicIP)
	}
	return SameMachine(l.Machine, t.attrs.Machine)
}

func (t *turn) mayHaveMoved(l *Lease) bool {
	return l.Subnet.Shares(t.identity.previous) && !l.PublicIP.Matches(t.attrs.PublicIP) && l.Subnet != t.identity.copied
}

// hadAddress reports whether this host had a public address when it last ran.
func (t *turn) hadAddress(public ip.Addrs) bool {
	s := t.saved
	return t.identity.previousIP.Matches(public) ||
		s.exists && s.loaded && s.err == nil && s.Own.Subnet.Shares(t.identity.previous) && s.Own.PublicIP.Matches(public)
}

// asksSaved reports whether moved needs what was saved, to judge one of the leases.
func (t *turn) asksSaved(leases []*Lease) bool {
	return t.saved.exists && !t.saved.loaded && slices.ContainsFunc(leases, func(l *Lease) bool {
		return t.mayHaveMoved(l) && l.Machine == "" && !t.identity.previousIP.Matches(l.PublicIP)
	})
}

// rank orders the leases that can be taken over: those of this machine, or of none, come
// first, then the subnet that we had before, then a reservation, then one such as would
// be given out now.
func (t *turn) rank(c *Config, l *Lease) int {
	rank := 0
	for _, is := range []bool{
		l.Machine == "" || SameMachine(l.Machine, t.attrs.Machine),
		l.Subnet.Shares(t.identity.previous),
		l.Reserved(),
		c.Fits(l.Subnet),
		l.Machine != "",
	} {
		rank *= 2
		if is {
			rank++
		}
	}
	return rank
}

// lookBack looks whether our lease, nil if there is none, is again that of a machine
// that we wrote over a moment ago. So that is alive, and not us by another name, even
// if it has our ID.
func (t *turn) lookBack(l *Lease) {
	if l != nil && l.Machine != "" && l.Machine != t.attrs.Machine && l.Machine == t.identity.overwritten && t.since(t.identity.corrected) < retryMost {
		t.identity.previousMachine = l.Machine
	}
}
