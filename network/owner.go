package network

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"flanneld/pkg/state"
	"flanneld/subnet"
)

// Whose an object is, the target can't always know: it says that all are ours
// that could be. Which of them are this daemon's follows from the networks that
// it has had. Another daemon, with another network, may be on the same host.

func (p *plan) inNetworks(a netip.Addr) bool {
	return slices.ContainsFunc(p.wish.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// canBeLease reports whether a destination is smaller than our network that it is in, and
// not too small for a lease.
func (p *plan) canBeLease(dst netip.Prefix) bool {
	return dst.Bits() <= subnet.MaxLen && slices.ContainsFunc(p.wish.Networks, func(n netip.Prefix) bool {
		return n.Contains(dst.Addr()) && n.Bits() < dst.Bits()
	})
}

// mine reports whether an object that nobody told us of before is this
// daemon's, as far as that can be seen by its key.
func (p *plan) mine(k state.Key, devices map[string]bool) bool {
	switch k.Kind {
	case state.KindNexthop:
		return p.inNetworks(state.NexthopSubnet(k.ID))
	case state.KindRoute:
		return p.inNetworks(k.Dst.Addr())
	case state.KindAddr, state.KindNeigh:
		return devices[k.Dev] && p.inNetworks(k.Dst.Addr())
	case state.KindMasquerade, state.KindForward:
		// In chains with our name, what is for no network is nobody's.
		return k.Dst.Bits() == 0 || p.inNetworks(k.Dst.Addr())
	case state.KindTunnel, state.KindTunnelPeer: // of this process
		return true
	case state.KindCloudRoute:
		return p.canBeLease(k.Dst)
	case state.KindLink, state.KindFDB, state.KindCloudInterface, state.KindCloudPeer:
	}
	return false
}

// disown marks those of a host's objects as foreign that are not this daemon's.
// before is what it had when that was last known, and left are entries that were
// ours and not wanted then.
func (p *plan) disown(have, before state.Have, left state.Set) {
	devices := p.ownDevices(have)
	vteps := sync.OnceValue(func() map[state.Key]bool { // of FDB entries that neighbours of ours lead to
		all := make(map[state.Key]bool)
		for k, e := range have {
			if n, ok := e.Object.(state.Neigh); ok && p.mine(k, devices) {
				all[state.FDBKey(n.Dev, n.MAC)] = true
			}
		}
		return all
	})
	for k, e := range have {
		if k.Kind == state.KindRoute && p.want[k] != nil {
			have[k] = p.unmarked(e, have, devices)
		}
		if e.Owner != state.Ours || p.want[k] != nil || p.mine(k, devices) {
			continue
		}
		if k.Kind == state.KindLink && devices[k.Dev] {
			continue
		}
		if k.Kind == state.KindFDB && devices[k.Dev] {
			// A neighbour entry is made before its FDB entry, and deleted after.
			was := before[k]
			if vteps()[k] || was.Owner == state.Ours && was.Object == e.Object || left[k] == e.Object {
				continue
			}
		}
		e.Owner = state.Foreign
		have[k] = e
	}
}

// unmarked returns a route's entry, foreign instead of adoptable unless it goes out by the
// external interface or a device of ours: only those does an older flannel leave.
func (p *plan) unmarked(e state.Entry, have state.Have, devices map[string]bool) state.Entry {
	if e.Front != nil {
		front := p.unmarked(*e.Front, have, devices)
		e.Front = &front
	}
	if e.Owner != state.Adoptable {
		return e
	}
	needs, _ := state.Needs(e.Object)
	if needs.Kind == state.KindNexthop {
		needs, _ = state.Needs(have[needs].Object)
	}
	if dev := needs.Dev; dev != p.wish.Host.Iface && !devices[dev] {
		e.Owner = state.Foreign
	}
	return e
}

// ownDevices are those that are wanted, and those of an earlier configuration: TUN
// devices with the alias of one of our networks, and other tunnels that have
// addresses, all of them in our networks.
func (p *plan) ownDevices(have state.Have) map[string]bool {
	devices := make(map[string]bool)
	for k, e := range have {
		if k.Kind != state.KindAddr || e.Owner != state.Ours {
			continue
		}
		ours, seen := devices[k.Dev]
		devices[k.Dev] = (ours || !seen) && p.inNetworks(k.Dst.Addr())
	}
	for dev := range devices {
		if _, ok := as(have[state.LinkKey(dev)]).(state.VXLAN); !ok {
			delete(devices, dev)
		}
	}
	for k, e := range have {
		if k.Kind != state.KindLink || e.Owner != state.Ours {
			continue
		}
		if t, ok := as(e).(state.TUN); ok {
			devices[k.Dev] = slices.ContainsFunc(p.wish.Networks, func(n netip.Prefix) bool { return t.Alias == state.TUNAlias(n) })
		}
	}
	for dev := range p.devices {
		devices[dev] = true
	}
	return devices
}

// as is what an entry holds, however odd it is.
func as(e state.Entry) state.Object {
	if odd, ok := e.Object.(state.Odd); ok {
		return odd.Is()
	}
	return e.Object
}

// foresee drops from what is there that which is wanted and goes when a device
// is made anew, or gets another MAC address: it has to be made in the same pass.
// Nothing is lost if it does not go.
func (p *plan) foresee(have state.Have) {
	for dev := range p.devices {
		want, ok := p.want[state.LinkKey(dev)].(state.VXLAN)
		if !ok {
			continue // a TUN device is not made anew
		}
		e, there := have[state.LinkKey(dev)]
		is, made := as(e).(state.VXLAN)
		odd, isOdd := e.Object.(state.Odd)
		stays := made && is.SameTunnel(want) && (!isOdd || odd.InPlace())
		if stays && is.MAC == want.MAC || !there {
			continue
		}
		maps.DeleteFunc(have, func(k state.Key, e state.Entry) bool {
			if p.want[k] == nil {
				return false
			}
			switch o := e.Object.(type) {
			case state.Neigh:
				return k.Dev == dev
			case state.Addr, state.FDB:
				return k.Dev == dev && !stays
			case state.Nexthop:
				return o.Dev == dev && !stays
			case state.Route:
				return o.Dev == dev && !stays && e.Front == nil
			}
			return false
		})
	}
}

// newer returns which of the wanted objects are not to be put in place for now: while
// what is known of the peers was saved once, the kernel may know better where they are. It
// holds what a daemon put there in the moment in which it learned of it, and the file was
// written some time after. before is what was there when that was last looked at: what was
// as wanted then, and is not now, was not changed by a daemon.
func (p *plan) newer(have, before state.Have) map[state.Key]bool {
	if !p.wish.Partial {
		return nil
	}
	devices := p.ownDevices(have)
	devices[p.wish.Host.Iface] = true
	newer := make(map[state.Key]bool)
	for k, want := range p.want {
		e, there := have[k]
		was, known := before[k]
		if p.local[k] || !there || e.Owner == state.Foreign || state.Same(want, e.Object) || known && state.Same(want, was.Object) {
			continue
		}
		switch is := e.Object.(type) {
		case state.Neigh:
			newer[k] = true
			if n, ok := want.(state.Neigh); ok { // what nothing leads to
				newer[state.FDBKey(n.Dev, n.MAC)] = true
			}
		case state.FDB:
			newer[k] = true
		case state.Nexthop:
			newer[k] = devices[is.Dev]
		case state.Route:
			// Another interface is one that was the external one before.
			newer[k] = devices[is.Dev]
		}
	}
	return newer
}

// keeper returns what tells which objects must stay even if they are not
// wanted: those of leases that cannot be read, and what others keep; all, while there may
// be leases that are not known.
func (p *plan) keeper(have state.Have) func(state.Key) bool {
	if p.wish.Partial {
		return func(state.Key) bool { return true }
	}
	kept := make(map[state.Key]bool)
	for _, s := range slices.AppendSeq(slices.Clone(p.wish.Unreadable), maps.Keys(p.unreadable)) {
		for _, dst := range s.Prefixes() {
			kept[state.Key{Kind: state.KindRoute, Dst: dst}] = true
			kept[state.Key{Kind: state.KindNexthop, ID: state.NexthopID(dst)}] = true
			for dev := range p.devices {
				k := state.NeighKey(dev, dst.Addr())
				kept[k] = true
				kept[state.TunnelPeer{Dev: dev, Subnet: dst}.Key()] = true
				for _, o := range []state.Object{have[k].Object, p.want[k]} { // its last state may linger
					if n, ok := o.(state.Neigh); ok {
						kept[state.FDBKey(dev, n.MAC)] = true
					}
				}
			}
		}
	}
	return func(k state.Key) bool {
		if k.Kind == state.KindCloudRoute { // the tables are the cloud's, and may be any
			return kept[state.Key{Kind: state.KindRoute, Dst: k.Dst}] || p.want[state.CloudPeerKey(k.Dev, k.Dst)] != nil
		}
		return kept[k]
	}
}
