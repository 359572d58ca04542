package dataplanetest

import (
	"errors"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
	"flanneld/pkg/tun"
)

// errInTheWay is of steps about a TUN device in whose place is something else.
var errInTheWay = errors.New("what is there is not ours: it has to be removed by hand")

// tunLink is what a TUN device has beyond other links.
type tunLink struct {
	fleeting bool // gone with the process that made it
	own      int  // queues that the program under test is attached to, tunnels aside
	others   int  // queues that others are
	tunnel   bool // there is one of the program under test
}

// foreign reports whether the link has the name of a TUN device of ours and is
// none, or is held by another process, or nothing says that it is ours. So are
// then its addresses, and the routes to it.
func (l *link) foreign(name string) bool {
	if !state.IsTUNName(name) {
		return false
	}
	t := l.tun
	return t == nil || t.fleeting || t.others > 0 || t.own == 0 && !t.tunnel && !state.IsTUNAlias(l.alias)
}

func (l *link) sighting(name string) sighting { return sighting{l.index, l.up, l.foreign(name)} }

// untouchable returns why the link, which has the name of a TUN device of ours, is not
// to be touched; nil if it may be.
func (l *link) untouchable(name string) error {
	switch {
	case !l.foreign(name):
		return nil
	case l.tun != nil && l.tun.others > 0:
		return tun.ErrHeld
	}
	return errInTheWay
}

// ours reports whether what a link has is ours.
func (f *Fake) ours(name string) bool {
	l := f.links[name]
	return l != nil && state.IsDeviceName(name) && !l.foreign(name)
}

func (l *link) tunEntry(name string) state.Entry {
	t := state.TUN{Name: name, MTU: l.mtu, Alias: l.alias}
	switch {
	case l.foreign(name):
		text := "device " + name + " of others"
		return state.Entry{Object: unmanagedDevice{name, text, nil}, Text: text}
	case !l.up || len(l.hindered) > 0:
		return state.Entry{Object: unmanagedDevice{name, t.String() + " down or hindered", t}, Owner: state.Ours}
	}
	return state.Entry{Object: t, Owner: state.Ours}
}

// doTUN makes a TUN device, or alters the one that is there.
func (f *Fake) doTUN(verb state.Verb, t state.TUN) error {
	l := f.links[t.Name]
	switch {
	case l != nil && verb == state.Create:
		return unix.EEXIST
	case l != nil && l.foreign(t.Name):
		return l.untouchable(t.Name)
	case t.MTU < minMTU || t.MTU > maxMTU:
		return unix.EINVAL
	case l == nil:
		l = &link{tun: &tunLink{}, mtu: defaultMTU}
		f.addLink(t.Name, l)
	}
	if l.alias != t.Alias {
		l.alias = t.Alias
		f.tellLink(t.Name)
	}
	if err := f.setMTU(t.Name, t.MTU); err != nil {
		return err
	}
	f.unhinder(t.Name)
	f.setLink(t.Name, true)
	return nil
}

// AddTUN makes a TUN device.
func (f *Fake) AddTUN(name, alias string, persistent bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[name] != nil {
		return unix.EEXIST
	}
	f.addLink(name, &link{tun: &tunLink{fleeting: !persistent}, alias: alias, mtu: defaultMTU})
	f.tellLink(name)
	f.setLink(name, true)
	return nil
}

// SetAlias sets the alias of a link.
func (f *Fake) SetAlias(name, alias string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[name]
	if l == nil {
		return unix.ENODEV
	}
	l.alias = alias
	f.tellLink(name)
	return nil
}

// Attach attaches to a TUN device.
func (f *Fake) Attach(name string, own bool) (detach func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[name]
	if l == nil || l.tun == nil {
		return nil, unix.EINVAL
	}
	queues := &l.tun.others
	if own {
		queues = &l.tun.own
	}
	*queues++
	f.tellLink(name)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		*queues--
		if f.links[name] == l {
			f.tellLink(name)
		}
	}, nil
}

// TUNs returns flannel's TUN devices that stay and carry packets, by name.
func (f *Fake) TUNs() []state.TUN {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []state.TUN
	for _, name := range sorted(f.links) {
		if t, ok := f.links[name].tunEntry(name).Object.(state.TUN); ok && state.IsTUNName(name) {
			all = append(all, t)
		}
	}
	return all
}
