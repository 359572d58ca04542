package dataplanetest

import (
	"net/netip"
	"testing"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// v4 is for what differs by no family.
const v4 = Addressing(ip.V4)

func TestFake(t *testing.T) {
	Suite(t, func(t *testing.T) (dataplane.Dataplane, Host) {
		f := NewFake()
		t.Cleanup(func() {
			if v := f.Violations(); v != nil {
				t.Errorf("violations: %q", v)
			}
		})
		return f, f
	})
}

// The fake knows when someone else's route is overwritten.
func TestFakeViolations(t *testing.T) {
	f := NewFake()
	r := &fixture{T: t, target: f, host: f}
	r.check(f.AddLink("eth0"))
	r.check(f.AddAddr("eth0", netip.MustParsePrefix("192.168.5.1/24")))
	a, b := v4.route("10.1.1.0/24", "192.168.5.11"), v4.route("10.1.1.0/24", "192.168.5.12")
	r.check(f.AddRoute(marked(a, ProtoStatic)))
	r.dump()
	r.apply(replace(a, b))
	if len(f.Violations()) != 1 {
		t.Errorf("violations: %q", f.Violations())
	}
}

// ... and someone else's nexthop.
func TestFakeNexthopViolations(t *testing.T) {
	for _, op := range []state.Op{
		replace(v4.nexthop(7, "192.168.5.11"), v4.nexthop(7, "192.168.5.12")),
		remove(v4.nexthop(7, "192.168.5.11")),
	} {
		f := NewFake()
		r := &fixture{T: t, target: f, host: f}
		r.check(f.AddLink("eth0"))
		r.check(f.AddAddr("eth0", netip.MustParsePrefix("192.168.5.1/24")))
		r.check(f.AddNexthop(Nexthop{v4.nexthop(7, "192.168.5.11"), ProtoStatic}))
		r.dump()
		r.apply(op)
		if len(f.Violations()) != 1 {
			t.Errorf("violations: %q", f.Violations())
		}
	}
}

func TestFakePanicsOnMisuse(t *testing.T) {
	a, b := v4.route("10.1.1.0/24", "192.168.5.11"), v4.route("10.1.2.0/24", "192.168.5.12")
	for name, op := range map[string]state.Op{
		"nothing":                    {},
		"creating nothing":           {Verb: state.Create},
		"creating over something":    {Verb: state.Create, Want: a, Have: a},
		"replacing nothing":          {Verb: state.Replace, Want: a},
		"replacing another":          {Verb: state.Replace, Want: a, Have: b},
		"deleting nothing":           {Verb: state.Delete},
		"deleting and wanting":       {Verb: state.Delete, Want: a, Have: a},
		"a route to nowhere":         {Verb: state.Create, Want: state.Route{}},
		"a nexthop without number":   {Verb: state.Create, Want: state.Nexthop{}},
		"wanting what is not ours":   {Verb: state.Create, Want: unmanaged[state.Route]{a, "odd"}},
		"a device of others":         {Verb: state.Create, Want: state.VXLAN{Name: "vxlan1", MAC: v4.device().MAC}},
		"a device without address":   {Verb: state.Create, Want: state.VXLAN{Name: "flannel.1"}},
		"a VXLAN device called TUN":  {Verb: state.Create, Want: state.VXLAN{Name: "flannel0", MAC: v4.device().MAC}},
		"a TUN device called VXLAN":  {Verb: state.Create, Want: state.TUN{Name: "flannel.0", MTU: 1472}},
		"a tunnel of a VXLAN device": {Verb: state.Create, Want: state.Tunnel{Dev: "flannel.1"}},
		"a tunnel peer nowhere":      {Verb: state.Create, Want: state.TunnelPeer{Dev: "flannel0", Subnet: a.Dst}},
		"an address of others":       {Verb: state.Create, Want: state.Addr{Dev: "eth0", Prefix: a.Dst}},
		"a neighbour of others":      {Verb: state.Delete, Have: state.Neigh{Dev: "eth0", Addr: a.Via}},
		"a neighbour nowhere":        {Verb: state.Create, Want: state.Neigh{Dev: "flannel.1", Addr: a.Via}},
		"a broadcast's entry":        {Verb: state.Create, Want: state.FDB{Dev: "flannel.1", Dst: a.Via}},
		"an entry to nowhere":        {Verb: state.Create, Want: state.FDB{Dev: "flannel.1", MAC: v4.device().MAC}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			NewFake().Apply(t.Context(), []state.Op{op})
		})
	}
}
