package subnet

import (
	"slices"
	"time"
)

// Peers are the leases of the other hosts that a host goes by: those in the store that can
// be used, and those that vanished a moment ago. The zero Peers has seen none.
type Peers struct {
	vetter  Vetter
	linger  Linger
	backend string // type of the backend
}

// Update takes what a host holds. It returns the leases to go by, what is wrong with others,
// and when to update again although nothing changed; the zero time for never.
func (p *Peers) Update(h Holding, self Self, now time.Time) (peers []*Lease, problems []Problem, next time.Time) {
	if p.backend != h.Config.BackendType {
		p.linger, p.backend = Linger{}, h.Config.BackendType
	}
	peers, problems = p.vetter.Vet(h.Config, h.Own, self, h.Snapshot)
	withdrawn := make(map[string]bool)
	for _, r := range problems {
		if r.Withdraw {
			withdrawn[r.Key] = true
		}
	}
	peers, next = p.linger.Apply(peers, h.Own.Subnet, now, func(l *Lease) bool {
		return !withdrawn[l.Subnet.Key()] && !p.vetter.unfit(l).withdraw
	})
	return peers, problems, next
}

// Gone returns the leases to go by that are not in the store any more.
func (p *Peers) Gone() []Vanished { return p.linger.Gone() }

// Resume lets the leases linger, before the first Update, that were in force when this host
// last ran: the store may have been replaced by an empty one, and the hosts claim them again.
func (p *Peers) Resume(s Saved, h Holding, self Self, now time.Time) {
	if s.Config.BackendType != h.Config.BackendType {
		return
	}
	usable := func(leases ...*Lease) []*Lease {
		peers, _ := new(Vetter).Vet(h.Config, h.Own, self, Snapshot{Leases: leases})
		return peers
	}
	vanished := slices.DeleteFunc(s.Vanished, func(v Vanished) bool { return len(usable(v.Lease)) == 0 })
	p.linger.Resume(usable(s.Snapshot.Leases...), vanished, now)
	p.backend = h.Config.BackendType
}
