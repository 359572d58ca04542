package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/pkg/tun"
)

// rawTUN is what a message has about a TUN device. With a kernel before 4.17 it has
// nothing.
type rawTUN struct {
	tap           bool
	nonPersistent bool // gone with the process that holds it
	multiQueue    bool // made for several queues; of others the number is not known
	queues        int
	own           int // queues of this process, which is known from elsewhere
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
			t.nonPersistent = data[0] == 0
		case unix.IFLA_TUN_MULTI_QUEUE:
			t.multiQueue = data[0] != 0
		case unix.IFLA_TUN_NUM_QUEUES, unix.IFLA_TUN_NUM_DISABLED_QUEUES:
			t.queues += int(u32(data))
		}
	}
}

// held reports whether another process is attached to a TUN device.
func (r rawLink) held() bool {
	return tun.Attached(r.tun.multiQueue, r.tun.queues, r.flags&unix.IFF_LOWER_UP != 0) > r.tun.own
}

// complete sets what messages do not have about links whose names are ours, and so whose
// they are. Queues of this process, by device, are given as of before the links were asked
// for: it may have attached or detached in the meantime.
func complete(before map[string]int, ours []rawLink) {
	after := before
	if len(ours) > 0 {
		after = tun.Own()
	}
	for i := range ours {
		r := &ours[i]
		r.tun.own = max(before[r.name], after[r.name])
		r.foreign = r.foreignReason() != ""
		r.forwardingOff = !r.forwards && !r.forIPv6() && hostForwards(ip.V4)
	}
}

// noCarrier reports whether a TUN device that is up has no carrier, although this process
// is attached to it. Without a process that is, none has.
func (r rawLink) noCarrier() bool {
	attached := r.kind == "tun" && r.tun.own > 0 && r.tun.queues > 0
	return attached && r.up && r.flags&unix.IFF_LOWER_UP == 0
}

// foreignReason says why a link is foreign: it has the name of a TUN device of ours, is
// none, and cannot be made into one. It is empty for any other link. A name like flannel0
// is nothing special: such a link may well be of use to someone. So it takes our
// alias, or that this process is attached, and no other.
func (r rawLink) foreignReason() string {
	switch {
	case !state.IsTUNName(r.name):
		return ""
	case r.kind == "":
		return "of no kind"
	case r.kind != "tun":
		return "of kind " + r.kind
	case r.tun.tap:
		return "of kind tap"
	case r.tun.nonPersistent:
		return "of kind tun that belongs to another process"
	case r.held():
		return "of kind tun that another process is attached to"
	case r.tun.own == 0 && !state.IsTUNAlias(r.alias):
		return "of kind tun without an alias of ours"
	}
	return ""
}

// tunEntry turns the link, which has the name of a TUN device of ours, into what
// it is to the reconciler.
func (r rawLink) tunEntry(links *links) state.Entry {
	t := state.TUN{Name: r.name, MTU: r.mtu, Alias: r.alias}
	if why := r.foreignReason(); why != "" {
		text := fmt.Sprintf("device %s %s", r.name, why)
		return state.Entry{Object: unmanaged{Object: t, text: text}, Text: text}
	}
	if why := r.hindrance(links); why != "" {
		return state.Entry{Object: unmanaged{Object: t, text: t.String() + " " + why}, Owner: state.Ours}
	}
	return state.Entry{Object: t, Owner: state.Ours}
}

// createTUN makes a device where there is none, which netlink can't. If it cannot be as
// wanted, nothing stays. It may have as many queues as its user needs.
func (k *Kernel) createTUN(t state.TUN) error {
	if _, err := tun.Create(t.Name, t.Alias); err != nil {
		return err
	}
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

// repairTUN makes a device that is there as wanted, in place. It deletes none for another:
// what else has the name is not ours.
func (k *Kernel) repairTUN(t state.TUN) error {
	r, ok, err := lookUp(t.Name)
	if err != nil {
		return err
	}
	if !ok {
		return k.createTUN(t)
	}
	return k.adjustTUN(r, t)
}

func (k *Kernel) adjustTUN(r rawLink, t state.TUN) error {
	if err := r.checkOurs(); err != nil {
		return err
	}
	if !r.up {
		ignoreRouters(t.Name)
	}
	if r.alias != t.Alias {
		if err := setLink(r.index, 0, 0, func(b *batch) { b.attr(unix.IFLA_IFALIAS, []byte(t.Alias)) }); err != nil {
			return fmt.Errorf("setting its alias: %w", err)
		}
	}
	if r.mtu != t.MTU {
		if err := setLink(r.index, 0, 0, func(b *batch) { b.attr32(unix.IFLA_MTU, uint32(t.MTU)) }); err != nil {
			return fmt.Errorf("setting its MTU: %w", err)
		}
	}
	return r.removeHindrances(k.links)
}

// deleteTUN deletes a device that stays without a process, and that no other one
// is attached to.
func deleteTUN(name string) error {
	r, ok, err := lookUp(name)
	if !ok || err != nil {
		return err
	}
	if err := r.checkOurs(); err != nil {
		return err
	}
	if r.tun.own > 0 {
		return deleteLink(name) // its tunnel ends with it
	}
	if err := tun.Delete(name); !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil // gone since
}

// checkOurs returns an error if the link is foreign.
func (r rawLink) checkOurs() error {
	why := r.foreignReason()
	switch {
	case why == "":
		return nil
	case r.kind == "tun" && r.held():
		return fmt.Errorf("device %s is not ours: %w", r.name, tun.ErrHeld)
	}
	return fmt.Errorf("device %s %s is in the way, and not ours: it has to be removed by hand", r.name, why)
}
