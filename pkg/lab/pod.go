package lab

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
)

// Pod is a container's network: a namespace on the bridge docker0 of its host.
type Pod struct {
	*Namespace
	// Host is the machine that it runs on.
	Host *Host
	// Addr is the address of its eth0.
	Addr netip.Addr
}

// AddPod adds a pod as a container runtime would that was started with the
// variables of a subnet file: FLANNEL_SUBNET is the address of docker0 and
// FLANNEL_MTU the MTU. Pods get the addresses after docker0's own.
func (h *Host) AddPod(name string, env map[string]string) (*Pod, error) {
	fail := func(err error) (*Pod, error) {
		return nil, fmt.Errorf("adding pod %s to %s: %w", name, h.Name, err)
	}
	subnet, err := netip.ParsePrefix(env["FLANNEL_SUBNET"])
	if err != nil {
		return fail(fmt.Errorf("FLANNEL_SUBNET: %w", err))
	}
	mtu, err := strconv.Atoi(env["FLANNEL_MTU"])
	if err != nil {
		return fail(fmt.Errorf("FLANNEL_MTU: %w", err))
	}
	bridge, err := h.dockerBridge(subnet, mtu)
	if err != nil {
		return fail(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	addr, err := h.nextPodAddr(subnet)
	if err != nil {
		return fail(err)
	}
	ns, err := h.lab.addNamespace(h.Name + "/" + name)
	if err != nil {
		return nil, err
	}
	attrs := linkAttrs(fmt.Sprintf("veth%d", len(h.pods)))
	attrs.MasterIndex = bridge
	attrs.MTU = mtu
	if err := addVeth(h.Namespace, attrs, ns, "eth0", h.lab.hardwareAddr(addr)); err != nil {
		return fail(err)
	}
	if err := h.setUp(attrs.Name); err != nil {
		return fail(err)
	}
	if err := ns.setUp("eth0"); err != nil {
		return fail(err)
	}
	if err := ns.AddAddr("eth0", netip.PrefixFrom(addr, subnet.Bits())); err != nil {
		return fail(err)
	}
	err = ns.AddRoute(Route{
		Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: subnet.Addr(), Dev: "eth0",
	})
	if err != nil {
		return fail(err)
	}
	pod := &Pod{Namespace: ns, Host: h, Addr: addr}
	h.pods = append(h.pods, pod)
	return pod, nil
}

// dockerBridge makes docker0 if it is not there, and gives it the address and
// the MTU if it has others. It returns its index.
func (h *Host) dockerBridge(subnet netip.Prefix, mtu int) (int, error) {
	const name = "docker0"
	if _, err := h.nl.LinkByName(name); err != nil {
		attrs := linkAttrs(name)
		attrs.HardwareAddr = h.lab.hardwareAddr(subnet.Addr())
		if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return 0, fmt.Errorf("adding bridge %s: %w", name, err)
		}
		if err := h.setUp(name); err != nil {
			return 0, err
		}
	}
	addrs, err := h.Addrs(name)
	if err != nil {
		return 0, err
	}
	if len(addrs) != 1 || addrs[0] != subnet {
		if err := h.FlushAddrs(name); err != nil {
			return 0, err
		}
		if err := h.AddAddr(name, subnet); err != nil {
			return 0, err
		}
	}
	link, err := h.nl.LinkByName(name)
	if err == nil && link.Attrs().MTU != mtu {
		err = h.nl.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return 0, fmt.Errorf("setting the MTU of %s to %d: %w", name, mtu, err)
	}
	return link.Attrs().Index, nil
}

// nextPodAddr is the first address after the bridge's that no pod has.
func (h *Host) nextPodAddr(subnet netip.Prefix) (netip.Addr, error) {
	used := map[netip.Addr]bool{}
	for _, p := range h.pods {
		used[p.Addr] = true
	}
	for a := subnet.Addr().Next(); subnet.Contains(a.Next()); a = a.Next() {
		if !used[a] {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address left in %s", subnet.Masked())
}

// AddSandbox adds what a container runtime makes of a pod before it calls CNI
// plugins: a namespace with nothing but its loopback interface.
func (h *Host) AddSandbox(name string) (*Namespace, error) {
	return h.lab.addNamespace(h.Name + "/" + name)
}
