package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/state"
)

// AddVXLAN makes a device by means other than those that are tested.
func (manual) AddVXLAN(v state.VXLAN) error {
	lower, err := netlink.LinkByName(v.Lower)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = v.Name, v.MTU, v.MAC[:]
	err = netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: int(v.VNI), VtepDevIndex: lower.Attrs().Index, SrcAddr: v.Local.AsSlice(),
		Port: int(v.Port), GBP: v.GBP, Learning: v.Learning,
	})
	if err == nil && v.TxChecksumOff {
		err = setTxChecksum(v.Name, false)
	}
	if err != nil {
		return err
	}
	return manual{}.SetLink(v.Name, true)
}

// held are the queues of the devices that go with their process.
var held []*os.File

// AddTUN makes a device by means other than those that are tested.
func (manual) AddTUN(name, alias string, persistent bool) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	t := &netlink.Tuntap{
		LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN, NonPersist: !persistent, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_MULTI_QUEUE,
	}
	if err := netlink.LinkAdd(t); err != nil {
		return err
	}
	if err := (manual{}).SetAlias(name, alias); err != nil {
		return err
	}
	for _, fd := range t.Fds {
		if !persistent {
			held = append(held, fd)
			continue
		}
		if err := fd.Close(); err != nil {
			return err
		}
	}
	return manual{}.SetLink(name, true)
}

func (manual) SetAlias(name, alias string) error {
	return onLink(name, func(l netlink.Link) error { return netlink.LinkSetAlias(l, alias) })
}

func (manual) Attach(name string, own bool) (detach func(), err error) {
	return hold(name, unix.IFF_TUN|unix.IFF_NO_PI|unix.IFF_MULTI_QUEUE, own)
}

// hold attaches to a device. It makes another process's queue of one of this
// process: one that is on its way through a socket is not this one's.
func hold(name string, flags uint16, own bool) (detach func(), err error) {
	queue, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(flags)
		err = unix.IoctlIfreq(int(queue.Fd()), unix.TUNSETIFF, req)
	}
	if err != nil || own {
		return func() { _ = queue.Close() }, err
	}
	defer queue.Close()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return func() {
		for _, end := range ends {
			_ = unix.Close(end)
		}
	}, unix.Sendmsg(ends[0], []byte{0}, unix.UnixRights(int(queue.Fd())), nil, 0)
}

func (manual) Hinder(name string, how dataplanetest.Hindrance) error {
	protoDown := []string{"ip", "link", "set", name, "protodown", "on"}
	argv := map[dataplanetest.Hindrance][]string{
		dataplanetest.ProtoDown:         protoDown,
		dataplanetest.ProtoDownReasoned: append(protoDown, "protodown_reason", "3", "on"),
		dataplanetest.NoARP:             {"ip", "link", "set", name, "arp", "off"},
		dataplanetest.NoQueue:           {"ip", "link", "set", name, "txqueuelen", "0"},
		dataplanetest.NoCarrier:         {"ip", "link", "set", name, "carrier", "off"},
	}[how]
	if how == dataplanetest.NoIPv6 {
		return os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	}
	if argv == nil {
		return os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/forwarding", []byte("0"), 0)
	}
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

func (manual) SetMAC(name string, m state.MAC) error {
	return onLink(name, func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, m[:]) })
}

func (manual) SetMTU(name string, mtu int) error {
	return onLink(name, func(l netlink.Link) error { return netlink.LinkSetMTU(l, mtu) })
}

// AddNeigh puts an entry in the place of the one that is there.
func (manual) AddNeigh(n state.Neigh, permanent bool) error {
	return onLink(n.Dev, func(l netlink.Link) error {
		s := unix.NUD_REACHABLE
		if permanent {
			s = unix.NUD_PERMANENT
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, Family: int(familyOf(n.Addr)), State: s, IP: n.Addr.AsSlice(), HardwareAddr: n.MAC[:],
		})
	})
}

func (manual) DelNeigh(dev string, a netip.Addr) error {
	return onLink(dev, func(l netlink.Link) error {
		return netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: int(familyOf(a)), IP: a.AsSlice()})
	})
}

// AddFDB puts an entry in the place of all that is there for its MAC address.
func (manual) AddFDB(f state.FDB) error {
	err := onLink(f.Dev, func(l netlink.Link) error {
		var b batch
		b.beginFDB(unix.RTM_DELNEIGH, 0, 0, f.MAC, l.Attrs().Index)
		return b.send()
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return editFDB(f, netlink.NeighSet)
}

func (manual) AppendFDB(f state.FDB) error { return editFDB(f, netlink.NeighAppend) }
func (manual) DelFDB(f state.FDB) error    { return editFDB(f, netlink.NeighDel) }

func editFDB(f state.FDB, edit func(*netlink.Neigh) error) error {
	return onLink(f.Dev, func(l netlink.Link) error {
		return edit(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, State: unix.NUD_PERMANENT, Flags: netlink.NTF_SELF,
			IP: f.Dst.AsSlice(), HardwareAddr: f.MAC[:],
		})
	})
}

func onLink(name string, f func(netlink.Link) error) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return f(l)
}
