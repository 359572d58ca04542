package subnet

import (
	"slices"
	"time"

	"flanneld/pkg/ip"
)

// Snapshot is all that a store held at one moment. Snapshots share their
// leases and are read-only.
type Snapshot struct {
	// Leases, by subnet. A lease whose value became unreadable is here as it
	// last was, and in Problems too.
	Leases []*Lease
	// Problems, by key: the keys that could not be read as leases.
	Problems []Problem
	// Revision of the store as of this snapshot.
	Revision uint64
}

// Problem is a key that could not be read as a lease, or a lease that cannot be
// used. It is reported, and never taken for the absence of the lease.
type Problem struct {
	Key string
	// Subnet that the key names; not valid where the key itself is bad.
	Subnet ip.Subnet
	// Reason, for people.
	Reason string
	// Expires and Revision are as in Lease.
	Expires  time.Time
	Revision uint64
}

// Find returns the lease of subnet s, or nil.
func (s Snapshot) Find(subnet ip.Subnet) *Lease {
	if i, ok := search(s.Leases, subnet); ok {
		return s.Leases[i]
	}
	return nil
}

func search(leases []*Lease, s ip.Subnet) (int, bool) {
	return slices.BinarySearchFunc(leases, s, func(l *Lease, s ip.Subnet) int { return l.Subnet.Compare(s) })
}

// Entry is a lease as a key-value store holds it.
type Entry struct {
	// Key below "subnets/", such as "10.5.3.0-24".
	Key      string
	Value    string
	Expires  time.Time
	Revision uint64
}

// Assembler makes snapshots for a store: of a listing, then of one change after
// the other. A change costs a copy of the slice of leases, no parsing of the
// others. The zero Assembler is an empty store.
type Assembler struct {
	leases   []*Lease // shared with snapshots: replaced, never changed
	problems map[string]Problem
}

// Reset takes a complete listing. Leases that are in it unchanged keep their
// identity; those that are in it unreadable keep their last good state.
func (a *Assembler) Reset(entries []Entry) {
	before := Snapshot{Leases: a.leases}
	a.problems = make(map[string]Problem)
	a.leases = make([]*Lease, 0, len(entries))
	for _, e := range entries {
		if l := a.read(e, before); l != nil {
			a.leases = append(a.leases, l)
		}
	}
	slices.SortFunc(a.leases, func(x, y *Lease) int { return x.Subnet.Compare(y.Subnet) })
}

// Put takes one entry that was created or changed.
func (a *Assembler) Put(e Entry) {
	l := a.read(e, Snapshot{Leases: a.leases})
	if l == nil {
		return
	}
	i, found := search(a.leases, l.Subnet)
	if found {
		a.leases = slices.Clone(a.leases)
		a.leases[i] = l
		return
	}
	leases := make([]*Lease, 0, len(a.leases)+1)
	leases = append(leases, a.leases[:i]...)
	leases = append(leases, l)
	a.leases = append(leases, a.leases[i:]...)
}

// Remove takes the key of an entry that is gone.
func (a *Assembler) Remove(key string) {
	delete(a.problems, key)
	s, err := ip.ParseKey(key)
	if err != nil {
		return
	}
	if i, found := search(a.leases, s); found {
		leases := make([]*Lease, 0, len(a.leases)-1)
		leases = append(leases, a.leases[:i]...)
		a.leases = append(leases, a.leases[i+1:]...)
	}
}

// Snapshot returns what has been taken so far.
func (a *Assembler) Snapshot(revision uint64) Snapshot {
	s := Snapshot{Leases: a.leases, Revision: revision}
	for _, p := range a.problems {
		s.Problems = append(s.Problems, p)
	}
	sortProblems(s.Problems)
	return s
}

func sortProblems(ps []Problem) {
	slices.SortFunc(ps, func(x, y Problem) int {
		switch {
		case x.Key < y.Key:
			return -1
		case x.Key > y.Key:
			return 1
		}
		return 0
	})
}

// read returns the lease in e; failing that, it notes the problem and returns
// the last good state, or nil if there was none.
func (a *Assembler) read(e Entry, before Snapshot) *Lease {
	delete(a.problems, e.Key)
	p := Problem{Key: e.Key, Expires: e.Expires, Revision: e.Revision}
	s, err := ip.ParseKey(e.Key)
	var last *Lease
	var attrs Attrs
	if err == nil {
		p.Subnet = s
		last = before.Find(s)
		attrs, err = ParseAttrs(s, e.Value)
	}
	if err != nil {
		p.Reason = err.Error()
		if a.problems == nil {
			a.problems = make(map[string]Problem)
		}
		a.problems[e.Key] = p
		return last
	}
	// When it expires may be learned anew after this host was suspended, which
	// stops the monotonic clock.
	if last != nil && last.Revision == e.Revision && last.Attrs == attrs && last.Expires.Sub(e.Expires).Abs() < time.Minute {
		return last
	}
	return &Lease{Subnet: s, Attrs: attrs, Expires: e.Expires, Revision: e.Revision}
}
