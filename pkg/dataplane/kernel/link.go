package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
	"flanneld/pkg/tun"
)

// isOurs reports whether a device of that name belongs to this program: a VXLAN
// device is flannel, a dot and a number, and a TUN device is without the dot.
func isOurs(name string) bool { return numbered(name, "flannel.") || isTUN(name) }

func isTUN(name string) bool { return numbered(name, "flannel") }

func numbered(name, prefix string) bool {
	digits, ok := strings.CutPrefix(name, prefix)
	for i := range len(digits) {
		ok = ok && digits[i] >= '0' && digits[i] <= '9'
	}
	return ok && digits != ""
}

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
	// barred is set if it does not, while the host does. That is known from elsewhere.
	barred bool
}

// rawVXLAN is what a message says of a VXLAN device.
type rawVXLAN struct {
	vni      uint32
	lower    int
	local    netip.Addr
	port     uint16
	learning bool
	gbp      bool
	differs  string // what devices of ours do not have, and can't be changed
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
	r.forwards, r.queueLen = true, 1 // unless told otherwise
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
			r.forwards = decodeForwards(data)
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

// devconfForwarding is the number of the setting forwarding among those of an
// interface: IPV4_DEVCONF_FORWARDING.
const devconfForwarding = 1

// decodeForwards reads from the IFLA_AF_SPEC of a link message whether the interface
// forwards IPv4 packets that come in. Without any IPv4 settings it has nothing to say.
func decodeForwards(b []byte) bool {
	forwards := true
	for family, data := range attrs(b) {
		if family != unix.AF_INET {
			continue
		}
		for typ, settings := range attrs(data) {
			if typ == unix.IFLA_INET_CONF && len(settings) >= 4*devconfForwarding {
				forwards = u32(settings[4*(devconfForwarding-1):]) != 0
			}
		}
	}
	return forwards
}

// vxlanDefaults are the settings that this program leaves alone. One that a
// kernel does not know is as it should be. UDP checksums are not among them: a
// kernel before 4.6 makes devices without, and either is understood everywhere.
var vxlanDefaults = map[uint16]struct {
	name  string
	value byte // all bytes of it
}{
	unix.IFLA_VXLAN_TTL:               {"ttl", 0},
	unix.IFLA_VXLAN_TOS:               {"tos", 0},
	unix.IFLA_VXLAN_PORT_RANGE:        {"srcport", 0},
	unix.IFLA_VXLAN_PROXY:             {"proxy", 0},
	unix.IFLA_VXLAN_RSC:               {"rsc", 0},
	unix.IFLA_VXLAN_L2MISS:            {"l2miss", 0},
	unix.IFLA_VXLAN_L3MISS:            {"l3miss", 0},
	unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX: {"udp6zerocsumtx", 0},
	unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX: {"udp6zerocsumrx", 0},
	unix.IFLA_VXLAN_REMCSUM_TX:        {"remcsumtx", 0},
	unix.IFLA_VXLAN_REMCSUM_RX:        {"remcsumrx", 0},
	unix.IFLA_VXLAN_COLLECT_METADATA:  {"external", 0},
	unix.IFLA_VXLAN_LABEL:             {"flowlabel", 0},
	unix.IFLA_VXLAN_TTL_INHERIT:       {"ttl inherit", 0},
	unix.IFLA_VXLAN_DF:                {"df", 0},
	unix.IFLA_VXLAN_VNIFILTER:         {"vnifilter", 0},
	unix.IFLA_VXLAN_LIMIT:             {"maxaddress", 0},
	unix.IFLA_VXLAN_LOCALBYPASS:       {"nolocalbypass", 1},
}

func decodeVXLAN(b []byte) (v rawVXLAN) {
	for typ, data := range attrs(b) {
		switch typ {
		case unix.IFLA_VXLAN_ID:
			v.vni = u32(data)
		case unix.IFLA_VXLAN_LINK:
			v.lower = int(u32(data))
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			v.local, _ = netip.AddrFromSlice(data)
		case unix.IFLA_VXLAN_PORT:
			if len(data) >= 2 {
				v.port = uint16(data[0])<<8 | uint16(data[1])
			}
		case unix.IFLA_VXLAN_LEARNING:
			v.learning = len(data) > 0 && data[0] != 0
		case unix.IFLA_VXLAN_GBP:
			v.gbp = true
		case unix.IFLA_VXLAN_GROUP, unix.IFLA_VXLAN_GROUP6:
			v.differs = "with a group or remote"
		case unix.IFLA_VXLAN_GPE:
			v.differs = "with gpe"
		case unix.IFLA_VXLAN_REMCSUM_NOPARTIAL:
			v.differs = "with remcsum nopartial"
		}
		if d, ok := vxlanDefaults[typ]; ok {
			for _, x := range data {
				if x != d.value && (d.value == 0 || x == 0) {
					v.differs = "with " + d.name
				}
			}
		}
	}
	return v
}

// tunnel reports whether the device is a VXLAN device like ours in all that
// can't be changed once it is there.
func (r rawLink) tunnel() bool { return r.kind == "vxlan" && r.vxlan.differs == "" }

// object returns the VXLAN device, as far as the link is one.
func (r rawLink) object(links *links, checksumOff bool) state.VXLAN {
	v := state.VXLAN{Name: r.name, MAC: r.mac, MTU: r.mtu, TxChecksumOff: checksumOff}
	if r.kind == "vxlan" {
		v.VNI, v.Port, v.Lower, v.Local = r.vxlan.vni, r.vxlan.port, links.name(r.vxlan.lower), r.vxlan.local
		v.GBP, v.Learning = r.vxlan.gbp, r.vxlan.learning
	}
	return v
}

// entry turns the link, which has a name of ours, into what it is to the
// reconciler.
func (r rawLink) entry(links *links, checksumOff bool) state.Entry {
	if isTUN(r.name) {
		return r.tunEntry(links)
	}
	v := r.object(links, checksumOff)
	text := v.String()
	switch {
	case r.kind == "":
		text = "device " + r.name + " of no kind"
	case r.kind != "vxlan":
		text = "device " + r.name + " of kind " + r.kind
	case r.vxlan.differs != "":
		text += " " + r.vxlan.differs
	default:
		why := r.hindrance(links)
		if why == "" {
			return state.Entry{Object: v, Owner: state.Ours}
		}
		text += " " + why
	}
	u := unmanaged{Object: v, text: text, remake: !r.tunnel(), other: r.kind != "vxlan"}
	return state.Entry{Object: u, Owner: state.Ours}
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
func (l *links) ours(name string) bool { return isOurs(name) && !l.byName[name].foreign }

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
		if isOurs(r.name) {
			ours = append(ours, r)
		}
	}
	judge(before, ours)
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
		judge(before, found)
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
