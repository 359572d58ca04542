package subnet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/printable"
)

// Peers are the leases of the other hosts that a host goes by: those in the store that can
// be used, and those that vanished a moment ago. The zero Peers has seen none.
type Peers struct {
	vetter  Vetter
	linger  Linger
	backend string // type of the backend

	log      notice.Log
	problems map[problemID]Problem // of leases
	unlogged map[problemID]bool    // which of them are to be logged, if they stay
}

// problemID tells a problem from all others: a lease may have one in each family.
type problemID struct {
	key    string
	subnet ip.Subnet
}

// PeersView is what a host goes by at some time.
type PeersView struct {
	Peers    []*Lease // by subnet
	InStore  int      // how many of them are there
	Problems int      // how many leases cannot be used in some family
	// Unfit are the problems of these leases, of which one may have several.
	Unfit []Problem
	// Unreadable are the subnets of those for which the host is left as it is.
	Unreadable []ip.Subnet
	// News are what is to be logged.
	News []string
	// Next is when to update again although nothing changed; zero for never.
	Next time.Time
}

// LogRetry is how soon it is tried again to log what came and went too often: it is
// logged if it stays.
const LogRetry = time.Minute

// Update takes what a host holds.
func (p *Peers) Update(h Holding, self Self, now time.Time) PeersView {
	if p.backend != h.Config.BackendType {
		p.linger, p.backend = Linger{}, h.Config.BackendType
	}
	peers, problems := p.vetter.Vet(h.Config, h.Own, self, h.Snapshot)
	v := PeersView{InStore: len(peers), Unfit: problems}
	withdrawn := make(map[netip.Prefix]bool)
	for i, r := range problems {
		if i == 0 || r.Key != problems[i-1].Key { // they are by key, and one may be of each family
			v.Problems++
		}
		switch {
		case r.Withdraw:
			for _, p := range r.Subnet.Prefixes() {
				withdrawn[p] = true
			}
		case r.Subnet.IsValid():
			v.Unreadable = append(v.Unreadable, r.Subnet)
		}
	}
	v.Peers, v.Next = p.linger.Apply(peers, h.Own.Subnet, now, func(l *Lease) bool {
		return !slices.ContainsFunc(l.Subnet.Prefixes(), func(p netip.Prefix) bool { return withdrawn[p] }) && p.vetter.lingers(l)
	})
	v.News = p.news(problems)
	if again := now.Add(LogRetry); len(p.unlogged) > 0 && (v.Next.IsZero() || again.Before(v.Next)) {
		v.Next = again
	}
	return v
}

// news takes what is wrong with leases, and returns what of that is to be logged.
func (p *Peers) news(problems []Problem) (news []string) {
	now, unlogged := make(map[problemID]Problem, len(problems)), make(map[problemID]bool)
	for _, is := range problems {
		id := problemID{is.Key, is.Subnet}
		now[id] = is
		was, known := p.problems[id]
		// Beside which others a lease cannot be used changes with these.
		same := known && was.Withdraw && is.Withdraw && was.Revision == is.Revision
		if (was.Reason == is.Reason || same) && !p.unlogged[id] {
			continue
		}
		text := fmt.Sprintf("lease %s cannot be used and is left alone: %s", printable.Name(is.Key), is.Reason)
		if p.log.Event(text) {
			news = append(news, text)
		} else {
			unlogged[id] = true
		}
	}
	p.problems, p.unlogged = now, unlogged
	return news
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
