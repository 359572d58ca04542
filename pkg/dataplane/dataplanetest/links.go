package dataplanetest

import (
	"math"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// link is an interface with what is its own.
type link struct {
	index  int
	up     bool
	mac    state.MAC
	mtu    int
	addrs  []netip.Prefix
	vxlan  *state.VXLAN // how it was made; nil if it is of another kind
	alias  string
	tun    *tunLink // what makes it a TUN device; nil if it is of another kind
	neighs map[netip.Addr]neigh
	fdb    map[state.MAC]netip.Addr
	// hindered is how someone has it carry no packets.
	hindered map[Hindrance]bool
}

func (l *link) has(a netip.Addr) bool {
	return slices.ContainsFunc(l.addrs, func(p netip.Prefix) bool { return p.Addr() == a })
}

// address returns the one that a link has and that stands for p: in IPv6, whatever the length.
func (l *link) address(p netip.Prefix) (netip.Prefix, bool) {
	i := slices.IndexFunc(l.addrs, func(q netip.Prefix) bool { return p == q || p.Addr().Is6() && p.Addr() == q.Addr() })
	if i < 0 {
		return netip.Prefix{}, false
	}
	return l.addrs[i], true
}

// sighting is what a target knows of a link.
type sighting struct {
	index   int
	up      bool
	foreign bool
}

const (
	defaultMTU = 1500
	minMTU     = 68
	maxMTU     = 65535
	ipv6MTU    = 1280
)

// AddLink adds a link, which is up. It has an index that no link had before.
func (f *Fake) AddLink(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[name] != nil {
		return unix.EEXIST
	}
	f.addLink(name, &link{up: true, mtu: defaultMTU})
	f.tellLink(name)
	return nil
}

func (f *Fake) addLink(name string, l *link) {
	f.lastIndex++
	l.index = f.lastIndex
	if l.mac == (state.MAC{}) {
		l.mac = state.MAC{2, 0, 0, byte(l.index >> 16), byte(l.index >> 8), byte(l.index)}
	}
	l.neighs = make(map[netip.Addr]neigh)
	l.fdb = make(map[state.MAC]netip.Addr)
	l.hindered = make(map[Hindrance]bool)
	f.links[name] = l
}

// DelLink deletes a link, and with it the devices on top of it and all routes
// and nexthops that go there.
func (f *Fake) DelLink(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[name] == nil {
		return unix.ENODEV
	}
	f.dropLink(name)
	return nil
}

func (f *Fake) dropLink(name string) {
	l := f.links[name]
	for _, upper := range sorted(f.links) {
		if v := f.links[upper].vxlan; v != nil && v.Lower == name {
			f.dropLink(upper)
		}
	}
	f.flushFDB(name)
	if l.vxlan != nil {
		f.tellLink(l.vxlan.Lower) // no more has a device on it
	}
	if l.up {
		l.up = false
		f.tellLink(name)
	}
	f.flushNeighs(name)
	f.flushNexthops(name)
	f.flush(name, anyFamily)
	f.flushAddrs(name, anyFamily)
	f.endTunnel(name)
	e := f.linkEvent(name)
	e.Gone = e.Key != state.Key{}
	delete(f.links, name)
	f.tell(e)
}

// SetLink takes a link down, and with it its neighbours, its addresses of IPv6 and all routes
// and nexthops that go there, or up; then only the routes to its own networks come
// back. Devices on top of it stay as they are.
func (f *Fake) SetLink(name string, up bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[name] == nil {
		return unix.ENODEV
	}
	f.setLink(name, up)
	return nil
}

func (f *Fake) setLink(name string, up bool) {
	l := f.links[name]
	if l.up == up {
		return
	}
	l.up = up
	f.tellLink(name)
	if !up {
		f.flushNeighs(name)
		f.flushNexthops(name)
		f.flush(name, anyFamily)
		f.flushAddrs(name, only(ip.V6))
		return
	}
	for _, p := range l.addrs {
		f.connect(name, p)
	}
}

// Hinder has a device carry no packets, until it is altered.
func (f *Fake) Hinder(name string, how Hindrance) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[name]
	switch {
	case l == nil:
		return unix.ENODEV
	case l.tun == nil && (how == NoQueue || how == NoCarrier), l.vxlan == nil && (how <= NoARP || how == NoIPv6):
		return unix.EOPNOTSUPP
	case l.hindered[how], how == NoForwarding && l.vxlan != nil && l.vxlan.Local.Is6():
		return nil
	}
	l.hindered[how] = true
	f.tellLink(name)
	switch how {
	case NoARP:
		f.flushNeighs(name)
	case ProtoDown, ProtoDownReasoned: // plain routes stay
		f.flushNexthops(name)
	case NoIPv6:
		f.flushIPv6(name)
	case NoQueue, NoCarrier, NoForwarding:
	}
	return nil
}

// flushIPv6 drops all of IPv6, but nexthops and what is by them.
func (f *Fake) flushIPv6(name string) {
	f.flushFamilyNeighs(name, only(ip.V6))
	f.flush(name, only(ip.V6))
	f.flushAddrs(name, only(ip.V6))
}

// unhinder takes back what Hinder did.
func (f *Fake) unhinder(name string) {
	l := f.links[name]
	if len(l.hindered) == 0 {
		return
	}
	arp := l.hindered[NoARP]
	clear(l.hindered)
	f.tellLink(name)
	if arp {
		f.flushNeighs(name)
	}
}

// HasLink reports whether there is an interface of that name.
func (f *Fake) HasLink(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.links[name] != nil
}

// SetMAC changes a link's hardware address; with that, even to the same, go its
// neighbours.
func (f *Fake) SetMAC(name string, m state.MAC) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.setMAC(name, m)
}

func (f *Fake) setMAC(name string, m state.MAC) error {
	l := f.links[name]
	switch {
	case l == nil:
		return unix.ENODEV
	case l.tun != nil:
		return unix.EOPNOTSUPP
	case !m.IsUnicast():
		return unix.EADDRNOTAVAIL
	}
	l.mac = m
	f.tellLink(name)
	f.flushNeighs(name)
	return nil
}

// SetMTU changes a link's MTU. With one that is too small for IPv6, all of that goes. That of a device on top of it stays, though it
// be too large now.
func (f *Fake) SetMTU(name string, mtu int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.setMTU(name, mtu)
}

func (f *Fake) setMTU(name string, mtu int) error {
	l := f.links[name]
	if l == nil {
		return unix.ENODEV
	}
	most := maxMTU
	if l.vxlan != nil {
		most = f.links[l.vxlan.Lower].mtu - l.vxlan.Overhead()
	}
	switch {
	case mtu == l.mtu:
		return nil
	case mtu < minMTU || mtu > most:
		return unix.EINVAL
	}
	l.mtu = mtu
	f.tellLink(name)
	if mtu < ipv6MTU {
		f.flushIPv6(name)
	}
	return nil
}

// AddAddr gives a link an address, and a route to the address's network.
func (f *Fake) AddAddr(name string, p netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addAddr(name, p)
}

func (f *Fake) addAddr(name string, p netip.Prefix) error {
	l := f.links[name]
	if l == nil {
		return unix.ENODEV
	}
	if _, there := l.address(p); there {
		return unix.EEXIST
	}
	switch {
	case p.Addr().Is4():
	case l.hindered[NoIPv6]:
		return unix.EACCES
	case l.mtu < ipv6MTU:
		return unix.EINVAL
	}
	l.addrs = append(slices.Clone(l.addrs), p)
	f.tellAddr(name, p, false)
	if l.up {
		f.connect(name, p)
	}
	return nil
}

// DelAddr takes an address away. With its last address of IPv4 a link loses its
// neighbours, and all routes but those by nexthop objects; before, only the one
// to the address's network.
func (f *Fake) DelAddr(name string, p netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.delAddr(name, p)
}

func (f *Fake) delAddr(name string, p netip.Prefix) error {
	l := f.links[name]
	if l == nil || !slices.Contains(l.addrs, p) {
		return unix.EADDRNOTAVAIL
	}
	l.addrs = slices.DeleteFunc(slices.Clone(l.addrs), func(q netip.Prefix) bool { return p == q })
	f.tellAddr(name, p, true)
	same := func(q netip.Prefix) bool { return q.Masked() == p.Masked() }
	if l.up && !slices.ContainsFunc(l.addrs, same) {
		_ = f.remove(p.Masked(), connected(name, p), func(a alias) bool { return a == connected(name, p) })
	}
	if p.Addr().Is4() && !slices.ContainsFunc(l.addrs, func(q netip.Prefix) bool { return q.Addr().Is4() }) {
		f.flushFamilyNeighs(name, only(ip.V4))
		f.flush(name, only(ip.V4))
	}
	return nil
}

func (f *Fake) connect(name string, p netip.Prefix) {
	if p.IsSingleIP() {
		return
	}
	_, _ = f.insert(p.Masked(), connected(name, p), last) // another address may have brought it
}

// connected is the route to a network that a link is in. That of IPv6 has another metric than
// any of ours.
func connected(dev string, p netip.Prefix) alias {
	if p.Addr().Is6() {
		return alias{dev: dev, protocol: ProtoKernel, metric: math.MaxUint32}
	}
	return alias{dev: dev, link: true, protocol: ProtoKernel}
}

// linkEvent is about a link as it is. Only devices of ours have a key.
func (f *Fake) linkEvent(name string) dataplane.Event {
	e := dataplane.Event{Iface: name}
	if state.IsDeviceName(name) {
		e.Key, e.Entry = state.LinkKey(name), f.linkEntry(name)
	}
	return e
}

// addrEntry is what an address of a device of ours is to the reconciler. In IPv6 one that has
// a network is not as ours.
func addrEntry(dev string, p netip.Prefix) state.Entry {
	a := state.Addr{Dev: dev, Prefix: p}
	if p.Addr().Is6() && !p.IsSingleIP() {
		return state.Entry{Object: unmanaged[state.Addr]{a, a.String() + " which brings a route"}, Owner: state.Ours}
	}
	return state.Entry{Object: a, Owner: state.Ours}
}

// flushAddrs drops the addresses of a family.
func (f *Fake) flushAddrs(name string, family func(ip.Family) bool) {
	l := f.links[name]
	for _, p := range l.addrs {
		if family(ip.FamilyOf(p.Addr())) {
			l.addrs = slices.DeleteFunc(slices.Clone(l.addrs), func(q netip.Prefix) bool { return p == q })
			f.tellAddr(name, p, true)
		}
	}
}

func (f *Fake) tellLink(name string) { f.tell(f.linkEvent(name)) }

func (f *Fake) tellAddr(name string, p netip.Prefix, gone bool) {
	e := dataplane.Event{Iface: name}
	if f.ours(name) {
		e.Entry, e.Gone = addrEntry(name, p), gone
		e.Key = e.Entry.Object.Key()
	}
	f.tell(e)
}
