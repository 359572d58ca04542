package main_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
	"flanneld/pkg/state"
)

// vtep and vtep6 are the VXLAN devices of each family.
const (
	vtep  = "flannel.1"
	vtep6 = "flannel-v6.1"
)

// vtepOf is the VXLAN device of a family.
func vtepOf(f ip.Family) string {
	if f == ip.V4 {
		return vtep
	}
	return vtep6
}

// vtep is the VXLAN device by which the peer is reached in its first family.
func (p peer) vtep() string { return vtepOf(ip.FamilyOf(p.subnet.Addr())) }

var vxlanBackend = backend{
	name:     "vxlan",
	config:   `{"Type":"vxlan"}`,
	overhead: 50,
	lease: func(p peer) string {
		data := ""
		for _, v := range p.views() {
			name := map[string]string{vtep: "BackendData", vtep6: "BackendV6Data"}[v.vtep()]
			data += fmt.Sprintf(`,"%s":{"VNI":1,"VtepMAC":"%s"}`, name, v.vtepMAC())
		}
		return fmt.Sprintf(`{%s,"BackendType":"vxlan"%s%s}`, p.publicIPs(), data, p.machine())
	},
	expected: func(_ *node, p peer) []string {
		base := p.subnet.Addr()
		return []string{
			fmt.Sprintf("%s via %s dev %s onlink", p.subnet, base, p.vtep()),
			fmt.Sprintf("%s lladdr %s", base, p.vtepMAC()),
			fmt.Sprintf("%s dst %s", p.vtepMAC(), p.public),
		}
	},
	present: func(h *node) []string { return slices.Concat(h.routes(), h.neighbours(), h.fdb()) },
	byNexthop: func(_ *node, p peer) []string {
		base := p.subnet.Addr()
		return []string{
			fmt.Sprintf("%s nhid %d via %s dev %s onlink", p.subnet, state.NexthopID(p.subnet), base, p.vtep()),
			fmt.Sprintf("%s lladdr %s", base, p.vtepMAC()),
			fmt.Sprintf("%s dst %s", p.vtepMAC(), p.public),
		}
	},
	dev: vtep,
}

// vtepMAC is the address of the peer's VXLAN device.
func (p peer) vtepMAC() net.HardwareAddr {
	if p.node == nil {
		a := p.public.AsSlice()
		return append(net.HardwareAddr{2, byte(p.public.BitLen() / 128)}, a[len(a)-4:]...)
	}
	return p.node.macOf(p.vtep())
}

// mac of the host's VXLAN device for IPv4.
func (h *node) mac() net.HardwareAddr {
	h.n.t.Helper()
	return h.macOf(vtep)
}

// macOf is that of a VXLAN device. For a moment there is none while it is made anew.
func (h *node) macOf(dev string) (mac net.HardwareAddr) {
	h.n.t.Helper()
	h.n.wait(soon, dev+" on "+h.Name, func() string {
		var err error
		if mac, _, err = h.HardwareAddr(dev); err != nil {
			return err.Error()
		}
		return ""
	})
	return mac
}

// neighbours that are permanent on the host's VXLAN devices; none while there is
// no device.
func (h *node) neighbours() (all []string) {
	for _, f := range ip.Families {
		list, _ := h.Neighbours(vtepOf(f))
		all = append(all, list...)
	}
	return all
}

func (h *node) fdb() (all []string) {
	for _, f := range ip.Families {
		list, _ := h.FDB(vtepOf(f))
		all = append(all, list...)
	}
	return all
}

// run runs a command on the host and returns its output.
func (h *node) run(argv ...string) string {
	h.n.t.Helper()
	p, err := h.Start(argv[0], argv, nil, lab.ProcessOptions{})
	check(h.n.t, err)
	code, err := p.Wait(h.n.ctx)
	check(h.n.t, err)
	if code != 0 {
		h.n.t.Fatalf("%s on %s: status %d: %s", strings.Join(argv, " "), h.Name, code, p.Log())
	}
	return p.Log()
}

// newRouted returns a lab of three hosts with vxlan, of which the third is
// behind a router.
func newRouted(n *network) {
	n.t.Helper()
	n.addNode(lab.HostOptions{})
	n.addNode(lab.HostOptions{})
	far, err := n.lab.AddSwitch("far", n.links("192.168.1.0/24")...)
	check(n.t, err)
	_, err = n.lab.AddRouter(n.sw, far)
	check(n.t, err)
	near := n.sw
	n.sw = far
	n.addNode(lab.HostOptions{})
	n.sw = near
	for _, h := range n.nodes {
		h.start()
	}
	n.readyWithPods()
}

// restart starts the daemon again after something happened without it, and
// returns when it was ready.
func (h *node) restart(meanwhile func()) time.Time {
	h.n.t.Helper()
	h.daemon.Kill()
	meanwhile()
	h.start()
	h.waitReady()
	return time.Now()
}
