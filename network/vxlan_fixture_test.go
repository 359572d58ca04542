package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"flanneld/backend/vxlan"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// hostMAC is the MAC address of the device of the host numbered via; 0 is this
// host.
func hostMAC(via int) state.MAC { return state.MAC{2, 0, 0, 1, byte(via >> 8), byte(via)} }

func vtepData(m state.MAC) string { return fmt.Sprintf(`{"VNI":1,"VtepMAC":"%s"}`, m) }

// revision is that of the last lease that a test wrote.
var revision uint64

// vxlanLease is of the peer numbered n, on the host numbered via. It is newer
// than any before.
func vxlanLease(n, via int) *subnet.Lease {
	l := lease(n, via)
	l.BackendType = "vxlan"
	return written(withMAC(l, hostMAC(via)))
}

func written(l *subnet.Lease) *subnet.Lease {
	revision++
	l.Revision = revision
	return l
}

func withMAC(l *subnet.Lease, m state.MAC) *subnet.Lease {
	if in.Family() == ip.V6 {
		l.BackendV6Data = vtepData(m)
	} else {
		l.BackendData = vtepData(m)
	}
	return l
}

// vxlanName is the name of a VXLAN device.
func vxlanName(vni uint32) string { return state.VXLANName(in.Family(), vni) }

// What vxlanLease(n, via) calls for.

func neigh(n, via int) state.Neigh {
	return state.Neigh{Dev: vxlanName(1), Addr: peerDst(n).Addr(), MAC: hostMAC(via)}
}

func fdb(via int) state.FDB {
	return state.FDB{Dev: vxlanName(1), MAC: hostMAC(via), Dst: peerAddr(via)}
}

func tunnel(n int) state.Route {
	d := peerDst(n)
	return state.Route{Dst: d, Via: d.Addr(), Dev: vxlanName(1), Onlink: true}
}

func tunnelHop(n int) state.Nexthop {
	r := tunnel(n)
	return state.Nexthop{ID: state.NexthopID(r.Dst), Via: r.Via, Dev: r.Dev, Onlink: true}
}

func tunnelByNexthop(n int) state.Route {
	r := tunnel(n)
	r.Nexthop = tunnelHop(n).ID
	return r
}

var (
	vxlanConfig = &subnet.Config{BackendType: "vxlan"}
	ownSubnet   = netip.MustParsePrefix("10.255.0.0/24")
	ownAddr     = state.Addr{Dev: "flannel.1", Prefix: netip.PrefixFrom(ownSubnet.Addr(), 32)}
)

// device is what vxlanDesired calls for.
func device() state.VXLAN {
	v := state.VXLAN{Name: vxlanName(1), VNI: 1, Port: 8472, Lower: "eth0", Local: in.Of(hostNet.Addr()), MAC: hostMAC(0)}
	v.MTU = 1500 - v.Overhead()
	return v
}

// backendDesired is a vxlanDesired with the given Backend section; c stands for it.
func backendDesired(c *subnet.Config, section string, peers ...*subnet.Lease) Desired {
	b, err := vxlan.Type.New(json.RawMessage(section))
	if err != nil {
		panic(err)
	}
	w := desire(peers...)
	w.Backend, w.Config = b, c
	w.Own = withMAC(&subnet.Lease{Subnet: ip.SubnetOf(in.Prefix(ownSubnet)), Attrs: subnet.Attrs{
		PublicIP: w.Host.PublicIP(), BackendType: "vxlan",
	}}, hostMAC(0))
	return w
}

// vxlanDesired is for the peers that have the given leases, by way of flannel.1.
func vxlanDesired(peers ...*subnet.Lease) Desired { return backendDesired(vxlanConfig, "", peers...) }

func largeVxlanDesired(peers ...*subnet.Lease) Desired {
	w := vxlanDesired(peers...)
	w.Host.Nexthops = true
	return w
}

var directConfig = &subnet.Config{BackendType: "vxlan"}

// directDesired is a vxlanDesired with direct routes to the peers on eth0's link.
func directDesired(peers ...*subnet.Lease) Desired {
	return backendDesired(directConfig, `{"DirectRouting":true}`, peers...)
}

// wantOn checks all that is on flannel.1.
func (r *fixture) wantOn(neighs []state.Neigh, fdbs []state.FDB, addrs ...netip.Prefix) {
	r.Helper()
	if got := r.fake.Neighs("flannel.1"); !slices.Equal(got, neighs) {
		r.Fatalf("neighbours: %v, want %v", got, neighs)
	}
	if got := r.fake.FDBs("flannel.1"); !slices.Equal(got, fdbs) {
		r.Fatalf("FDB entries: %v, want %v", got, fdbs)
	}
	if got := r.fake.DeviceAddrs("flannel.1"); !slices.Equal(got, addrs) {
		r.Fatalf("addresses: %v, want %v", got, addrs)
	}
}

// unlike tells how the host is not as desired; empty if it is. What else it has
// does not count.
func (r *fixture) unlike(w Desired) string { return r.unlikeBut(w) }

// unlikeBut does not look at some kinds of objects.
func (r *fixture) unlikeBut(w Desired, kinds ...state.Kind) string {
	var p planned
	p.set(w)
	has := func(o state.Object) bool {
		switch o := o.(type) {
		case state.VXLAN:
			return slices.ContainsFunc(r.fake.Devices(), func(v state.VXLAN) bool { return state.Same(o, v) })
		case state.Addr:
			return slices.Contains(r.fake.DeviceAddrs(o.Dev), o.Prefix)
		case state.Neigh:
			return slices.Contains(r.fake.Neighs(o.Dev), o)
		case state.FDB:
			return slices.Contains(r.fake.FDBs(o.Dev), o)
		case state.Nexthop:
			return slices.Contains(r.fake.Nexthops(), dataplanetest.Nexthop{Nexthop: o, Protocol: dataplanetest.ProtoOurs})
		case state.Route:
			return slices.Equal(r.fake.Routes(o.Dst), []dataplanetest.Route{ours(o)})
		}
		return false
	}
	for _, o := range p.want {
		if !slices.Contains(kinds, o.Key().Kind) && !has(o) {
			return fmt.Sprint("there is no ", o)
		}
	}
	return ""
}
