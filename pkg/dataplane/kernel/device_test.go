package kernel

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// overlay is a host with eth0 in 192.168.5.0/24 and 2001:db8:5::/64, for a device on it.
type overlay struct {
	*testing.T
	manual
	k *Kernel
}

func newOverlay(t *testing.T) overlay {
	o := overlay{t, freshHost(t), New()}
	o.check(o.AddLink("eth0"))
	for _, a := range []string{"192.168.5.1/24", "2001:db8:5::1/64"} {
		o.check(o.AddAddr("eth0", netip.MustParsePrefix(a)))
	}
	o.dump()
	return o
}

func (o overlay) check(err error) {
	o.Helper()
	if err != nil {
		o.Fatal(err)
	}
}

func (o overlay) dump() state.Observed {
	o.Helper()
	have, err := o.k.Dump(o.Context(), nil)
	o.check(err)
	return have
}

func (o overlay) apply(ops ...state.Op) {
	o.Helper()
	for i, err := range o.k.Apply(o.Context(), ops) {
		if err != nil {
			o.Fatalf("%s: %v", ops[i], err)
		}
	}
}

func (o overlay) refused(op state.Op, want error, text string) {
	o.Helper()
	err := o.k.Apply(o.Context(), []state.Op{op})[0]
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		o.Errorf("%s: %v; want the error %v, with the text %q", op, err, want, text)
	}
}

// is checks that there is just that, and that it is ours.
func (o overlay) is(want state.Object) {
	o.Helper()
	if e := o.dump()[want.Key()]; !state.Same(want, e.Object) || e.Owner != state.Ours || e.Front != nil {
		o.Fatalf("there is %+v; want %s", e, want)
	}
}

func (o overlay) none(k state.Key) {
	o.Helper()
	if e, ok := o.dump()[k]; ok {
		o.Fatalf("there is %+v", e)
	}
}

// mend does to what is there as the reconciler would, until it is as wanted.
func (o overlay) mend(want state.Object) {
	o.Helper()
	for range 3 {
		ops, blocked := state.Diff(state.Set{want.Key(): want}, o.dump(), []state.Key{want.Key()}, func(state.Object) bool { return false })
		if len(blocked) > 0 {
			o.Fatalf("%v", blocked)
		}
		if len(ops) == 0 {
			break
		}
		o.apply(ops...)
	}
	o.is(want)
}

func (o overlay) index(name string) int {
	o.Helper()
	l, err := netlink.LinkByName(name)
	o.check(err)
	return l.Attrs().Index
}

func vxlan() state.VXLAN {
	return state.VXLAN{
		Name: "flannel.1", VNI: 1, Port: 8472, Lower: "eth0", Local: netip.MustParseAddr("192.168.5.1"),
		MAC: state.MAC{0x0a, 1, 2, 3, 4, 5}, MTU: 1450,
	}
}

// vxlanOf is the device for a family.
func vxlanOf(f ip.Family) state.VXLAN {
	v := vxlan()
	if f == ip.V6 {
		v.Name, v.Local = state.VXLANName(f, v.VNI), netip.MustParseAddr("2001:db8:5::1")
		v.MTU = 1500 - v.Overhead()
	}
	return v
}

// forEachFamily runs a test for each.
func forEachFamily(t *testing.T, test func(*testing.T, ip.Family)) {
	for _, f := range ip.Families {
		t.Run(f.String(), func(t *testing.T) { test(t, f) })
	}
}

func create(o state.Object) state.Op { return state.Op{Verb: state.Create, Want: o} }
func remove(o state.Object) state.Op { return state.Op{Verb: state.Delete, Have: o} }
func change(have, want state.Object) state.Op {
	return state.Op{Verb: state.Replace, Want: want, Have: have}
}

func TestMakeDevice(t *testing.T) { forEachFamily(t, testMakeDevice) }

func testMakeDevice(t *testing.T, f ip.Family) {
	o := newOverlay(t)
	for i, alter := range []func(*state.VXLAN){
		func(*state.VXLAN) {},
		func(v *state.VXLAN) { v.GBP = true },
		func(v *state.VXLAN) { v.Learning = true },
		func(v *state.VXLAN) { v.TxChecksumOff = true },
		func(v *state.VXLAN) { v.VNI, v.Port, v.MTU, v.Name = 4096, 4789, 1400, state.VXLANName(f, 4096) },
	} {
		v := vxlanOf(f)
		alter(&v)
		o.none(v.Key())
		o.apply(create(v), create(state.Addr{Dev: v.Name, Prefix: netip.MustParsePrefix("10.1.0.0/32")}))
		o.is(v)
		// One that checksums may be told from one that does not.
		if got := o.dump()[v.Key()].Object.(state.VXLAN).TxChecksumOff; got != v.TxChecksumOff {
			t.Errorf("device %d: checksums are off: %v", i, got)
		}
		if ra, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + v.Name + "/accept_ra"); err == nil && string(ra) != "0\n" {
			t.Errorf("device %d learns routers: %q", i, ra)
		}
		o.refused(create(v), unix.EEXIST, "")
		o.apply(remove(v), remove(v))
		o.none(v.Key())
		// As flannel makes it.
		o.check(o.AddVXLAN(v))
		o.is(v)
		o.check(o.DelLink(v.Name))
	}
}

// What a device over IPv6 cannot be is told by its own numbers.
func TestMakeDeviceFailsIPv6(t *testing.T) {
	o := newOverlay(t)
	v := vxlanOf(ip.V6)
	v.MTU = 1431
	o.refused(create(v), unix.EINVAL, "70 less than that of eth0")
	o.none(v.Key())
	v.MTU = 1279
	if err := o.k.Apply(t.Context(), []state.Op{create(v)})[0]; err == nil || !strings.Contains(err.Error(), "needs 1280") {
		t.Error(err)
	}
	o.none(v.Key())
	// Both devices may have one VNI and one port.
	o.apply(create(vxlan()), create(vxlanOf(ip.V6)))
	o.is(vxlan())
	o.is(vxlanOf(ip.V6))
}

func TestMakeDeviceFails(t *testing.T) {
	o := newOverlay(t)
	v := vxlan()
	v.Lower = "eth9"
	o.refused(create(v), dataplane.ErrNoLink, "eth9")
	o.none(v.Key())

	v = vxlan()
	v.MTU = 9000
	o.refused(create(v), unix.EINVAL, "50 less than that of eth0")
	o.none(v.Key())

	attrs := netlink.NewLinkAttrs()
	attrs.Name = "other"
	other := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 8472}
	o.check(netlink.LinkAdd(other))
	o.check(o.SetLink("other", true))
	o.refused(create(vxlan()), unix.EEXIST, "specified VNI already exists")
	o.check(o.DelLink("other"))
	other.GBP = true
	o.check(netlink.LinkAdd(other))
	o.check(o.SetLink("other", true))
	o.refused(create(vxlan()), unix.EADDRINUSE, "UDP port 8472 belongs to another")
	o.none(vxlan().Key())
	o.check(o.DelLink("other"))

	o.check(o.SetLink("eth0", false))
	o.dump()
	o.apply(create(vxlan()))
	o.is(vxlan())

	if err := explainVXLAN(vxlan(), unix.EOPNOTSUPP); !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), "module vxlan") {
		t.Error(err)
	}
}

// A kernel before 4.6 makes devices that send no UDP checksums.
func TestDeviceWithoutUDPChecksums(t *testing.T) {
	o := newOverlay(t)
	out, err := exec.Command("ip", strings.Fields("link add flannel.1 up mtu 1450 address 0a:01:02:03:04:05 "+
		"type vxlan id 1 dev eth0 local 192.168.5.1 dstport 8472 nolearning noudpcsum")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	o.is(vxlan())
}

// What can be changed in place is; else the device is made anew.
func TestMendDevice(t *testing.T) { forEachFamily(t, testMendDevice) }

func testMendDevice(t *testing.T, f ip.Family) {
	name := vxlanOf(f).Name
	group, remote := "239.1.1.1", "192.168.5.9"
	if f == ip.V6 {
		group, remote = "ff05::1", "2001:db8:5::9"
	}
	link := func(o overlay) netlink.Link {
		l, err := netlink.LinkByName(name)
		o.check(err)
		return l
	}
	for what, c := range map[string]struct {
		spoil  func(overlay)
		remade bool
	}{
		"MAC":      {func(o overlay) { o.check(o.SetMAC(name, state.MAC{2})) }, false},
		"MTU":      {func(o overlay) { o.check(o.SetMTU(name, 1000)) }, false},
		"down":     {func(o overlay) { o.check(o.SetLink(name, false)) }, false},
		"checksum": {func(o overlay) { o.check(setTxChecksum(name, true)) }, false},
		"enslaved": {func(o overlay) {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "br0"
			bridge := &netlink.Bridge{LinkAttrs: attrs}
			o.check(netlink.LinkAdd(bridge))
			o.check(netlink.LinkSetMaster(link(o), bridge))
		}, false},
		"all": {func(o overlay) {
			o.check(o.SetMAC(name, state.MAC{2}))
			o.check(o.SetMTU(name, 1000))
			o.check(o.SetLink(name, false))
		}, false},
		"other VNI":  {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.VxlanId = 2 }) }, true},
		"other port": {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.Port = 4789 }) }, true},
		"group": {func(o overlay) {
			o.other(f, func(v *netlink.Vxlan) { v.Group = netip.MustParseAddr(group).AsSlice() })
		}, true},
		"remote": {func(o overlay) {
			o.other(f, func(v *netlink.Vxlan) { v.Group = netip.MustParseAddr(remote).AsSlice() })
		}, true},
		"proxy":        {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.Proxy = true }) }, true},
		"l2miss":       {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.L2miss = true }) }, true},
		"l3miss":       {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.L3miss = true }) }, true},
		"rsc":          {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.RSC = true }) }, true},
		"ttl":          {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.TTL = 7 }) }, true},
		"maxaddress":   {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.Limit = 1 }) }, true},
		"tos":          {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.TOS = 7 }) }, true},
		"source ports": {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.PortLow, v.PortHigh = 1000, 2000 }) }, true},
		"external": {func(o overlay) {
			o.other(f, func(v *netlink.Vxlan) { v.FlowBased, v.VtepDevIndex, v.SrcAddr = true, 0, nil })
		}, true},
		"zero checksums": {func(o overlay) { o.other(f, func(v *netlink.Vxlan) { v.UDP6ZeroCSumTx = true }) }, true},
		"a bridge": {func(o overlay) {
			o.check(o.DelLink(name))
			attrs := netlink.NewLinkAttrs()
			attrs.Name = name
			o.check(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
		}, true},
		"a veth": {func(o overlay) {
			o.check(o.DelLink(name))
			o.check(o.AddLink(name))
		}, true},
	} {
		t.Run(what, func(t *testing.T) {
			o := newOverlay(t)
			v := vxlanOf(f)
			v.TxChecksumOff = true
			o.apply(create(v))
			c.spoil(o)
			before := o.index(v.Name)
			e := o.dump()[v.Key()]
			if state.Same(v, e.Object) || e.Owner != state.Ours || e.Object.String() == v.String() {
				t.Fatalf("there is %+v", e)
			}
			o.apply(change(e.Object, v))
			o.is(v)
			if remade := o.index(v.Name) != before; remade != c.remade {
				t.Errorf("the device was remade: %v", remade)
			}
		})
	}
}

// other puts an altered device in the place of the one that is there.
func (o overlay) other(f ip.Family, alter func(*netlink.Vxlan)) {
	o.Helper()
	is := vxlanOf(f)
	o.check(o.DelLink(is.Name))
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = is.Name, is.MAC[:]
	v := &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: 1, VtepDevIndex: o.index("eth0"), SrcAddr: is.Local.AsSlice(), Port: 8472,
	}
	alter(v)
	o.check(netlink.LinkAdd(v))
	o.check(o.SetLink(is.Name, true))
}

// Ours are all that bear such a name, and nothing else is reported.
func TestForeignDevices(t *testing.T) {
	o := newOverlay(t)
	v := vxlan()
	v.Name, v.VNI = "vxlan1", 7
	o.check(o.AddVXLAN(v))
	o.check(o.AddFDB(state.FDB{Dev: v.Name, MAC: state.MAC{2}, Dst: netip.MustParseAddr("192.168.5.3")}))
	o.check(o.AddNeigh(state.Neigh{Dev: v.Name, MAC: state.MAC{2}, Addr: netip.MustParseAddr("10.1.2.0")}, true))
	for k, e := range o.dump() {
		if k.Kind < state.KindNexthop {
			t.Errorf("there is %+v", e)
		}
	}
	// The name of a VNI that another device has already.
	w := vxlan()
	w.VNI = v.VNI
	o.refused(create(w), unix.EEXIST, "")
}

// A pass may make a device and use it.
func TestDeviceInOneGo(t *testing.T) {
	o := newOverlay(t)
	v := vxlan()
	via := netip.MustParseAddr("10.1.2.0")
	objects := []state.Object{
		v,
		state.Addr{Dev: v.Name, Prefix: netip.MustParsePrefix("10.1.0.0/32")},
		state.Neigh{Dev: v.Name, Addr: via, MAC: state.MAC{2, 3}},
		state.FDB{Dev: v.Name, MAC: state.MAC{2, 3}, Dst: netip.MustParseAddr("192.168.5.3")},
		state.Nexthop{ID: 7, Via: via, Dev: v.Name, Onlink: true},
		state.Route{Dst: netip.MustParsePrefix("10.1.2.0/24"), Via: via, Dev: v.Name, Onlink: true, Nexthop: 7},
		state.Route{Dst: netip.MustParsePrefix("10.1.3.0/24"), Via: netip.MustParseAddr("10.1.3.0"), Dev: v.Name, Onlink: true},
	}
	var ops []state.Op
	for _, x := range objects {
		ops = append(ops, create(x))
	}
	for range 2 { // the second time, some are replaced
		o.apply(ops...)
		for i, x := range objects {
			o.is(x)
			if e := o.dump()[x.Key()]; e.Object != x {
				t.Errorf("%s is read as %s", x, e.Object)
			}
			if i != 0 && x.Key().Kind <= state.KindFDB {
				continue
			}
			ops[i] = change(x, x)
		}
	}
	for i, x := range objects {
		ops[len(ops)-1-i] = remove(x)
	}
	o.apply(ops...)
	o.apply(ops...)
	for k, e := range o.dump() {
		if e.Owner == state.Ours {
			t.Errorf("there is %v: %+v", k, e)
		}
	}
	for _, x := range objects[1:] {
		o.refused(create(x), dataplane.ErrNoLink, v.Name)
	}
}

// A device of each family is tried before it takes the place of the one there is.
func TestTry(t *testing.T) {
	o := newOverlay(t)
	had := []state.Object{vxlan(), vxlanOf(ip.V6)}
	o.apply(create(had[0]), create(had[1]))
	changed := func(f ip.Family) []state.Object {
		after := slices.Clone(had)
		i := slices.Index(ip.Families[:], f)
		v := after[i].(state.VXLAN)
		v.VNI, v.Port, v.Name = 2, 4789, state.VXLANName(f, 2)
		after[i] = v
		return after
	}
	for _, f := range ip.Families {
		if err := o.k.Try(t.Context(), had, changed(f)); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		// Someone else has the VNI and the port, in this family alone.
		other := vxlanOf(f)
		other.Name, other.VNI, other.Port = "other", 2, 4789
		o.check(o.AddVXLAN(other))
		for _, g := range ip.Families {
			after := changed(g)
			v := after[slices.Index(ip.Families[:], g)].(state.VXLAN)
			v.MTU -= int(f) // not the one that was tried before
			after[slices.Index(ip.Families[:], g)] = v
			err := o.k.Try(t.Context(), had, after)
			if (err != nil) != (f == g) || err != nil && (!errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), v.Name)) {
				t.Errorf("%s is taken, and %s wanted: %v", f, g, err)
			}
		}
		o.check(o.DelLink("other"))
	}
	o.none(state.LinkKey(trialName))
	for _, x := range had {
		o.is(x)
	}
}
