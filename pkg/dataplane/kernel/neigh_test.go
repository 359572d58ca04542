package kernel

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

func newDevice(t *testing.T) overlay {
	o := newOverlay(t)
	o.apply(create(vxlan()))
	return o
}

// The kinds of addresses that this program does not make.
func TestOddAddresses(t *testing.T) {
	o := newDevice(t)
	want := state.Addr{Dev: "flannel.1", Prefix: netip.MustParsePrefix("10.1.0.0/32")}
	l, err := netlink.LinkByName(want.Dev)
	o.check(err)
	for text, a := range map[string]*netlink.Addr{
		"scope 253": {Scope: unix.RT_SCOPE_LINK},
		"label":     {Label: "flannel.1:x"},
		"peer":      {Peer: &net.IPNet{IP: net.IP{10, 9, 9, 9}, Mask: net.CIDRMask(32, 32)}},
		"flags":     {ValidLft: 1000, PreferedLft: 1000},
		" flags":    {Flags: unix.IFA_F_NOPREFIXROUTE},
	} {
		a.IPNet = ipNet(want.Prefix)
		o.check(netlink.AddrAdd(l, a))
		e := o.dump()[want.Key()]
		if _, odd := e.Object.(unmanaged); !odd || e.Owner != state.Ours || !strings.Contains(e.Object.String(), text) {
			t.Errorf("%q: there is %+v", text, e)
		}
		o.apply(change(e.Object, want))
		o.is(want)
		o.apply(remove(want))
		o.check(netlink.AddrAdd(l, a))
		o.apply(remove(o.dump()[want.Key()].Object))
		o.none(want.Key())
	}
	// The plain one counts, and then the other.
	o.apply(create(want))
	o.check(netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(want.Prefix), Peer: &net.IPNet{IP: net.IP{10, 9, 9, 9}, Mask: net.CIDRMask(32, 32)}}))
	o.is(want)
	o.apply(remove(want))
	o.mend(want)
	// Of another interface none is told.
	for k := range o.dump() {
		if k.Kind == state.KindAddr && k != want.Key() {
			t.Errorf("there is %+v", k)
		}
	}
}

func TestNeighbours(t *testing.T) {
	o := newDevice(t)
	n := state.Neigh{Dev: "flannel.1", Addr: netip.MustParseAddr("10.1.2.0"), MAC: state.MAC{2, 1}}
	other := n
	other.MAC = state.MAC{2, 2}
	for _, op := range []state.Op{create(n), create(n), change(other, n)} {
		// What comes and goes by itself is not seen, and gives way.
		for _, there := range []*netlink.Neigh{
			nil,
			{State: unix.NUD_REACHABLE},
			{State: unix.NUD_STALE},
			{State: unix.NUD_NOARP},
			{State: unix.NUD_PERMANENT, Flags: unix.NTF_ROUTER},
			{State: unix.NUD_PERMANENT, Flags: unix.NTF_EXT_LEARNED},
			{State: unix.NUD_REACHABLE, Flags: unix.NTF_EXT_LEARNED},
		} {
			if there != nil {
				there.LinkIndex, there.Family, there.IP, there.HardwareAddr = o.index(n.Dev), unix.AF_INET, n.Addr.AsSlice(), other.MAC[:]
				o.check(netlink.NeighAdd(there))
			}
			o.none(n.Key())
			o.apply(op)
			o.is(n)
			o.check(o.AddNeigh(other, true))
			o.is(other)
			o.apply(op)
			o.is(n)
			o.apply(remove(other), remove(other)) // whatever the MAC address
			o.none(n.Key())
		}
	}
	// A proxied address is no neighbour.
	o.check(netlink.NeighAdd(&netlink.Neigh{LinkIndex: o.index(n.Dev), Family: unix.AF_INET, Flags: netlink.NTF_PROXY, IP: n.Addr.AsSlice()}))
	o.none(n.Key())
	o.apply(create(n))
	o.is(n)
	// A device that goes down takes its neighbours along, not the rest.
	f := state.FDB{Dev: n.Dev, MAC: n.MAC, Dst: netip.MustParseAddr("192.168.5.3")}
	a := state.Addr{Dev: n.Dev, Prefix: netip.MustParsePrefix("10.1.0.0/32")}
	o.apply(create(f), create(a))
	o.check(o.SetLink(n.Dev, false))
	o.none(n.Key())
	o.is(f)
	o.is(a)
}

// Permanent neighbours do not count against the limit of the table.
func TestNeighbourLimit(t *testing.T) {
	const limit = "/proc/sys/net/ipv4/neigh/default/gc_thresh3"
	o := newDevice(t)
	if text, err := os.ReadFile(limit); err == nil {
		t.Logf("gc_thresh3 is %s", strings.TrimSpace(string(text)))
	}
	var ops []state.Op
	for i := range 3000 {
		ops = append(ops, create(state.Neigh{
			Dev: "flannel.1", Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), MAC: state.MAC{2, 0, byte(i >> 8), byte(i)},
		}))
	}
	o.apply(ops...)
	have := o.dump()
	for _, op := range ops {
		if have[op.Key()].Object != op.Want {
			t.Fatalf("%s: there is %+v", op, have[op.Key()])
		}
	}
	for _, errno := range []unix.Errno{unix.ENOBUFS, unix.ENOMEM} {
		if err := explain(ops[0], errno, ""); !strings.Contains(err.Error(), "gc_thresh3") {
			t.Error(err)
		}
	}
}

func TestFDB(t *testing.T) {
	o := newDevice(t)
	f := state.FDB{Dev: "flannel.1", MAC: state.MAC{2, 1}, Dst: netip.MustParseAddr("192.168.5.3")}
	other := f
	other.Dst = netip.MustParseAddr("192.168.5.4")
	o.apply(create(f), create(f))
	o.is(f)
	o.apply(remove(other))
	o.is(f)
	o.apply(change(f, other))
	o.is(other)
	o.apply(create(f)) // over it
	o.is(f)
	o.apply(remove(f), remove(f))
	o.none(f.Key())
	o.check(o.AddFDB(f))
	o.is(f)
	// One MAC address is at one host: to append to it changes nothing.
	o.check(o.AppendFDB(other))
	o.is(f)
	o.apply(remove(f))
	o.none(f.Key())
	o.check(o.AppendFDB(f))
	o.is(f)
	o.check(o.DelFDB(f))

	// The listing, if this is the one thing that is there.
	o.apply(create(f))
	l, err := netlink.NeighList(o.index(f.Dev), unix.AF_BRIDGE)
	o.check(err)
	if len(l) != 1 || l[0].State != unix.NUD_PERMANENT || l[0].Flags != netlink.NTF_SELF || l[0].Vlan != 0 || l[0].VNI != 0 {
		t.Errorf("listed as %+v", l)
	}
}

// The kinds of FDB entries that this program does not make.
func TestOddFDB(t *testing.T) {
	o := newDevice(t)
	f := state.FDB{Dev: "flannel.1", MAC: state.MAC{2, 1}, Dst: netip.MustParseAddr("192.168.5.3")}
	add := func(state uint16, flags byte, mac state.MAC, more func(*batch)) {
		t.Helper()
		header := [unix.SizeofNdMsg]byte{0: unix.AF_BRIDGE, 10: flags | unix.NTF_SELF}
		native.PutUint32(header[4:], uint32(o.index(f.Dev)))
		native.PutUint16(header[8:], state)
		var b batch
		b.begin(unix.RTM_NEWNEIGH, addNew, 0, header[:])
		b.attr(unix.NDA_LLADDR, mac[:])
		more(&b)
		o.check(b.send())
	}
	to := func(b *batch) { b.addr(unix.NDA_DST, netip.MustParseAddr("192.168.5.4")) }
	for name, more := range map[string]func(*batch){
		"port": func(b *batch) { to(b); b.attr(unix.NDA_PORT, []byte{1, 2}) },
		"VNI":  func(b *batch) { to(b); b.attr32(unix.NDA_VNI, 99) },
		"via":  func(b *batch) { to(b); b.attr32(unix.NDA_IFINDEX, uint32(o.index("eth0"))) },
	} {
		add(unix.NUD_PERMANENT, 0, f.MAC, more)
		e := o.dump()[f.Key()]
		if _, odd := e.Object.(unmanaged); !odd || e.Owner != state.Ours {
			t.Errorf("%s: there is %+v", name, e)
		}
		o.mend(f)
		o.apply(remove(f))
	}
	for _, flags := range []byte{unix.NTF_ROUTER, unix.NTF_EXT_LEARNED} {
		add(unix.NUD_PERMANENT, flags, f.MAC, to)
		if _, odd := o.dump()[f.Key()].Object.(unmanaged); !odd {
			t.Errorf("with flags %#x there is %+v", flags, o.dump()[f.Key()])
		}
		o.mend(f)
		o.apply(remove(f))
	}
	// Learned entries and static ones are not seen, and give way.
	for _, s := range []uint16{unix.NUD_REACHABLE, unix.NUD_REACHABLE | unix.NUD_NOARP} {
		add(s, 0, f.MAC, to)
		o.none(f.Key())
		o.apply(create(f))
		o.is(f)
		o.apply(remove(f))
		o.none(f.Key())
	}
	for _, m := range []state.MAC{{}, {1, 0, 0x5e, 0, 0, 1}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		add(unix.NUD_PERMANENT, 0, m, to)
		o.none(state.FDBKey(f.Dev, m))
	}
}

// A nexthop of another sort under our number and with our mark.
func TestReplaceNexthopOfAnotherSort(t *testing.T) {
	o := newOverlay(t)
	n := state.Nexthop{ID: 7, Via: netip.MustParseAddr("192.168.5.9"), Dev: "eth0"}
	other := n
	other.ID = 8
	o.check(o.SetLink("lo", true)) // blackholes are there
	defer func() { o.check(o.SetLink("lo", false)) }()
	for name, add := range map[string]func(*batch){
		"group":     func(b *batch) { b.attr(unix.NHA_GROUP, native.AppendUint64(native.AppendUint32(nil, other.ID), 0)[:8]) },
		"blackhole": func(b *batch) { b.attr(unix.NHA_BLACKHOLE, nil) },
		"fdb":       func(b *batch) { b.addr(unix.NHA_GATEWAY, n.Via); b.attr(11, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.T = t
			o.apply(create(other))
			family := byte(unix.AF_INET)
			if name == "group" {
				family = unix.AF_UNSPEC
			}
			var b batch
			b.begin(unix.RTM_NEWNEXTHOP, addNew, 0, []byte{family, 0, RouteProtocol, 0, 0, 0, 0, 0})
			b.attr32(unix.NHA_ID, n.ID)
			add(&b)
			o.check(b.send())
			if e := o.dump()[n.Key()]; !e.Object.(unmanaged).remake || e.Owner != state.Ours {
				t.Fatalf("there is %+v", e)
			}
			o.mend(n)
			o.apply(remove(n), remove(other))
		})
	}
	for _, id := range []uint32{1, 2} {
		n.ID = id
		n.Onlink = id == 2
		o.apply(create(n), create(state.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(id)}), 24), Via: n.Via, Dev: n.Dev, Onlink: n.Onlink}))
	}
	r := state.Route{Dst: netip.MustParsePrefix("10.1.0.0/24"), Via: n.Via, Dev: n.Dev}
	for range 2 { // onlink or not is a difference, and can be changed
		o.is(r)
		r2 := r
		r2.Onlink = !r.Onlink
		o.apply(change(r, r2))
		o.is(r2)
		r = r2
		n2 := n
		n2.Onlink = !n.Onlink
		o.apply(change(n, n2))
		o.is(n2)
		n = n2
	}
}
