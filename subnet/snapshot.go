package subnet

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// Snapshot is all that a store held at one moment. Snapshots share their
// leases and are read-only.
type Snapshot struct {
	// Leases, by subnet. A lease whose value became unreadable is here as it
	// last was, and in Problems too; so is one that can be read in one address family.
	Leases []*Lease
	// Problems, by key: the keys that could not be read as leases.
	Problems []Problem
	// Revision of the store as of this snapshot.
	Revision uint64
	// Config is the configuration; nil where the snapshot does not come with it.
	Config *StoredConfig
	// Refused is why the store refuses requests, while it brings changes still; or nil.
	Refused error
	// Own is what an Assigner gives this host; nil of other stores.
	Own *Assignment
}

// StoredConfig is the network's configuration as a store holds it.
type StoredConfig struct {
	Text    string // as written
	Missing bool   // there is none
	// Unreadable says why it cannot be read now, where it is a file; empty if it can.
	Unreadable string
}

// String is the configuration as written, for logs.
func (c *StoredConfig) String() string {
	switch {
	case c == nil:
		return "not known"
	case c.Missing:
		return "none"
	case c.Unreadable != "":
		return c.Unreadable
	}
	return printable.Quote(c.Text)
}

// Problem is a key that could not be read as a lease, or a lease that cannot be
// used. It is reported, and never taken for the absence of the lease.
type Problem struct {
	Key string
	// Subnet that the key names; not valid where the key itself is bad.
	Subnet ip.Subnet
	// Part is set where Subnet is no more than a part of what the key names: an address family.
	Part bool
	// Reason, for people.
	Reason string
	// Withdraw is for a lease that is read and understood, and that no packet may be
	// sent by. Of others, what a host has stays as it is.
	Withdraw bool
	// Expires and Revision are as in Lease.
	Expires  time.Time
	Revision uint64
}

// Name is what people know the lease by.
func (p Problem) Name() string {
	if p.Subnet.IsValid() {
		return p.Subnet.String()
	}
	return printable.Name(p.Key)
}

// Find returns the lease of subnet s, or nil.
func (s Snapshot) Find(subnet ip.Subnet) *Lease {
	if i, ok := search(s.Leases, subnet); ok {
		return s.Leases[i]
	}
	return nil
}

// problem returns why the lease of a subnet cannot be read, if so.
func (s Snapshot) problem(subnet ip.Subnet) (Problem, bool) {
	for _, p := range s.Problems {
		if p.Subnet == subnet {
			return p, true
		}
	}
	return Problem{}, false
}

// Entry is a lease as a key-value store holds it.
type Entry struct {
	// Key below "subnets/", such as "10.5.3.0-24".
	Key      string
	Value    string
	Expires  time.Time
	Revision uint64
	Created  int64 // the revision in which the key was made
}

// Assembler makes snapshots for a store: of a listing, then of one change after
// the other. A change costs a copy of the slice of leases, no parsing of the
// others. The zero Assembler is an empty store.
type Assembler struct {
	leases   []*Lease // shared with snapshots: replaced, never changed
	problems map[string]Problem
	config   *StoredConfig
}

// SetConfig takes the configuration, and reports whether it is another one than before.
func (a *Assembler) SetConfig(c StoredConfig) (changed bool) {
	if a.config != nil && *a.config == c {
		return false
	}
	a.config = &c
	return true
}

// Reset takes a complete listing. Leases that are in it unchanged keep their
// identity; those that are in it unreadable keep their last good state.
func (a *Assembler) Reset(entries []Entry) {
	before := Snapshot{Leases: a.leases}
	read := make([]reading, len(entries))
	var g sync.WaitGroup
	const share = 1000 // enough to be worth a goroutine
	for start := 0; start < len(entries); start += share {
		g.Go(func() {
			for i := start; i < min(start+share, len(entries)); i++ {
				read[i] = before.read(entries[i])
			}
		})
	}
	g.Wait()
	a.problems = make(map[string]Problem)
	a.leases = make([]*Lease, 0, len(entries))
	for _, r := range read {
		if r.problem != nil {
			a.problems[r.problem.Key] = *r.problem
		}
		if r.lease != nil {
			a.leases = append(a.leases, r.lease)
		}
	}
	slices.SortFunc(a.leases, func(x, y *Lease) int { return x.Subnet.Compare(y.Subnet) })
}

// Put takes one entry that was created or changed.
func (a *Assembler) Put(e Entry) {
	r := Snapshot{Leases: a.leases}.read(e)
	delete(a.problems, e.Key)
	if r.problem != nil {
		if a.problems == nil {
			a.problems = make(map[string]Problem)
		}
		a.problems[e.Key] = *r.problem
	}
	if r.lease != nil {
		a.leases = splice(a.leases, a.at(r.lease.Subnet), []*Lease{r.lease})
	}
}

// Remove takes the key of an entry that is gone.
func (a *Assembler) Remove(key string) {
	delete(a.problems, key)
	if s, err := ip.ParseKey(key); err == nil {
		a.leases = splice(a.leases, a.at(s), nil)
	}
}

// at returns the lease of a subnet, if there is one.
func (a *Assembler) at(s ip.Subnet) []*Lease {
	if i, found := search(a.leases, s); found {
		return a.leases[i : i+1]
	}
	return nil
}

// Snapshot returns what has been taken so far.
func (a *Assembler) Snapshot(revision uint64) Snapshot {
	s := Snapshot{Leases: a.leases, Revision: revision, Config: a.config}
	for _, p := range a.problems {
		s.Problems = append(s.Problems, p)
	}
	sortProblems(s.Problems)
	return s
}

func sortProblems(ps []Problem) {
	slices.SortFunc(ps, func(x, y Problem) int { return cmp.Or(strings.Compare(x.Key, y.Key), x.Subnet.Compare(y.Subnet)) })
}

// reading is what an entry says.
type reading struct {
	lease   *Lease // as it last was, if there is a problem; nil if there was none
	problem *Problem
}

// read reads an entry that came after the snapshot.
func (s Snapshot) read(e Entry) reading {
	p := Problem{Key: e.Key, Expires: e.Expires, Revision: e.Revision}
	sub, err := ip.ParseKey(e.Key)
	var last *Lease
	var attrs Attrs
	if err == nil {
		p.Subnet = sub
		last = s.Find(sub)
		attrs, err = ParseAttrs(sub, e.Value)
	}
	if err != nil {
		p.Reason = err.Error()
		if attrs.PublicIP != (ip.Addrs{}) { // one family can be read
			last = &Lease{sub, attrs.FilledFrom(last, sub), e.Expires, e.Revision, e.Created}
		}
		return reading{last, &p}
	}
	// When it expires may be learned anew after this host was suspended, which
	// stops the monotonic clock.
	if last != nil && last.Revision == e.Revision && last.Attrs == attrs && last.Expires.Sub(e.Expires).Abs() < time.Minute {
		return reading{last, nil}
	}
	return reading{&Lease{sub, attrs, e.Expires, e.Revision, e.Created}, nil}
}
