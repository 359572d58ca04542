package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
	"flanneld/pkg/tun"
)

// otherTUN is a device by the name of a TUN device of ours such as this program
// does not leave it.
type otherTUN struct {
	state.TUN // as far as it is one
	text      string
}

func (t otherTUN) String() string { return t.text }

// rawTUN is what a message says of a TUN device. A kernel before 4.17 says
// nothing.
type rawTUN struct {
	tap      bool
	fleeting bool // gone with the process that holds it
}

func (t *rawTUN) decode(b []byte) {
	for typ, data := range attrs(b) {
		if len(data) == 0 {
			continue
		}
		switch typ {
		case unix.IFLA_TUN_TYPE:
			t.tap = data[0] != unix.IFF_TUN
		case unix.IFLA_TUN_PERSIST:
			t.fleeting = data[0] == 0
		}
	}
}

// inTheWay says what a link is that has the name of a TUN device of ours and
// can't be made into one; empty of any other link. A name like flannel0 is
// nothing special: such a link may well be of use to someone.
func (r rawLink) inTheWay() string {
	switch {
	case !isTUN(r.name):
		return ""
	case r.kind == "":
		return "of no kind"
	case r.kind != "tun":
		return "of kind " + r.kind
	case r.tun.tap:
		return "of kind tap"
	case r.tun.fleeting:
		return "of kind tun that belongs to another process"
	}
	return ""
}

// tunEntry turns the link, which has the name of a TUN device of ours, into what
// it is to the reconciler. That it has no carrier, for want of a process that
// is attached, is no matter.
func (r rawLink) tunEntry(links *links) state.Entry {
	t := state.TUN{Name: r.name, MTU: r.mtu}
	if what := r.inTheWay(); what != "" {
		text := fmt.Sprintf("device %s %s", r.name, what)
		return state.Entry{Object: otherTUN{t, text}, Text: text}
	}
	var odd string
	switch {
	case r.master != 0:
		odd = " that is a port of " + links.nameOrIndex(r.master)
	case !r.up:
		odd = " that is down"
	default:
		return state.Entry{Object: t, Owner: state.Ours}
	}
	return state.Entry{Object: otherTUN{t, t.String() + odd}, Owner: state.Ours}
}

// makeTUN makes a device where there is none, which netlink can't; of one that
// cannot be as wanted nothing stays. It may have as many queues as its user has
// a need of.
func (k *Kernel) makeTUN(t state.TUN) error {
	if _, err := tun.Create(t.Name, true); err != nil {
		return err
	}
	ignoreRouters(t.Name)
	r, ok, err := lookUp(t.Name)
	switch {
	case err != nil:
	case !ok:
		return noLink("the device is gone")
	default:
		err = k.adjustTUN(r, t)
	}
	if err != nil {
		return errors.Join(err, deleteTUN(t.Name))
	}
	return nil
}

// mendTUN makes a device right that is there, in place. It never makes way for
// one: what else has the name is not ours.
func (k *Kernel) mendTUN(t state.TUN) error {
	r, ok, err := lookUp(t.Name)
	if err != nil {
		return err
	}
	if !ok {
		return k.makeTUN(t)
	}
	return k.adjustTUN(r, t)
}

func (k *Kernel) adjustTUN(r rawLink, t state.TUN) error {
	if err := r.spare(); err != nil {
		return err
	}
	if err := k.release(r); err != nil {
		return err
	}
	if r.mtu != t.MTU {
		if err := setLink(r.index, func(b *batch) { b.attr32(unix.IFLA_MTU, uint32(t.MTU)) }); err != nil {
			return fmt.Errorf("setting its MTU: %w", err)
		}
	}
	return setUp(r)
}

// deleteTUN deletes a device that stays without a process.
func deleteTUN(name string) error {
	r, ok, err := lookUp(name)
	if !ok || err != nil {
		return err
	}
	if err := r.spare(); err != nil {
		return err
	}
	return deleteLink(name)
}

// spare returns why the link is not to be touched; nil if it may be.
func (r rawLink) spare() error {
	if what := r.inTheWay(); what != "" {
		return fmt.Errorf("device %s %s is in the way, and not ours: it has to be removed by hand", r.name, what)
	}
	return nil
}
