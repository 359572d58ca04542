package dataplanetest

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// linkEntry is what the link is to the reconciler.
func (f *Fake) linkEntry(name string) state.Entry {
	l := f.links[name]
	if state.IsTUNName(name) {
		return l.tunEntry(name)
	}
	if l.vxlan == nil {
		return state.Entry{Object: unmanagedDevice{name, "device " + name, nil}, Owner: state.Ours}
	}
	v := f.vxlan(l)
	if !l.up || len(l.hindered) > 0 || v.Local.Is6() && v.MTU < ipv6MTU {
		return state.Entry{Object: unmanagedDevice{name, v.String() + " down or hindered", v}, Owner: state.Ours}
	}
	return state.Entry{Object: v, Owner: state.Ours}
}

// unmanagedDevice is a device that the program under test would not leave so.
type unmanagedDevice struct {
	name, text string
	is         state.Object // nil if it is something else
}

func (d unmanagedDevice) Key() state.Key   { return state.LinkKey(d.name) }
func (d unmanagedDevice) String() string   { return d.text }
func (d unmanagedDevice) Is() state.Object { return d.is }
func (d unmanagedDevice) InPlace() bool    { return d.is != nil }

func (*Fake) vxlan(l *link) state.VXLAN {
	v := *l.vxlan
	v.MAC, v.MTU = l.mac, l.mtu
	return v
}

// dumpDevices adds the devices of ours, and what is theirs.
func (f *Fake) dumpDevices(have state.Observed) {
	for name, l := range f.links {
		if !state.IsDeviceName(name) {
			continue
		}
		have[state.LinkKey(name)] = f.linkEntry(name)
		if !f.ours(name) {
			continue
		}
		for _, p := range l.addrs {
			e := addrEntry(name, p)
			have[e.Object.Key()] = e
		}
		for addr, n := range l.neighs {
			if n.permanent {
				e := n.entry(name, addr)
				have[e.Object.Key()] = e
			}
		}
		for m, dst := range l.fdb {
			d := state.FDB{Dev: name, MAC: m, Dst: dst}
			have[d.Key()] = state.Entry{Object: d, Owner: state.Ours}
		}
	}
}

// AddVXLAN makes a VXLAN device, which is up.
func (f *Fake) AddVXLAN(v state.VXLAN) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addVXLAN(v)
}

// addVXLAN makes a device, with the largest possible MTU if the one it asks for
// is larger.
func (f *Fake) addVXLAN(v state.VXLAN) error {
	lower := f.links[v.Lower]
	switch {
	case f.links[v.Name] != nil:
		return unix.EEXIST
	case lower == nil:
		return unix.ENODEV
	case !v.MAC.IsUnicast(), v.MTU < minMTU, v.MTU > maxMTU:
		return unix.EINVAL
	}
	for _, name := range sorted(f.links) {
		switch l := f.links[name]; {
		case l.vxlan == nil || l.vxlan.Port != v.Port || l.vxlan.Local.Is4() != v.Local.Is4():
		case l.vxlan.GBP == v.GBP && l.vxlan.VNI == v.VNI:
			return unix.EEXIST
		case l.vxlan.GBP != v.GBP && l.up: // they can't share the socket
			return unix.EADDRINUSE
		}
	}
	f.tellLink(v.Lower) // it has a device on it
	l := &link{mac: v.MAC, mtu: min(v.MTU, lower.mtu-v.Overhead()), vxlan: &v}
	f.addLink(v.Name, l)
	f.tellLink(v.Name)
	f.setLink(v.Name, true)
	return nil
}

// alterVXLAN makes the device there into v, whose tunnel is the same.
func (f *Fake) alterVXLAN(v state.VXLAN) error {
	l := f.links[v.Name]
	if v.MAC != l.mac {
		if err := f.setMAC(v.Name, v.MAC); err != nil {
			return err
		}
	}
	if err := f.setMTU(v.Name, v.MTU); err != nil {
		return err
	}
	if v.TxChecksumOff && !l.vxlan.TxChecksumOff {
		made := *l.vxlan
		made.TxChecksumOff = true
		l.vxlan = &made
		f.tellLink(v.Name)
	}
	f.unhinder(v.Name)
	f.setLink(v.Name, true)
	return nil
}

// Devices returns flannel's devices that are VXLAN devices and carry packets, by name.
func (f *Fake) Devices() []state.VXLAN {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []state.VXLAN
	for _, name := range sorted(f.links) {
		if l := f.links[name]; state.IsDeviceName(name) && l.vxlan != nil && l.up && len(l.hindered) == 0 {
			all = append(all, f.vxlan(l))
		}
	}
	return all
}

// DeviceAddrs returns the addresses of a link, in order.
func (f *Fake) DeviceAddrs(dev string) []netip.Prefix {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[dev]
	if l == nil {
		return nil
	}
	return slices.SortedFunc(slices.Values(l.addrs), netip.Prefix.Compare)
}
