package subnet

import (
	"time"

	"flanneld/pkg/ip"
)

// LingerTime is how long the lease of another host stays in force after it
// vanished. A host whose key was deleted claims it again at once, and all hosts
// do within seconds if etcd was replaced by an empty one; no packet should be
// lost over that.
const LingerTime = 10 * time.Second

// Linger keeps vanished leases in force for LingerTime. The zero Linger has
// seen no leases.
type Linger struct {
	last []*Lease
	gone map[ip.Subnet]time.Time // when they vanished
}

// Apply takes the leases of the other hosts, by subnet, as of now. It returns
// them together with those that vanished a short while ago, by subnet, and when
// the first of these is over; the zero time if there are none.
func (g *Linger) Apply(peers []*Lease, own ip.Subnet, now time.Time) (all []*Lease, next time.Time) {
	all = make([]*Lease, 0, len(peers))
	gone := make(map[ip.Subnet]time.Time)
	last := g.last
	for len(last) > 0 || len(peers) > 0 {
		switch {
		case len(last) == 0 || len(peers) > 0 && peers[0].Subnet.Compare(last[0].Subnet) <= 0:
			if len(last) > 0 && peers[0].Subnet == last[0].Subnet {
				last = last[1:]
			}
			all = append(all, peers[0])
			peers = peers[1:]
			continue
		}
		l := last[0]
		last = last[1:]
		since, known := g.gone[l.Subnet]
		if !known {
			since = now
		}
		end := since.Add(LingerTime)
		if !now.Before(end) || l.Subnet.Overlaps(own) {
			continue
		}
		gone[l.Subnet] = since
		all = append(all, l)
		if next.IsZero() || end.Before(next) {
			next = end
		}
	}
	g.last, g.gone = all, gone
	return all, next
}
