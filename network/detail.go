package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// Detail is what a Reconciler knows of single objects.
type Detail struct {
	Kinds    []KindDetail // in the order of dependency, those of which there are objects
	Passes   []PassDetail // for each dataplane
	Failures []Failure    // the longest first
	// Unusable are the leases, by subnet, of which the backend can make nothing, and why.
	Unusable map[ip.Subnet]string
}

// KindDetail counts the objects of one kind.
type KindDetail struct {
	Kind            state.Kind
	Wanted, Missing int
	Repairs         int // of what others changed, since the start
}

// PassDetail counts the passes of one dataplane since the start.
type PassDetail struct {
	Plane       string
	Full, Quick int
	Took        time.Duration // all full ones together
	// Conflict is set while someone keeps undoing what is repaired.
	Conflict bool
}

// Failure is an object that could not be had.
type Failure struct {
	Object fmt.Stringer
	Lease  netip.Prefix // whose it is, as state.LeaseSubnet
	Reason string
	Since  time.Time
}

// Detail returns what is known now. Its cost grows with what is wrong.
func (r *Reconciler) Detail() Detail {
	var d Detail
	r.statusMu.Lock()
	d.Unusable = r.unusable
	r.statusMu.Unlock()
	kinds := make(map[state.Kind]KindDetail)
	for _, l := range r.loops {
		l.detail(&d, kinds)
	}
	slices.SortStableFunc(d.Failures, func(a, b Failure) int { return a.Since.Compare(b.Since) })
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		d.Kinds = append(d.Kinds, kinds[k])
	}
	return d
}

// counters are what a loop counts since its start.
type counters struct {
	full, quick int
	took        time.Duration
	conflict    time.Time // when there was one last
	repairs     map[state.Kind]int
	failures    []Failure
	missing     map[state.Kind]int
}

// detail adds what a loop knows.
func (r *loop) detail(d *Detail, kinds map[state.Kind]KindDetail) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := func(k state.Kind, change func(*KindDetail)) {
		now := kinds[k]
		now.Kind = k
		change(&now)
		kinds[k] = now
	}
	for k, n := range r.desired.kinds {
		if n > 0 {
			of(state.Kind(k), func(d *KindDetail) { d.Wanted += n })
		}
	}
	for k, n := range r.counted.missing {
		of(k, func(d *KindDetail) { d.Missing += n })
	}
	for k, n := range r.counted.repairs {
		of(k, func(d *KindDetail) { d.Repairs += n })
	}
	d.Failures = append(d.Failures, r.counted.failures...)
	d.Passes = append(d.Passes, PassDetail{Plane: r.name, Full: r.counted.full, Quick: r.counted.quick, Took: r.counted.took, Conflict: time.Since(r.counted.conflict) <= 2*conflictPause})
}

// countPass counts a pass that came to its end.
func (r *loop) countPass(full bool, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if full {
		r.counted.full++
		r.counted.took += took
	} else {
		r.counted.quick++
	}
	if r.conflicts >= conflictAfter {
		r.counted.conflict = r.conflict
	}
	if len(r.failures) == 0 {
		r.counted.failures, r.counted.missing = nil, nil
		return
	}
	failures, missing := make([]Failure, 0, len(r.failures)), make(map[state.Kind]int)
	for k, f := range r.failures {
		missing[k.Kind]++
		is := Failure{Object: k.Kind, Reason: f.reason, Since: f.since}
		if o := r.desired.want[k]; o != nil {
			is.Object, is.Lease = o, state.LeaseSubnet(o)
		}
		failures = append(failures, is)
	}
	r.counted.failures, r.counted.missing = failures, missing
}

// countRepair counts that something was as it should be, was changed, and is again.
func (r *loop) countRepair(k state.Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counted.repairs == nil {
		r.counted.repairs = make(map[state.Kind]int)
	}
	r.counted.repairs[k]++
}
