package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// rawVXLAN is what a message has about a VXLAN device.
type rawVXLAN struct {
	vni      uint32
	lower    int
	local    netip.Addr
	port     uint16
	learning bool
	gbp      bool
	differs  string // what devices of ours do not have, and can't be changed
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

// forIPv6 reports whether the device is a VXLAN device over IPv6, which carries no IPv4.
func (r rawLink) forIPv6() bool { return r.kind == "vxlan" && r.vxlan.local.Is6() }

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

// vxlanEntry turns the link, which has the name of a VXLAN device of ours, into what it is
// to the reconciler.
func (r rawLink) vxlanEntry(links *links, checksumOff bool) state.Entry {
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

// ipv6MTU is the least that a device with IPv6 has, in bytes.
const ipv6MTU = 1280

// createVXLAN makes a device where there is none. If it cannot be as wanted, nothing stays.
func (k *Kernel) createVXLAN(v state.VXLAN) error {
	lower, err := k.links.find(v.Lower)
	if err != nil && lower == 0 {
		return err
	}
	var b batch
	b.appendVXLAN(v, lower)
	if err := b.exchangeOne(); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("%w (%w)", noLink("there is no interface "+v.Lower), err)
		}
		return explainVXLAN(v, err)
	}
	ignoreRouters(v.Name)
	if err := k.adjustVXLAN(v); err != nil {
		return errors.Join(err, deleteLink(v.Name))
	}
	return nil
}

// explainVXLAN names the cause of an error where the kernel has none.
func explainVXLAN(v state.VXLAN, err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the kernel lacks the module vxlan (%w)", err)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("UDP port %d belongs to another program, or to a VXLAN device with other settings (%w)", v.Port, err)
	}
	return err
}

// appendVXLAN adds the message that makes a device, down.
func (b *batch) appendVXLAN(v state.VXLAN, lower int) {
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

// repairVXLAN makes a device that is there as wanted: in place, or else anew.
func (k *Kernel) repairVXLAN(v state.VXLAN) error {
	r, ok, err := lookUp(v.Name)
	switch {
	case err != nil:
		return err
	case ok && r.tunnel() && v.SameTunnel(r.object(k.links, false)):
		return k.adjustVXLAN(v)
	case ok:
		// Better one that is wrong than none at all.
		if index, err := k.links.find(v.Lower); err != nil && index == 0 {
			return err
		}
		if err := deleteLink(v.Name); err != nil {
			return err
		}
	}
	return k.createVXLAN(v)
}

// adjustVXLAN changes what can be changed of a device. A new one needs that too:
// the kernel cuts an MTU that is too large without a word.
func (k *Kernel) adjustVXLAN(v state.VXLAN) error {
	if v.Local.Is6() && v.MTU < ipv6MTU {
		return fmt.Errorf("its MTU can't be %d: for IPv6 a device needs %d", v.MTU, ipv6MTU)
	}
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
			return fmt.Errorf("its MTU can't be %d: %d less than that of %s is the most (%w)", v.MTU, v.Overhead(), v.Lower, err)
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
		return explainVXLAN(v, err)
	}
	return nil
}
