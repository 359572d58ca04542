package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// applyLinks takes steps that are about devices. Devices are few and their
// steps have parts, so they go one by one; and after them the interfaces are
// not those of the last dump.
func (k *Kernel) applyLinks(ctx context.Context, ops []state.Op, errs []error) {
	k.devices.Lock()
	defer k.devices.Unlock()
	for i, op := range ops {
		errs[i] = k.applyLink(op)
	}
	if all, _, err := listLinks(ctx); err == nil {
		k.links = all // else what needs a new device fails, and is tried again
	}
}

func (k *Kernel) applyLink(op state.Op) error {
	switch w := op.Want.(type) {
	case state.TUN:
		if op.Verb == state.Create {
			return k.makeTUN(w)
		}
		return k.mendTUN(w)
	case state.VXLAN:
		if op.Verb == state.Create {
			return k.makeLink(w)
		}
		return k.mendLink(w)
	}
	if isTUN(op.Key().Scope) {
		return deleteTUN(op.Key().Scope)
	}
	return deleteLink(op.Key().Scope)
}

// makeLink makes a device where there is none; of one that cannot be as wanted
// nothing stays.
func (k *Kernel) makeLink(v state.VXLAN) error {
	lower, err := k.links.find(v.Lower)
	if err != nil && lower == 0 {
		return err
	}
	var b batch
	b.appendLink(v, lower)
	if err := b.exchangeOne(); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("%w (%w)", noLink("there is no interface "+v.Lower), err)
		}
		return notMade(v, err)
	}
	ignoreRouters(v.Name)
	if err := k.adjustLink(v); err != nil {
		return errors.Join(err, deleteLink(v.Name))
	}
	return nil
}

// ignoreRouters ends the kernel's own way to learn routers, which is not for a
// device between nodes. Where this is not allowed, it does little harm.
func ignoreRouters(dev string) {
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+dev+"/accept_ra", []byte("0"), 0)
}

// notMade says more about an error where the kernel says little.
func notMade(v state.VXLAN, err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the kernel lacks the module vxlan (%w)", err)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("UDP port %d belongs to another program, or to a VXLAN device with other settings (%w)", v.Port, err)
	}
	return err
}

// appendLink adds the message that makes a device, down.
func (b *batch) appendLink(v state.VXLAN, lower int) {
	b.begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, make([]byte, unix.SizeofIfInfomsg))
	b.attr(unix.IFLA_IFNAME, append([]byte(v.Name), 0))
	b.attr(unix.IFLA_ADDRESS, v.MAC[:])
	b.attr32(unix.IFLA_MTU, uint32(v.MTU))
	info := b.nest(unix.IFLA_LINKINFO)
	b.attr(unix.IFLA_INFO_KIND, []byte("vxlan"))
	data := b.nest(unix.IFLA_INFO_DATA)
	b.attr32(unix.IFLA_VXLAN_ID, v.VNI)
	b.attr32(unix.IFLA_VXLAN_LINK, uint32(lower))
	local := uint16(unix.IFLA_VXLAN_LOCAL)
	if v.Local.Is6() {
		local = unix.IFLA_VXLAN_LOCAL6
	}
	b.attr(local, v.Local.AsSlice())
	b.attr(unix.IFLA_VXLAN_PORT, []byte{byte(v.Port >> 8), byte(v.Port)})
	learning := byte(0)
	if v.Learning {
		learning = 1
	}
	b.attr(unix.IFLA_VXLAN_LEARNING, []byte{learning})
	if v.GBP {
		b.attr(unix.IFLA_VXLAN_GBP, nil)
	}
	b.endNest(data)
	b.endNest(info)
	b.end()
}

// mendLink makes a device right that is there: in place, or else anew.
func (k *Kernel) mendLink(v state.VXLAN) error {
	r, ok, err := lookUp(v.Name)
	switch {
	case err != nil:
		return err
	case ok && r.tunnel() && v.SameTunnel(r.object(k.links, false)):
		return k.adjustLink(v)
	case ok:
		// Better one that is wrong than none at all.
		if index, err := k.links.find(v.Lower); err != nil && index == 0 {
			return err
		}
		if err := deleteLink(v.Name); err != nil {
			return err
		}
	}
	return k.makeLink(v)
}

// adjustLink changes what can be changed of a device. A new one needs that too:
// the kernel cuts an MTU that is too large without a word.
func (k *Kernel) adjustLink(v state.VXLAN) error {
	r, ok, err := lookUp(v.Name)
	switch {
	case err != nil:
		return err
	case !ok:
		return noLink("the device is gone")
	}
	off, err := txChecksumOff(v.Name)
	if err != nil {
		return fmt.Errorf("asking about its checksums: %w", err)
	}
	have := r.object(k.links, off)
	if !r.tunnel() || !v.SameTunnel(have) {
		return fmt.Errorf("the kernel makes it %s", r.entry(k.links, off).Object)
	}
	if have.MAC != v.MAC {
		if err := setLink(r.index, 0, 0, func(b *batch) { b.attr(unix.IFLA_ADDRESS, v.MAC[:]) }); err != nil {
			return fmt.Errorf("setting its MAC address: %w", err)
		}
	}
	if have.MTU != v.MTU {
		err := setLink(r.index, 0, 0, func(b *batch) { b.attr32(unix.IFLA_MTU, uint32(v.MTU)) })
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("its MTU can't be %d: 50 less than that of %s is the most (%w)", v.MTU, v.Lower, err)
		}
		if err != nil {
			return fmt.Errorf("setting its MTU: %w", err)
		}
	}
	if v.TxChecksumOff && !off {
		if err := setTxChecksum(v.Name, false); err != nil {
			return fmt.Errorf("switching checksums off: %w", err)
		}
	}
	if err := r.removeHindrances(k.links); err != nil {
		return notMade(v, err)
	}
	return nil
}

func deleteLink(name string) error {
	var b batch
	b.begin(unix.RTM_DELLINK, 0, 0, make([]byte, unix.SizeofIfInfomsg))
	b.attr(unix.IFLA_IFNAME, append([]byte(name), 0))
	b.end()
	if err := b.exchangeOne(); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// setLink changes those flags of an interface that are in mask, and the attributes that
// change adds.
func setLink(index int, flags, mask uint32, change func(*batch)) error {
	header := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(header[4:], uint32(index))
	native.PutUint32(header[8:], flags)
	native.PutUint32(header[12:], mask)
	var b batch
	b.begin(unix.RTM_NEWLINK, 0, 0, header)
	if change != nil {
		change(&b)
	}
	b.end()
	return b.exchangeOne()
}

// exchangeOne sends the one message of the batch, and returns what the kernel
// has against it.
func (b *batch) exchangeOne() (err error) {
	s := &sender{}
	defer s.close()
	lost := s.send(b, 0, func(_ uint32, errno syscall.Errno, text string) { err = refusal(errno, text) })
	return errors.Join(lost, err)
}
