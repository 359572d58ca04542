package targettest

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"flanneld/pkg/target"
)

// AddLink adds a link, which is up. It has an index that no link had before.
func (f *Fake) AddLink(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[name] != nil {
		return unix.EEXIST
	}
	f.lastIndex++
	f.links[name] = &link{index: f.lastIndex, up: true}
	f.tell(target.Event{Iface: name})
	return nil
}

// DelLink deletes a link, and with it all routes and nexthops that go there.
func (f *Fake) DelLink(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[name] == nil {
		return unix.ENODEV
	}
	delete(f.links, name)
	f.flushNexthops(name)
	f.flush(name)
	f.tell(target.Event{Iface: name})
	return nil
}

// SetLink takes a link down, and with it all routes and nexthops that go there,
// or up; then only the routes to its own networks come back.
func (f *Fake) SetLink(name string, up bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[name]
	if l == nil {
		return unix.ENODEV
	}
	if l.up == up {
		return nil
	}
	l.up = up
	f.tell(target.Event{Iface: name})
	if !up {
		f.flushNexthops(name)
		f.flush(name)
		return nil
	}
	for _, p := range l.addrs {
		f.connect(name, p)
	}
	return nil
}

// AddAddr gives a link an address, and a route to the address's network.
func (f *Fake) AddAddr(name string, p netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[name]
	if l == nil {
		return unix.ENODEV
	}
	if slices.Contains(l.addrs, p) {
		return unix.EEXIST
	}
	l.addrs = append(slices.Clone(l.addrs), p)
	f.tell(target.Event{Iface: name})
	if l.up {
		f.connect(name, p)
	}
	return nil
}

// DelAddr takes an address away. With its last address a link loses all routes
// but those by nexthop objects; before, only the one to the address's network.
func (f *Fake) DelAddr(name string, p netip.Prefix) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[name]
	if l == nil || !slices.Contains(l.addrs, p) {
		return unix.EADDRNOTAVAIL
	}
	l.addrs = slices.DeleteFunc(slices.Clone(l.addrs), func(q netip.Prefix) bool { return p == q })
	f.tell(target.Event{Iface: name})
	same := func(q netip.Prefix) bool { return q.Masked() == p.Masked() }
	if l.up && !slices.ContainsFunc(l.addrs, same) {
		_ = f.remove(p.Masked(), func(a alias) bool { return a == connected(name) })
	}
	if len(l.addrs) == 0 {
		f.flush(name)
	}
	return nil
}

func (f *Fake) connect(name string, p netip.Prefix) {
	_, _ = f.insert(p.Masked(), connected(name), last) // another address may have brought it
}

// connected is the route to a network that a link is in.
func connected(dev string) alias { return alias{dev: dev, protocol: ProtoKernel} }
