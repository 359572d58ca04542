package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
	"flanneld/pkg/tun"
)

// rawLink is a link message, decoded.
type rawLink struct {
	link
	name   string
	alias  string
	flags  uint32
	kind   string
	mtu    int
	mac    state.MAC
	master int
	vxlan  rawVXLAN
	tun    rawTUN

	protoDown bool
	queueLen  uint32 // of packets to be sent
	forwards  bool   // IPv4 packets that come in
	rpFilter  uint32 // its reverse path filter of IPv4: 1 is strict
	noIPv6    bool   // it has no addresses of IPv6, and takes no packets
	// forwardingOff is set if it does not, while the host does, and should. The message does
	// not have it.
	forwardingOff bool
}

// decodeLink reads the payload of a RTM_NEWLINK or RTM_DELLINK message.
func decodeLink(b []byte) (rawLink, bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return rawLink{}, false
	}
	var r rawLink
	r.index, r.flags = int(int32(native.Uint32(b[4:]))), native.Uint32(b[8:])
	r.up = r.flags&unix.IFF_UP != 0
	elsewhere := false
	r.forwards, r.noIPv6, r.queueLen = true, true, 1 // unless the message has them
	r.tun = rawTUN{tap: native.Uint16(b[2:]) == unix.ARPHRD_ETHER}
	var info []byte
	for typ, data := range attrs(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			r.name = unix.ByteSliceToString(data)
		case unix.IFLA_IFALIAS:
			r.alias = unix.ByteSliceToString(data)
		case unix.IFLA_MTU:
			r.mtu = int(u32(data))
		case unix.IFLA_ADDRESS:
			r.mac, _ = macOf(data)
		case unix.IFLA_MASTER:
			r.master = int(u32(data))
		case unix.IFLA_LINK_NETNSID:
			elsewhere = true
		case unix.IFLA_PROTO_DOWN:
			r.protoDown = len(data) > 0 && data[0] != 0
		case unix.IFLA_TXQLEN:
			r.queueLen = u32(data)
		case unix.IFLA_AF_SPEC:
			r.decodeSettings(data)
		case unix.IFLA_LINKINFO:
			info = data
		}
	}
	if r.name == "" || r.index <= 0 {
		return rawLink{}, false
	}
	for typ, data := range attrs(info) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			r.kind = unix.ByteSliceToString(data)
		case unix.IFLA_INFO_DATA:
			switch r.kind {
			case "vxlan":
				r.vxlan = decodeVXLAN(data)
			case "tun":
				r.tun.decode(data)
			}
		}
	}
	if elsewhere {
		r.vxlan.differs = "with its packets in another network namespace"
	}
	return r, true
}

// The numbers of settings of an interface: those of IPv4 begin with 1, those of IPv6 with 0.
const (
	devconfForwarding  = 1  // IPV4_DEVCONF_FORWARDING
	devconfRPFilter    = 8  // IPV4_DEVCONF_RP_FILTER
	devconfDisableIPv6 = 26 // DEVCONF_DISABLE_IPV6
)

// decodeSettings reads from the IFLA_AF_SPEC of a link message whether the interface
// forwards IPv4 packets that come in, and which of them it takes, and whether it has IPv6.
// Without any IPv4 settings nothing is against it.
func (r *rawLink) decodeSettings(b []byte) {
	for family, data := range attrs(b) {
		for typ, settings := range attrs(data) {
			setting := func(i int) uint32 { return u32(settings[min(4*i, len(settings)):]) }
			switch {
			case family == unix.AF_INET && typ == unix.IFLA_INET_CONF && len(settings) >= 4*devconfForwarding:
				r.forwards, r.rpFilter = setting(devconfForwarding-1) != 0, setting(devconfRPFilter-1)
			case family == unix.AF_INET6 && typ == unix.IFLA_INET6_CONF:
				r.noIPv6 = setting(devconfDisableIPv6) != 0
			}
		}
	}
}

// entry turns the link, which has a name of ours, into what it is to the
// reconciler.
func (r rawLink) entry(links *links, checksumOff bool) state.Entry {
	if state.IsTUNName(r.name) {
		return r.tunEntry(links)
	}
	return r.vxlanEntry(links, checksumOff)
}

// links are the interfaces of the host.
type links struct {
	byIndex map[int]string
	byName  map[string]link
}

type link struct {
	index int
	up    bool
	// foreign is set if it has a name of ours, and it, with all that it has, is
	// not ours all the same.
	foreign bool
}

// name of the interface with the given index; empty if there is none.
func (l *links) name(index int) string { return l.byIndex[index] }

func (l *links) nameOrIndex(index int) string {
	if name, ok := l.byIndex[index]; ok {
		return name
	}
	return fmt.Sprintf("interface %d", index)
}

// ours reports whether a device's name is ours, and what it has.
func (l *links) ours(name string) bool { return state.IsDeviceName(name) && !l.byName[name].foreign }

// find returns the index of the interface called name, if it is up, and not
// someone else's in the place of ours.
func (l *links) find(name string) (int, error) {
	switch dev, ok := l.byName[name]; {
	case !ok:
		return 0, noLink("there is no interface " + name)
	case dev.foreign:
		return dev.index, noLink("device " + name + " is not ours")
	case !dev.up:
		return dev.index, noLink("interface " + name + " is down")
	default:
		return dev.index, nil
	}
}

// allLinks are the interfaces.
var allLinks = table{"interfaces", unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg)}

// listLinks returns the interfaces, and apart from those the ones that are ours.
func listLinks(ctx context.Context) (all *links, ours []rawLink, err error) {
	before := tun.Own()
	found, err := list(ctx, allLinks, decodeLink)
	if err != nil {
		return nil, nil, err
	}
	all = &links{byIndex: make(map[int]string, len(found)), byName: make(map[string]link, len(found))}
	for _, r := range found {
		all.byIndex[r.index] = r.name
		all.byName[r.name] = r.link
		if state.IsDeviceName(r.name) {
			ours = append(ours, r)
		}
	}
	complete(before, ours)
	for _, r := range ours {
		all.byName[r.name] = r.link
	}
	return all, ours, nil
}

// lookUp returns the link of the given name as it is now; false if there is
// none.
func lookUp(name string) (r rawLink, ok bool, err error) {
	before := tun.Own()
	r, ok, err = getLink(0, name)
	if ok {
		found := []rawLink{r}
		complete(before, found)
		r = found[0]
	}
	return r, ok, err
}

// getLink asks for a link by its index or, if that is 0, its name; false if there is none.
func getLink(index int, name string) (r rawLink, ok bool, err error) {
	b := batch{buf: make([]byte, unix.SizeofIfInfomsg)}
	native.PutUint32(b.buf[4:], uint32(index))
	if index == 0 {
		b.attr(unix.IFLA_IFNAME, append([]byte(name), 0))
	}
	err = ask(unix.RTM_GETLINK, 0, b.buf, func(payload []byte) {
		r, ok = decodeLink(payload)
	})
	if errors.Is(err, unix.ENODEV) {
		err = nil
	}
	return r, ok && (r.name == name || r.index == index), err
}

func macOf(b []byte) (state.MAC, bool) {
	if len(b) != len(state.MAC{}) {
		return state.MAC{}, false
	}
	return state.MAC(b), true
}

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
			return k.createTUN(w)
		}
		return k.repairTUN(w)
	case state.VXLAN:
		if op.Verb == state.Create {
			return k.createVXLAN(w)
		}
		return k.repairVXLAN(w)
	}
	if state.IsTUNName(op.Key().Scope) {
		return deleteTUN(op.Key().Scope)
	}
	return deleteLink(op.Key().Scope)
}

// ignoreRouters ends the kernel's own way to learn routers, which is not for a
// device between nodes. Where this is not allowed, it does little harm.
func ignoreRouters(dev string) {
	_ = setIPv6(dev, "accept_ra")
}

// setIPv6 sets one of a device's IPv6 settings to 0, for which there is no netlink message.
func setIPv6(dev, setting string) error {
	return os.WriteFile("/proc/sys/net/ipv6/conf/"+dev+"/"+setting, []byte("0"), 0)
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
	lost := s.send(b, func(_ uint32, errno syscall.Errno, text string) { err = refusal(errno, text) })
	return errors.Join(lost, err)
}
