package state

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func TestNexthopID(t *testing.T) {
	for s, want := range map[string]uint32{
		"10.1.2.0/24": 0x0a010200, "255.255.255.255/32": 0xffffffff, "0.0.0.0/8": 0, "fc00::/64": 0,
	} {
		if got := NexthopID(netip.MustParsePrefix(s)); got != want {
			t.Errorf("of %s it is %#x, want %#x", s, got, want)
		}
	}
	if got := NexthopID(netip.Prefix{}); got != 0 {
		t.Errorf("of no subnet it is %#x", got)
	}
}

// A route that refers to the wanted nexthop is right, wherever that leads; one
// that leads to the right place in another way is not ours to leave so.
func TestDiffRouteByNexthop(t *testing.T) {
	by := func(id uint32, via netip.Addr) Route { return Route{Dst: dst, Via: via, Dev: "eth0", Nexthop: id} }
	want := by(7, right.Via)
	replace := func(o Object) []Op { return []Op{{Replace, want, o}} }
	blocked := []Blocked{{want, "its text"}}
	for name, c := range map[string]struct {
		have    Entry
		ops     []Op
		blocked []Blocked
	}{
		"ours":                                {Entry{Object: want, Owner: Ours}, nil, nil},
		"ours, the nexthop leads elsewhere":   {Entry{Object: by(7, wrong.Via), Owner: Ours}, nil, nil},
		"ours, where that leads is not known": {Entry{Object: Route{Dst: dst, Nexthop: 7}, Owner: Ours}, nil, nil},
		"ours, by another nexthop":            {Entry{Object: by(8, right.Via), Owner: Ours}, replace(by(8, right.Via)), nil},
		"ours, plain":                         {Entry{Object: right, Owner: Ours}, replace(right), nil},
		"adoptable, plain":                    {Entry{Object: right, Owner: Adoptable}, replace(right), nil},
		"adoptable, elsewhere":                {Entry{Object: wrong, Owner: Adoptable, Text: "its text"}, replace(wrong), nil},
		"foreign, plain":                      {Entry{Object: right}, nil, nil},
		"foreign, by another nexthop":         {Entry{Object: by(8, right.Via)}, nil, nil},
		"foreign, elsewhere":                  {Entry{Object: by(7, wrong.Via), Text: "its text"}, nil, blocked},
	} {
		t.Run(name, func(t *testing.T) {
			ops, blocked := Diff(Set{key: want}, Observed{key: c.have}, []Key{key}, func(Object) bool { return false })
			if !reflect.DeepEqual(ops, c.ops) || !reflect.DeepEqual(blocked, c.blocked) {
				t.Errorf("Diff() = %v, %v; want %v, %v", ops, blocked, c.ops, c.blocked)
			}
		})
	}
	if ops, _ := Diff(Set{key: right}, Observed{key: {Object: want, Owner: Ours}}, []Key{key}, nil); !reflect.DeepEqual(ops, []Op{{Replace, right, want}}) {
		t.Errorf("back to a plain route: %v", ops)
	}
}

// embedded is as a target wraps what this program would not make.
type embedded struct{ Route }

func TestNeeds(t *testing.T) {
	n := Nexthop{ID: 7, Via: right.Via, Dev: "eth0"}
	r := right
	r.Nexthop = n.ID
	via := Route{Dst: dst, Via: dst.Addr(), Dev: "flannel.1", Onlink: true}
	for o, want := range map[Object][]Key{
		r: {n.Key()}, embedded{r}: {n.Key()}, right: {LinkKey("eth0")}, n: {LinkKey("eth0")},
		FDB{Dev: "flannel.1"}: {LinkKey("flannel.1")}, Neigh{Dev: "flannel.1"}: {LinkKey("flannel.1")},
		Addr{Dev: "flannel.1"}: {LinkKey("flannel.1")},
		via:                    {LinkKey("flannel.1"), NeighKey("flannel.1", dst.Addr())},
		odd{right}:             {LinkKey("eth0")},
	} {
		if k := Needs(o); !slices.Equal(k, want) {
			t.Errorf("%v needs %v; want %v", o, k, want)
		}
	}
	for _, o := range []Object{nil, VXLAN{Name: "flannel.1", Lower: "eth0"}, odd{VXLAN{Name: "flannel.1"}}} {
		if k := Needs(o); k != nil {
			t.Errorf("%v needs %v", o, k)
		}
	}
}
