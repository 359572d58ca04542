package dataplanetest

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

func testDeviceAddr(r *fixture) {
	v, a := r.device(), r.deviceAddr()
	r.refused(create(a), dataplane.ErrNoLink)
	r.apply(remove(a))
	r.apply(create(v))
	r.wantGone(a)
	r.apply(create(a))
	r.wantThere(a)
	r.apply(create(a), replace(a, a)) // it is there already
	r.wantThere(a)
	second := a
	second.Prefix = r.prefix("10.9.0.0/32")
	r.apply(create(second))
	r.wantThere(a, second)
	if !r.v6() { // which has an address once
		wide := a
		wide.Prefix = netip.PrefixFrom(a.Prefix.Addr(), 24)
		r.check(r.host.AddAddr(v.Name, wide.Prefix))
		r.wantThere(a, wide, second)
		r.apply(remove(wide), remove(wide))
		r.wantGone(wide)
		r.wantThere(a, second)
	}
	r.apply(remove(a), remove(second))
	r.wantGone(a, second)
	r.apply(replace(a, a)) // of what is gone
	r.wantThere(a)
}

// givesWay checks that an entry of a device that is yet to be made needs that, is made over
// other, which is one of the same key, and deleted. In the end it is there.
func (r *fixture) givesWay(entry, other state.Object) {
	r.Helper()
	r.refused(create(entry), dataplane.ErrNoLink)
	r.apply(remove(entry))
	r.apply(create(r.device()))
	r.wantGone(entry)
	r.apply(create(entry), create(entry), replace(entry, entry))
	r.wantThere(entry)
	r.apply(create(other)) // over it
	r.wantThere(other)
	r.apply(replace(other, entry))
	r.wantThere(entry)
	r.apply(remove(entry), remove(entry))
	r.wantGone(entry)
	r.apply(replace(entry, entry)) // of what is gone
	r.wantThere(entry)
}

func testNeigh(r *fixture) {
	n := r.peerOf(0).neigh
	other := n
	other.MAC[5] = 99
	r.givesWay(n, other)
	r.check(r.host.AddNeigh(other, true))
	r.wantThere(other)
	r.check(r.host.DelNeigh(n.Dev, n.Addr))
	r.wantGone(n)
	if err := r.host.DelNeigh(n.Dev, n.Addr); !errors.Is(err, unix.ENOENT) {
		r.Errorf("deleting a neighbour that is gone: %v", err)
	}
	r.apply(remove(n))
}

// What the kernel learned is not ours, and gives way.
func testNeighNotPermanent(r *fixture) {
	v, n := r.device(), r.peerOf(0).neigh
	r.apply(create(v))
	for _, op := range []state.Op{create(n), replace(n, n)} {
		r.check(r.host.AddNeigh(n, false))
		r.wantGone(n)
		r.apply(op)
		r.wantThere(n)
	}
}

func testFDB(r *fixture) {
	d := r.peerOf(0).fdb
	other := d
	other.Dst = other.Dst.Next()
	r.givesWay(d, other)
	r.apply(remove(other)) // there is none to there
	r.wantThere(d)
	r.check(r.host.AddFDB(other))
	r.wantThere(other)
	r.check(r.host.DelFDB(other))
	r.wantGone(d)
	r.apply(remove(other))
	v6 := d
	v6.Dst = r.stranger()
	r.refused(create(v6), nil)
	r.wantGone(v6)
}

// A unicast address is at one host: what is appended counts only if it is the
// first.
func testFDBAppended(r *fixture) {
	v, d := r.device(), r.peerOf(0).fdb
	other := d
	other.Dst = other.Dst.Next()
	r.apply(create(v))
	r.check(r.host.AppendFDB(d))
	r.check(r.host.AppendFDB(other))
	r.wantThere(d)
	r.apply(create(other))
	r.wantThere(other)
	r.apply(remove(other))
	r.wantGone(d)
}

// Errors of a batch of all kinds belong to their steps.
func testDeviceBatch(r *fixture) {
	const n = 2000
	v := r.device()
	ops := creations(v, r.deviceAddr())
	bad := make([]bool, 2, 2+5*n)
	for i := range n {
		a := r.deviceAddr()
		a.Prefix = r.single(netip.AddrFrom4([4]byte{10, 100, byte(i / 256), byte(i)}))
		if i%7 == 0 {
			a.Dev = r.deviceName(9)
		}
		ops, bad = append(ops, create(a)), append(bad, i%7 == 0)
	}
	for i := range n {
		p := r.peerOf(i)
		ops, bad = append(ops, create(p.neigh)), append(bad, false)
		if i%11 == 0 {
			p.neigh.Dev = r.deviceName(9)
			ops, bad = append(ops, create(p.neigh)), append(bad, true)
		}
	}
	for i := range n {
		p := r.peerOf(i)
		if i%5 == 0 {
			p.fdb.Dst = r.stranger()
		}
		ops, bad = append(ops, create(p.fdb)), append(bad, i%5 == 0)
	}
	for i := range n {
		p := r.peerOf(i)
		p.nexthop.Onlink = i%3 != 0
		ops, bad = append(ops, create(p.nexthop)), append(bad, i%3 == 0)
	}
	for i := range n {
		ops, bad = append(ops, create(r.peerOf(i).route)), append(bad, i%3 == 0)
	}
	errs := r.target.Apply(r.Context(), ops)
	have := r.dump()
	for i, op := range ops {
		e := have[op.Key()]
		if there := e.Object != nil && state.Same(op.Want, e.Object); bad[i] != (errs[i] != nil) || bad[i] == there {
			r.Fatalf("step %d, %s: %v, and there is %+v", i, op, errs[i], e)
		}
		if k := op.Key(); k.Scope == r.deviceName(9) && !errors.Is(errs[i], dataplane.ErrNoLink) {
			r.Fatalf("step %d, %s: %v", i, op, errs[i])
		}
	}
	var removals []state.Op
	for i := len(ops) - 1; i >= 0; i-- {
		removals = append(removals, remove(ops[i].Want))
	}
	r.apply(removals...)
	for k, e := range r.dump() {
		if e.Owner == state.Ours {
			r.Errorf("%v is still there", k)
		}
	}
}

// A device that is full can be made anew and filled again.
func testFullDeviceReplaced(r *fixture) {
	const n = 2000
	v := r.device()
	w := v
	w.VNI++
	on := []state.Object{r.deviceAddr()}
	for _, at := range []func(peer) state.Object{
		func(p peer) state.Object { return p.neigh }, func(p peer) state.Object { return p.fdb },
		func(p peer) state.Object { return p.nexthop }, func(p peer) state.Object { return p.route },
	} {
		for i := range n {
			on = append(on, at(r.peerOf(i)))
		}
	}
	r.apply(append(creations(v), creations(on...)...)...)
	r.wantThere(append(on, v)...)
	r.apply(append([]state.Op{replace(v, w)}, creations(on...)...)...)
	r.wantThere(append(on, w)...)
	r.apply(remove(w))
	r.wantGone(append(on, w)...)
}
