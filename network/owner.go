package network

import (
	"iter"
	"maps"
	"math"
	"net/netip"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// bounds are what decides whose the objects on a host are, and which stay, beside what is
// wanted. The maps are never changed.
type bounds struct {
	spec       Desired
	devices    map[string]bool    // that are wanted
	local      map[state.Key]bool // what is wanted for no peer, but for this host itself
	unreadable []ip.Subnet        // all whose objects stay
}

// planeDesired is what one dataplane is to have.
type planeDesired struct {
	bounds
	want state.Set // nil before the first desired state
	// kinds counts what is wanted by its kind.
	kinds [math.MaxUint8 + 1]int
}

// take makes a change. It returns the keys of the objects that it changes.
func (d *planeDesired) take(c change) iter.Seq[state.Key] {
	d.bounds = c.bounds
	if c.all {
		d.want = c.want
		clear(d.kinds[:])
		for k := range d.want {
			d.kinds[k.Kind]++
		}
		return func(func(state.Key) bool) {}
	}
	for k, o := range c.want {
		before := len(d.want)
		if o == nil {
			delete(d.want, k)
		} else {
			d.want[k] = o
		}
		d.kinds[k.Kind] += len(d.want) - before
	}
	return maps.Keys(c.want)
}

// ownership is what tells which objects of a host are this daemon's. before is what it had
// when that was last known, and left are objects that were ours and not wanted then.
func (d *planeDesired) ownership(have state.Observed, before *seen, left state.Set) *state.Ownership {
	return state.NewOwnership(d.spec.Networks, subnet.LongestLen, d.devices, have, func(k state.Key) bool {
		was, _ := before.at(k)
		is := have[k].Object
		return was.Owner == state.Ours && was.Object == is || left[k] == is
	})
}

// mine reports whether an object that nobody told us of before is this daemon's, as far as
// that can be seen by itself.
func (d *planeDesired) mine(o state.Object) bool {
	own := state.Ownership{Networks: d.spec.Networks, LongestLease: subnet.LongestLen, Devices: d.devices}
	return own.Owns(o)
}

// markForeign marks those of a host's objects as foreign that are not this daemon's.
func (d *planeDesired) markForeign(have state.Observed, before *seen, left state.Set) {
	own := d.ownership(have, before, left)
	for k, e := range have {
		_, wanted := d.want[k]
		switch {
		case wanted && (e.Owner == state.Adoptable || e.Front != nil):
			have[k] = d.unmarked(e, have, own.Devices)
		case wanted || e.Owner != state.Ours || own.Owns(e.Object):
		default:
			e.Owner = state.Foreign
			have[k] = e
		}
	}
}

// unmarked returns a route's entry, foreign instead of adoptable unless it goes out by the
// external interface or a device of ours: only those does an older flannel leave.
func (d *planeDesired) unmarked(e state.Entry, have state.Observed, devices map[string]bool) state.Entry {
	if e.Front != nil {
		front := d.unmarked(*e.Front, have, devices)
		e.Front = &front
	}
	if e.Owner != state.Adoptable {
		return e
	}
	if dev := state.DeviceOf(e.Object, have); !d.spec.Host.IsExternal(dev) && !devices[dev] {
		e.Owner = state.Foreign
	}
	return e
}

// predictFlush drops from what is there that which is wanted and goes when a device
// is made anew, or gets another MAC address: it has to be made in the same pass.
// Nothing is lost if it does not go.
func (d *planeDesired) predictFlush(have state.Observed) {
	for dev := range d.devices {
		e, there := have[state.LinkKey(dev)]
		if !there {
			continue
		}
		op := state.Op{Verb: state.Replace, Want: d.want[state.LinkKey(dev)], Have: e.Object}
		if op.Flushes(dev) == state.FlushNone {
			continue
		}
		maps.DeleteFunc(have, func(k state.Key, e state.Entry) bool {
			return d.want[k] != nil && e.Front == nil && state.FlushedBy(e.Object, op)
		})
	}
}

// newer returns which of the wanted objects are not to be put in place for now: while
// what is known of the peers was saved once, the kernel may know better where they are. It
// holds what a daemon put there in the moment in which it learned of it, and the file was
// written some time after. before is what was there when that was last looked at: what was
// as wanted then, and is not now, was not changed by a daemon.
func (d *planeDesired) newer(have state.Observed, before *seen) map[state.Key]bool {
	if !d.spec.Partial {
		return nil
	}
	devices := d.ownership(have, before, nil).Devices
	newer := make(map[state.Key]bool)
	for k, want := range d.want {
		e, there := have[k]
		was, known := before.at(k)
		if d.local[k] || !there || e.Owner == state.Foreign || state.Same(want, e.Object) || known && state.Same(want, was.Object) {
			continue
		}
		dev := state.PeerDevice(e.Object)
		if !devices[dev] && !d.spec.Host.IsExternal(dev) { // another interface is one that was the external one before
			continue
		}
		newer[k] = true
		if to, ok := state.LeadsTo(want); ok { // nothing leads there then
			newer[to] = true
		}
	}
	return newer
}

// retained returns what tells which objects must stay even if they are not
// wanted: those of leases that cannot be read; all, while there may be leases that are not
// known.
func (d *planeDesired) retained(have state.Observed) func(state.Object) bool {
	if d.spec.Partial {
		return func(state.Object) bool { return true }
	}
	unreadable := make(map[netip.Prefix]bool)
	for _, s := range d.unreadable {
		for _, dst := range s.Prefixes() {
			unreadable[dst], unreadable[state.BySubnetAddr(dst.Addr())] = true, true
		}
	}
	isUnreadable := func(o state.Object) bool { return unreadable[state.LeaseSubnet(o)] && !d.onUnwanted(o) }
	led := make(map[state.Key]bool) // by what is kept, as it is and as it was last wanted
	if len(unreadable) > 0 {
		lead := func(o state.Object) {
			if to, ok := state.LeadsTo(o); ok && isUnreadable(o) {
				led[to] = true
			}
		}
		for _, e := range have {
			lead(e.Object)
		}
		for _, o := range d.want {
			lead(o)
		}
	}
	return func(o state.Object) bool { return isUnreadable(o) || led[o.Key()] }
}

// onUnwanted reports whether an object is part of a device that nobody wants.
func (d *planeDesired) onUnwanted(o state.Object) bool {
	dev := o.Key().Scope
	needs := state.Needs(o)
	return dev != "" && len(needs) > 0 && needs[0] == state.LinkKey(dev) && !d.devices[dev]
}
