package main_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"flanneld/pkg/lab"
	"flanneld/pkg/state"
)

const vtep = "flannel.1"

var vxlanBackend = backend{
	name:     "vxlan",
	config:   `{"Type":"vxlan"}`,
	overhead: 50,
	lease: func(p peer) string {
		return fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"%s"}%s}`, p.public, p.vtepMAC(), p.machine())
	},
	expected: func(_ *node, p peer) []string {
		base := p.subnet.Addr()
		return []string{
			fmt.Sprintf("%s via %s dev %s onlink", p.subnet, base, vtep),
			fmt.Sprintf("%s lladdr %s", base, p.vtepMAC()),
			fmt.Sprintf("%s dst %s", p.vtepMAC(), p.public),
		}
	},
	present: func(h *node) []string { return slices.Concat(h.routes(), h.neighbours(), h.fdb()) },
	byNexthop: func(_ *node, p peer) []string {
		base := p.subnet.Addr()
		return []string{
			fmt.Sprintf("%s nhid %d via %s dev %s onlink", p.subnet, state.NexthopID(p.subnet), base, vtep),
			fmt.Sprintf("%s lladdr %s", base, p.vtepMAC()),
			fmt.Sprintf("%s dst %s", p.vtepMAC(), p.public),
		}
	},
	dev: vtep,
}

// vtepMAC is the address of the peer's VXLAN device.
func (p peer) vtepMAC() net.HardwareAddr {
	if p.node == nil {
		a := p.public.As4()
		return net.HardwareAddr{2, 0, a[0], a[1], a[2], a[3]}
	}
	return p.node.mac()
}

// mac of the host's VXLAN device. For a moment there is none while it is made anew.
func (h *node) mac() (mac net.HardwareAddr) {
	h.n.t.Helper()
	h.n.wait(soon, vtep+" on "+h.Name, func() string {
		var err error
		if mac, _, err = h.HardwareAddr(vtep); err != nil {
			return err.Error()
		}
		return ""
	})
	return mac
}

// neighbours that are permanent on the host's VXLAN device; none while there is
// no device.
func (h *node) neighbours() []string {
	list, _ := h.Neighbours(vtep)
	return list
}

func (h *node) fdb() []string {
	list, _ := h.FDB(vtep)
	return list
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
	far, err := n.lab.AddSwitch("far", mustPrefix("192.168.1.0/24"))
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
