package targettest

import (
	"errors"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// errInTheWay is of steps about a TUN device in whose place is something else.
var errInTheWay = errors.New("what is there is not ours: it has to be removed by hand")

// foreign reports whether the link has the name of a TUN device of ours and is
// none, or is held by another process. So are then its addresses.
func (l *link) foreign(name string) bool { return isTUN(name) && (!l.tun || l.held) }

func (l *link) sighting(name string) sighting { return sighting{l.index, l.up, l.foreign(name)} }

// ours reports whether what a link has is ours.
func (f *Fake) ours(name string) bool {
	l := f.links[name]
	return l != nil && isOurs(name) && !l.foreign(name)
}

func (l *link) tunEntry(name string) state.Entry {
	t := state.TUN{Name: name, MTU: l.mtu}
	switch {
	case l.foreign(name):
		text := "device " + name + " of another process"
		return state.Entry{Object: other[state.TUN]{t, text}, Text: text}
	case !l.up:
		return state.Entry{Object: other[state.TUN]{t, t.String() + " down"}, Owner: state.Ours}
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
		return errInTheWay
	case t.MTU < minMTU || t.MTU > maxMTU:
		return unix.EINVAL
	case l == nil:
		f.addLink(t.Name, &link{tun: true, mtu: defaultMTU})
		f.tellLink(t.Name)
	}
	if err := f.setMTU(t.Name, t.MTU); err != nil {
		return err
	}
	f.setLink(t.Name, true)
	return nil
}

// AddTUN makes a TUN device.
func (f *Fake) AddTUN(name string, persistent bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[name] != nil {
		return unix.EEXIST
	}
	f.addLink(name, &link{tun: true, held: !persistent, mtu: defaultMTU})
	f.tellLink(name)
	f.setLink(name, true)
	return nil
}

// TUNs returns flannel's TUN devices that stay and are up, by name.
func (f *Fake) TUNs() []state.TUN {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []state.TUN
	for _, name := range sorted(f.links) {
		if t, ok := f.links[name].tunEntry(name).Object.(state.TUN); ok && isTUN(name) {
			all = append(all, t)
		}
	}
	return all
}
