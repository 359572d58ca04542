package network

import (
	"maps"
	"net/netip"
	"slices"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// mode is a configuration of the network.
type mode int

const (
	modeHostGW mode = iota
	modeVxlan
	modeDirect
	modeOther // another device
	modes     = iota
)

var modeConfigs = [modes]*subnet.Config{modeHostGW: {}, modeVxlan: {}, modeDirect: {}, modeOther: {}}

func (h *history) modeDesired(peers ...*subnet.Lease) Desired {
	var w Desired
	switch h.mode {
	case modeHostGW:
		return desire(peers...)
	case modeDirect:
		w = backendDesired(modeConfigs[h.mode], `{"DirectRouting":true}`, peers...)
	case modeOther:
		w = backendDesired(modeConfigs[h.mode], `{"VNI":2,"GBP":true,"Port":4791}`, peers...)
	default:
		w = backendDesired(modeConfigs[h.mode], ``, peers...)
	}
	if h.ownMAC > 0 {
		w.Own = withMAC(w.Own, hostMAC(h.ownMAC))
	}
	return w
}

// dev is the device of the mode.
func (h *history) dev() string {
	if h.mode == modeOther {
		return vxlanName(2)
	}
	return vxlanName(1)
}

func (h *history) neigh(n int) state.Neigh {
	e := neigh(n, h.via())
	e.Dev = h.dev()
	return e
}

func (h *history) fdb() state.FDB {
	return state.FDB{Dev: h.dev(), MAC: hostMAC(h.via()), Dst: peerAddr(h.via())}
}

func (h *history) anyForeignFDB() state.FDB {
	f := foreignFDB
	f.Dst = in.Of(f.Dst)
	f.Dev, f.MAC[5] = h.dev(), byte(h.IntN(3))
	return f
}

// device is as desired in modeVxlan or modeOther, or not quite.
func (h *history) device() state.VXLAN {
	v := device()
	if v.Name = h.dev(); h.mode == modeOther {
		v.VNI, v.GBP, v.Port = 2, true, 4791
	}
	switch h.IntN(5) {
	case 0:
		v.Port = 4789
	case 1:
		v.MAC = hostMAC(50)
	case 2:
		v.MTU = 1300
	}
	return v
}

// leaveDevice leaves a device of an earlier run, with some of what was on it.
func (h *history) leaveDevice() {
	if h.IntN(2) == 0 {
		return
	}
	h.check(h.fake.AddVXLAN(h.device()))
	h.check(h.fake.AddAddr(h.dev(), in.Prefix(ownAddr.Prefix)))
	for n := range historyPeers {
		if h.IntN(2) == 0 { // first the neighbour
			e := h.neigh(n)
			h.check(h.fake.AddNeigh(e, true))
			if h.IntN(4) > 0 {
				h.write(state.FDB{Dev: e.Dev, MAC: e.MAC, Dst: peerAddr(h.via())}) // a hand may take the neighbour away
			}
		}
	}
}

// lease is one that the peer n could have.
func (h *history) lease(n int) *subnet.Lease {
	switch {
	case h.mode == modeHostGW:
		return lease(n, h.via())
	case h.IntN(20) == 0:
		return written(lease(n, h.via())) // not migrated yet
	}
	l := vxlanLease(n, h.via())
	if h.IntN(3) == 0 {
		far(l)
	}
	switch h.IntN(8) {
	case 0:
		withMAC(l, hostMAC(h.IntN(4))) // of someone else, maybe this host
	case 1:
		l.BackendType = "host-gw"
	}
	return l
}

const vxlanHappenings = 23

func (h *history) happenVxlan(choices int) {
	dev, n := h.dev(), h.peer()
	switch h.IntN(choices) {
	case 0: // the configuration changes, and with it the leases, by and by
		if h.IntN(3) > 0 {
			return
		}
		for n := range h.unreadable {
			h.readable(n)
		}
		h.mode, h.moved = mode(h.IntN(modes)), true
		h.desire()
		for _, n := range slices.Sorted(maps.Keys(h.leases)) {
			h.wait()
			h.leases[n] = h.lease(n)
			h.desire()
		}
	case 1: // a lease is renewed
		if l := h.leases[n]; l != nil {
			renewed := *l
			h.leases[n] = written(&renewed)
			h.desire()
		}
	case 2:
		h.ownMAC = h.IntN(3) * 40
		h.desire()
	case 3, 4: // a hand writes a neighbour
		_ = h.fake.AddNeigh(h.neigh(n), h.IntN(2) == 0)
	case 5:
		_ = h.fake.DelNeigh(dev, h.neigh(n).Addr)
	case 6:
		e := foreignNeigh
		e.Dev, e.Addr = dev, in.Of(e.Addr)
		_ = h.fake.AddNeigh(e, true)
	case 7, 8: // ... an FDB entry
		h.write(h.fdb())
	case 9:
		f := h.fdb()
		h.handFDB[f] = true
		_ = h.fake.AppendFDB(f)
	case 10, 11:
		if all := h.fake.FDBs(dev); len(all) > 0 {
			_ = h.fake.DelFDB(all[h.IntN(len(all))]) // it may have gone since
		}
	case 12:
		h.write(h.anyForeignFDB())
	case 13:
		_ = h.fake.DelFDB(h.anyForeignFDB())
	case 14: // ... an address
		_ = h.fake.AddAddr(dev, in.Prefix([...]netip.Prefix{foreignAddr, ownAddr.Prefix, netip.MustParsePrefix("10.9.9.9/32"), netip.MustParsePrefix("10.255.0.0/16")}[h.IntN(4)]))
	case 15:
		if all := h.fake.DeviceAddrs(dev); len(all) > 0 {
			_ = h.fake.DelAddr(dev, all[h.IntN(len(all))])
		}
	case 16:
		_ = h.fake.SetMAC(dev, hostMAC(h.IntN(2)*50))
	case 17:
		_ = h.fake.SetMTU(dev, 1200+h.IntN(250))
	case 18, 19:
		_ = h.fake.SetLink(dev, h.IntN(2) == 0)
	case 20:
		_ = h.fake.DelLink(dev)
	case 21: // another one by that name
		_ = h.fake.DelLink(dev)
		if h.IntN(2) == 0 {
			_ = h.fake.AddLink(dev)
		} else {
			_ = h.fake.AddVXLAN(h.device())
		}
		_ = h.fake.AddAddr(dev, in.Prefix(ownAddr.Prefix))
	case 22:
		_ = h.fake.Hinder(dev, h.anyHindrance()) // if it is one that can be
	}
}

func (h *history) anyHindrance() dataplanetest.Hindrance {
	last := dataplanetest.NoForwarding
	if in.Family() == ip.V6 {
		last = dataplanetest.NoIPv6
	}
	return dataplanetest.Hindrance(h.IntN(int(last) + 1))
}

func (h *history) write(f state.FDB) {
	h.handFDB[f] = true
	_ = h.fake.AddFDB(f)
}

// checkDevices checks the devices and what is on them.
func (h *history) checkDevices(w Desired, want state.Set) {
	if why := h.unlikeBut(w, state.KindNexthop, state.KindRoute); why != "" {
		h.Error(why)
	}
	inNetwork := func(a netip.Addr) bool { return w.Networks[0].Contains(a) }
	for k, e := range h.dump() {
		if want[k] != nil || e.Owner != state.Ours || k.Kind >= state.KindNexthop {
			continue
		}
		if want[state.LinkKey(k.Scope)] == nil {
			continue
		}
		switch o := e.Object.(type) {
		case state.Addr:
			if !inNetwork(o.Prefix.Addr()) {
				continue
			}
		case state.Neigh:
			if !inNetwork(o.Addr) || h.stuck(o.Dev, o.MAC) {
				continue
			}
		case state.FDB:
			// A device that someone else had an address on was left as it was.
			if h.handFDB[o] || h.moved || h.stuck(o.Dev, o.MAC) {
				continue
			}
		}
		h.Errorf("there is %s", e.Object)
	}
	for _, op := range h.fake.Applied() {
		k := op.Key()
		switch {
		case k.Kind == state.KindFDB && k.MAC[3] == foreignFDB.MAC[3],
			k.Kind == state.KindNeigh && k.Prefix.Addr() == in.Of(foreignNeigh.Addr),
			k.Kind == state.KindAddr && k.Prefix == in.Prefix(foreignAddr):
			h.Errorf("%s, which is not ours", op)
		}
	}
}

// tidies reports whether a step deletes an old device. Nobody looks at what
// happens to these: it is found out when everything is looked at.
func (h *history) tidies(op state.Op) bool {
	return op.Verb == state.Delete && op.Key().Kind == state.KindLink && (h.mode == modeHostGW || op.Key().Scope != h.dev())
}

// checkOldDevices checks that of devices that are not wanted only those of
// someone else are there.
func (h *history) checkOldDevices() {
	var p planned
	p.set(h.desired())
	for k, e := range h.dump() {
		if k.Kind == state.KindLink && p.want[k] == nil && !h.foundForeign(k.Scope) {
			h.Errorf("there is %s", e.Object)
		}
	}
}

// foundForeign reports whether a device that is not wanted is someone else's,
// as far as anyone can see: it has not just addresses of ours, or is no tunnel.
func (h *history) foundForeign(dev string) bool {
	addrs := h.fake.DeviceAddrs(dev)
	network := desire().Networks[0]
	ours := slices.DeleteFunc(slices.Clone(addrs), func(p netip.Prefix) bool { return !network.Contains(p.Addr()) })
	_, tunnel := h.dump()[state.LinkKey(dev)].Object.(state.VXLAN)
	return len(ours) == 0 || len(ours) < len(addrs) || !tunnel
}

// stuck reports whether a route into the tunnel could not be changed, and so
// needs the entries of m.
func (h *history) stuck(dev string, m state.MAC) bool {
	return slices.ContainsFunc(h.fake.Neighs(dev), func(n state.Neigh) bool {
		return n.MAC == m && slices.ContainsFunc(h.fake.Routes(netip.PrefixFrom(n.Addr, n.Addr.BitLen())), func(r dataplanetest.Route) bool {
			return r.Onlink && r.Protocol == dataplanetest.ProtoOurs
		})
	})
}
