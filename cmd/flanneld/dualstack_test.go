package main_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// dualConfig has both families.
func dualConfig(v variant) string {
	return v.config(settings{"EnableIPv6": true, "IPv6Network": "fc00:5::/48"})
}

// newDual returns a lab whose hosts have an address in each family, with a configuration.
func newDual(t *testing.T, v variant, config string, hosts int) *network {
	t.Helper()
	n := newEmptyLab(t, v)
	var err error
	n.sw, err = n.lab.AddSwitch("switch", mustPrefix("192.168.0.0/24"), mustPrefix("fd00:168::/64"))
	check(t, err)
	n.server, err = n.lab.AddHost("server", n.sw, lab.HostOptions{})
	check(t, err)
	n.startEtcd(lab.EtcdOptions{})
	n.put("config", config)
	for range hosts {
		n.addNode(lab.HostOptions{}).start()
	}
	return n
}

// awaitPing waits until a pod on one host reaches one on another.
func awaitPing(from, to *node, f ip.Family) {
	from.n.t.Helper()
	from.n.wait(soon, f.String()+" between pods", func() string {
		if _, err := from.pod.Ping(from.n.ctx, to.pod.In(f).Addr, time.Second); err != nil {
			return err.Error()
		}
		return ""
	})
}

// Two hosts with both families: pods reach each other in each, each by a device of its own.
func TestDualStack(t *testing.T) {
	t.Parallel()
	for _, v := range []variant{vxlan, hostGW} {
		t.Run(v.name(), func(t *testing.T) {
			t.Parallel()
			n := newDual(t, v, dualConfig(v), 2)
			for _, h := range n.nodes {
				h.waitReady()
				h.addPod()
			}
			for _, f := range ip.Families {
				awaitPing(n.nodes[0], n.nodes[1], f)
			}
			h := n.nodes[0]
			if v.backend.name != vxlan.backend.name {
				return
			}
			if mtu := h.daemon.Env()["FLANNEL_MTU"]; mtu != "1430" {
				t.Errorf("pods have the MTU %s", mtu)
			}
			var lease struct{ BackendData, BackendV6Data struct{ VtepMAC string } }
			key := ""
			for _, name := range []string{"FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"} {
				key += "&" + strings.ReplaceAll(netip.MustParsePrefix(h.daemon.Env()[name]).Masked().String(), "/", "-")
			}
			check(t, json.Unmarshal([]byte(n.get("subnets/"+key[1:]).value), &lease))
			if m4, m6 := lease.BackendData.VtepMAC, lease.BackendV6Data.VtepMAC; m4 == "" || m6 == "" || m4 == m6 {
				t.Errorf("the devices have the MAC addresses %q and %q", m4, m6)
			}
		})
	}
}
