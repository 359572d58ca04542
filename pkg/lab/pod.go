package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"

	"flanneld/pkg/ip"
)

// Pod is a container's network: a namespace on the bridge docker0 of its host.
type Pod struct {
	*Namespace
	// Host is the machine that it runs on.
	Host *Host
	// Addr is the address of its eth0, IPv4 if it has both.
	Addr netip.Addr

	addrs ip.Addrs
}

// In returns the pod with the address of a family; with none if it has none.
func (p *Pod) In(f ip.Family) *Pod {
	in := *p
	in.Addr = p.addrs.Of(f)
	return &in
}

// subnetVariables are those of a subnet file that name the bridge's addresses.
var subnetVariables = []string{"FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"}

// AddPod adds a pod as a container runtime would that was started with the
// variables of a subnet file: FLANNEL_SUBNET and FLANNEL_IPV6_SUBNET, at least one of
// them, are the addresses of docker0, and FLANNEL_MTU the MTU. Pods get the addresses
// after docker0's own.
func (h *Host) AddPod(name string, env map[string]string) (*Pod, error) {
	fail := func(err error) (*Pod, error) {
		return nil, fmt.Errorf("adding pod %s to %s: %w", name, h.Name, err)
	}
	var subnets []netip.Prefix
	for _, name := range subnetVariables {
		if value, ok := env[name]; ok || name == subnetVariables[0] && env[subnetVariables[1]] == "" {
			subnet, err := netip.ParsePrefix(value)
			if err != nil {
				return fail(fmt.Errorf("%s: %w", name, err))
			}
			subnets = append(subnets, subnet)
		}
	}
	mtu, err := strconv.Atoi(env["FLANNEL_MTU"])
	if err != nil {
		return fail(fmt.Errorf("FLANNEL_MTU: %w", err))
	}
	bridge, err := h.dockerBridge(subnets, mtu)
	if err != nil {
		return fail(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	addrs := make([]netip.Addr, len(subnets))
	for i, subnet := range subnets {
		if addrs[i], err = h.nextPodAddr(subnet); err != nil {
			return fail(err)
		}
	}
	ns, err := h.lab.addNamespace(h.Name + "/" + name)
	if err != nil {
		return nil, err
	}
	attrs := linkAttrs(fmt.Sprintf("veth%d", len(h.pods)))
	attrs.MasterIndex = bridge
	attrs.MTU = mtu
	if err := addVeth(h.Namespace, attrs, ns, "eth0", h.lab.hardwareAddr(addrsOf(addrs))); err != nil {
		return fail(err)
	}
	if err := h.setUp(attrs.Name); err != nil {
		return fail(err)
	}
	if err := ns.setUp("eth0"); err != nil {
		return fail(err)
	}
	for i, subnet := range subnets {
		if err := ns.AddAddr("eth0", netip.PrefixFrom(addrs[i], subnet.Bits())); err != nil {
			return fail(err)
		}
		if err := ns.AddRoute(Route{Dst: Everywhere(ip.FamilyOf(subnet.Addr())), Via: subnet.Addr(), Dev: "eth0"}); err != nil {
			return fail(err)
		}
	}
	pod := &Pod{Namespace: ns, Host: h, Addr: addrs[0], addrs: addrsOf(addrs)}
	h.pods = append(h.pods, pod)
	return pod, nil
}

// dockerBridge makes docker0 if it is not there, and gives it the addresses and
// the MTU if it has others. It returns its index.
func (h *Host) dockerBridge(subnets []netip.Prefix, mtu int) (int, error) {
	const name = "docker0"
	if _, err := h.nl.LinkByName(name); err != nil {
		attrs := linkAttrs(name)
		attrs.HardwareAddr = h.lab.hardwareAddr(addrsOf([]netip.Addr{subnets[0].Addr()}))
		if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return 0, fmt.Errorf("adding bridge %s: %w", name, err)
		}
		if err := h.setUp(name); err != nil {
			return 0, err
		}
	}
	addrs, err := h.Addrs(name, ip.V4, ip.V6)
	if err != nil {
		return 0, err
	}
	for _, a := range addrs {
		if !slices.Contains(subnets, a) {
			if err := h.DelAddr(name, a); err != nil {
				return 0, err
			}
		}
	}
	for _, subnet := range subnets {
		if !slices.Contains(addrs, subnet) {
			if err := h.AddAddr(name, subnet); err != nil {
				return 0, err
			}
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
		used[p.addrs.Of(ip.FamilyOf(subnet.Addr()))] = true
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
