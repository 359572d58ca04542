package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// Cleanup removes from dataplanes what is there of a daemon that had these networks, and
// nothing else. It returns what is gone, in the order of its text; together with an error if
// something of it is left.
func Cleanup(ctx context.Context, networks []netip.Prefix, planes ...dataplane.Dataplane) (gone []state.Object, err error) {
	var errs []error
	for _, p := range planes {
		objects, err := cleanUp(ctx, networks, p)
		gone = append(gone, objects...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	slices.SortFunc(gone, func(a, b state.Object) int { return strings.Compare(a.String(), b.String()) })
	return gone, errors.Join(errs...)
}

func cleanUp(ctx context.Context, networks []netip.Prefix, t dataplane.Dataplane) (gone []state.Object, err error) {
	to := newLogs()
	defer to.infos.Stop()
	defer to.warnings.Stop()
	r := newLoop(Plane{Dataplane: t}, to, func(loopStatus) {})
	r.desired = planeDesired{bounds: bounds{spec: Desired{Networks: networks}}, want: make(state.Set)}
	ours := func() (state.Set, error) {
		have, err := t.Dump(ctx, r.desired.want)
		if err != nil {
			return nil, err
		}
		r.desired.markForeign(have, nil, nil)
		all := make(state.Set)
		for k, e := range have {
			if e.Owner == state.Ours {
				all[k] = e.Object
			}
		}
		return all, nil
	}
	before, err := ours()
	if err != nil {
		return nil, err
	}
	left := before
	// What is left after a pass may have been in use by what is gone now.
	for try := 0; try < 3 && len(left) > 0 && err == nil; try++ {
		clear(r.failures)
		if err = r.fullPass(ctx); err == nil {
			left, err = ours()
		}
	}
	for k, o := range before {
		if left[k] == nil {
			gone = append(gone, o)
		}
	}
	if err != nil {
		return gone, err
	}
	var errs []error
	for k, o := range left {
		why := "it is still there, or there again: is a daemon at work?"
		if f := r.failures[k]; f != nil {
			why = f.reason
		}
		errs = append(errs, fmt.Errorf("removing %s: %s", o, why))
	}
	return gone, errors.Join(errs...)
}
