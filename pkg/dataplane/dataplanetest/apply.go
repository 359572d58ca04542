package dataplanetest

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// Apply takes the steps one by one.
func (f *Fake) Apply(ctx context.Context, ops []state.Op) []error {
	defer f.alone()()
	errs := make([]error, len(ops))
	err := f.pause(ctx)
	for i, op := range ops {
		if err == nil {
			errs[i] = f.step(op)
		} else {
			errs[i] = err
		}
	}
	_ = f.pause(ctx) // the answer takes its time, too
	return errs
}

func (f *Fake) step(op state.Op) error {
	validate(op)
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.attempt(op)
	if err != nil {
		f.failed[op.Key()] = true
	} else {
		delete(f.failed, op.Key())
	}
	return err
}

func (f *Fake) attempt(op state.Op) error {
	if err := f.refused[op.Key()]; err != nil {
		return err
	}
	if f.faults.hit(f.faults.Refuse) {
		return unix.ENOMEM
	}
	before := f.violations
	f.inspect(op)
	if err := f.do(op); err != nil {
		f.violations = before
		return err
	}
	f.applied = append(f.applied, op)
	if f.faults.hit(f.faults.LoseAnswer) {
		return errAnswerLost
	}
	return nil
}

func (f *Fake) do(op state.Op) error {
	switch op.Key().Kind {
	case state.KindLink:
		return f.doLink(op)
	case state.KindAddr:
		return f.doAddr(op)
	case state.KindNeigh:
		return f.doNeigh(op)
	case state.KindFDB:
		return f.doFDB(op)
	case state.KindTunnel:
		return f.doTunnel(op)
	case state.KindTunnelPeer:
		return f.doPeer(op)
	case state.KindNexthop:
		return f.doNexthop(op)
	case state.KindMasquerade, state.KindForward:
		return f.doRules(op)
	default:
		return f.doRoute(op)
	}
}

func (f *Fake) doLink(op state.Op) error {
	name := op.Key().Scope
	l := f.links[name]
	if op.Verb == state.Delete {
		if l != nil {
			if err := l.untouchable(name); err != nil {
				return err
			}
			f.dropLink(name)
		}
		delete(f.seen, name)
		return nil
	}
	var err error
	if v, ok := op.Want.(state.VXLAN); ok && v.Local.Is6() && v.MTU < ipv6MTU {
		return unix.EINVAL
	}
	if t, ok := op.Want.(state.TUN); ok {
		err = f.doTUN(op.Verb, t)
	} else if v := op.Want.(state.VXLAN); op.Verb == state.Replace && l != nil && l.vxlan != nil && l.vxlan.SameTunnel(v) {
		err = f.alterVXLAN(v)
	} else {
		if lower, ok := f.seen[v.Lower]; !ok || f.links[v.Lower] == nil || f.links[v.Lower].index != lower.index {
			return noLink("there is no interface " + v.Lower)
		}
		if op.Verb == state.Replace && l != nil {
			f.dropLink(name)
			delete(f.seen, name)
		}
		err = f.addVXLAN(v)
	}
	if err == nil {
		f.seen[name] = f.links[name].sighting(name)
	}
	return err
}

func (f *Fake) doAddr(op state.Op) error {
	k := op.Key()
	if op.Verb == state.Delete {
		_ = f.delAddr(k.Scope, objectOf[state.Addr](op.Have).Prefix) // it may be gone
		return nil
	}
	if err := f.usable(k.Scope); err != nil {
		return err
	}
	if there, ok := f.links[k.Scope].address(k.Prefix); ok {
		if _, made := op.Have.(state.Addr); there == op.Want.(state.Addr).Prefix || made {
			f.tellAddr(k.Scope, there, false) // the kernel says so again
			return nil
		}
		_ = f.delAddr(k.Scope, there) // it is made anew
	}
	return f.addAddr(k.Scope, op.Want.(state.Addr).Prefix)
}

func (f *Fake) doNeigh(op state.Op) error {
	k := op.Key()
	if op.Verb == state.Delete {
		_ = f.removeNeigh(k.Scope, k.Prefix.Addr()) // it may be gone
		delete(f.lost, k)
		return nil
	}
	if err := f.usable(k.Scope); err != nil {
		return err
	}
	return f.putNeigh(k.Scope, k.Prefix.Addr(), neigh{mac: op.Want.(state.Neigh).MAC, permanent: true})
}

func (f *Fake) doFDB(op state.Op) error {
	k := op.Key()
	if op.Verb == state.Delete {
		_ = f.removeFDB(op.Have.(state.FDB)) // it may be gone
		delete(f.lost, k)
		return nil
	}
	if err := f.usable(k.Scope); err != nil {
		return err
	}
	return f.putFDB(op.Want.(state.FDB))
}

func (f *Fake) doNexthop(op state.Op) error {
	id := op.Key().ID
	if op.Verb == state.Delete {
		_ = f.removeNexthop(id) // it may be gone
		return nil
	}
	n := op.Want.(state.Nexthop)
	if err := f.usable(n.Dev); err != nil {
		return err
	}
	if err := f.putNexthop(Nexthop{n, ProtoOurs}, op.Verb == state.Replace); err != nil {
		return err
	}
	h := f.nexthops[id]
	h.step = true
	f.nexthops[id] = h
	return nil
}

func (f *Fake) doRoute(op state.Op) error {
	dst := op.Key().Prefix
	if op.Verb == state.Delete {
		is := aliasOf(Route{Route: objectOf[state.Route](op.Have), Protocol: ProtoOurs})
		_ = f.remove(dst, is, func(a alias) bool {
			a.link = false // the kernel does not look at this
			if op.Key().ID == 0 && dst.Addr().Is4() {
				a.metric = 0 // nor at this, unless it is told one
			}
			return is.fits()(a)
		}) // it may be gone
		return nil
	}
	r := op.Want.(state.Route)
	if err := f.usable(r.Dev); err != nil {
		return err
	}
	how := first
	if op.Verb == state.Replace {
		how = inPlace
	}
	since := f.since[dst]
	was, err := f.insert(dst, aliasOf(Route{Route: r, Protocol: ProtoOurs}), how)
	if was != nil && was.protocol != ProtoOurs && was.protocol != ProtoBoot && f.known(since) && f.known(f.nexthops[was.nexthop].since) {
		f.violate(op, "took the place of "+f.entry(dst, *was).Text)
	}
	return err
}

// usable returns why nothing can be put on dev; nil if it can. Dev is the
// interface of that name as of the last dump, and the steps since.
func (f *Fake) usable(dev string) error {
	seen, ok := f.seen[dev]
	switch now := f.links[dev]; {
	case !ok:
		return noLink("there is no interface " + dev)
	case seen.foreign:
		return noLink("device " + dev + " is not ours")
	case !seen.up:
		return noLink("interface " + dev + " is down")
	case now == nil || now.index != seen.index:
		return unix.ENODEV
	}
	return nil
}

// noLink is a dataplane.ErrNoLink that says more.
type noLink string

func (e noLink) Error() string { return string(e) }

func (e noLink) Is(err error) bool { return err == dataplane.ErrNoLink }

// validate panics if op is none that a target may be asked for.
func validate(op state.Op) {
	var ok bool
	switch op.Verb {
	case state.Create:
		ok = op.Want != nil && op.Have == nil
	case state.Replace:
		ok = op.Want != nil && op.Have != nil && op.Want.Key() == op.Have.Key()
	case state.Delete:
		ok = op.Want == nil && op.Have != nil
	}
	if !ok {
		panic(fmt.Sprintf("no target can do this: %#v", op))
	}
	switch k := op.Key(); k.Kind {
	case state.KindLink:
		ok = state.IsDeviceName(k.Scope)
	case state.KindAddr, state.KindNeigh:
		ok = state.IsDeviceName(k.Scope) && k.Prefix.IsValid()
	case state.KindFDB:
		ok = state.IsDeviceName(k.Scope) && k.MAC.IsUnicast()
	case state.KindRoute:
		ok = k.Prefix.IsValid()
	case state.KindNexthop:
		ok = k.ID != 0
	case state.KindTunnel:
		ok = state.IsTUNName(k.Scope)
	case state.KindTunnelPeer:
		ok = state.IsTUNName(k.Scope) && k.Prefix.IsValid()
	case state.KindMasquerade, state.KindForward:
		ok = k.Scope != "" && k.Prefix.IsValid()
	default:
		ok = false
	}
	switch w := op.Want.(type) {
	case nil, state.Addr, state.Route, state.Nexthop, state.Tunnel, state.Forward:
	case state.Masquerade:
		ok = ok && w.Own.IsValid()
	case state.VXLAN:
		ok = ok && w.MAC.IsUnicast() && state.IsVXLANName(w.Name)
	case state.TUN:
		ok = ok && state.IsTUNName(w.Name)
	case state.TunnelPeer:
		ok = ok && w.Host.IsValid()
	case state.Neigh:
		ok = ok && w.MAC.IsUnicast()
	case state.FDB:
		ok = ok && w.Dst.IsValid()
	default:
		panic(fmt.Sprintf("%T is nothing to wish for", op.Want))
	}
	if !ok {
		panic(fmt.Sprintf("no target can do this: %#v", op))
	}
}

func objectOf[T state.Object](o state.Object) T {
	if other, ok := o.(unmanaged[T]); ok {
		return other.object
	}
	return o.(T)
}
