package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"flanneld/network"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/pkg/status"
)

// The checks of this host.

// families are those of the network, as far as it is known.
func (f *Facts) families() []ip.Family {
	var all []ip.Family
	for _, family := range ip.Families {
		if _, ok := f.Underlays[family]; ok {
			all = append(all, family)
		}
	}
	return all
}

func (f *Facts) iface(name string) *kernel.Interface {
	i := slices.IndexFunc(f.Interfaces, func(i kernel.Interface) bool { return i.Name == name })
	if i < 0 {
		return nil
	}
	return &f.Interfaces[i]
}

func checkInterface(f *Facts) []Finding {
	if f.NoInterfaces != nil {
		return unknown("%v", f.NoInterfaces)
	}
	var all []Finding
	var well []string
	for _, family := range f.families() {
		u := f.Underlays[family]
		if u.Err != nil {
			all = append(all, bad("", "%s: %v", network.ExternalOf(family), u.Err))
			continue
		}
		if len(u.Wrong) > 0 {
			all = append(all, obstacles(u.Wrong, every)...)
			continue
		}
		if i := f.iface(u.Used.Iface); i != nil && !i.Up {
			all = append(all, bad("ip link set "+u.Used.Iface+" up", "%s is down", u.Used.Iface))
			continue
		}
		text := fmt.Sprintf("%s, %s, MTU %d", u.Used.Iface, u.Used.Addr, u.Used.MTU)
		if u.Best.Iface != "" && (u.Best.Iface != u.Used.Iface || u.Best.Addr != u.Used.Addr) {
			text += fmt.Sprintf("; by these options it would be %s, %s", u.Best.Iface, u.Best.Addr)
		}
		well = append(well, text)
	}
	if len(well) > 0 {
		all = append(all, good("%s", strings.Join(well, "; "))...)
	}
	return all
}

func checkKernel(f *Facts) []Finding {
	if f.Config == nil {
		return unknown("it is not known which backend the network has")
	}
	var all []Finding
	var has []string
	for _, k := range f.Features {
		switch {
		case k.Err != nil:
			all = append(all, unknown("%s: %v", k.Name, k.Err)...)
		case !k.Has:
			all = append(all, bad(k.Remedy, "it has no %s, which the backend %s needs", k.Name, f.Config.BackendType))
		default:
			has = append(has, k.Name)
		}
	}
	if len(has) == 0 {
		return or(all, good("the backend %s needs nothing special", f.Config.BackendType))
	}
	return append(all, good("has %s", strings.Join(has, ", "))...)
}

func checkObjects(f *Facts) []Finding {
	if f.Daemon == nil || f.Daemon.Lease == nil {
		return nil
	}
	if all := f.componentProblems(status.ComponentDataplane); len(all) > 0 {
		for i := range all {
			all[i].Remedy = "flanneld -status says what is missing, and why"
		}
		return all
	}
	wanted := 0
	for _, k := range f.Daemon.Objects {
		wanted += k.Wanted
	}
	return good("all %d that there should be are in place", wanted)
}

// obstacles are the findings that obstacles are, of those that are for a check.
func obstacles(found []network.Obstacle, is func(network.Obstacle) bool) (all []Finding) {
	for _, o := range found {
		if is(o) {
			all = append(all, bad(o.Remedy, "%s: %s", o.Subject, o.Problem))
		}
	}
	return all
}

func every(network.Obstacle) bool { return true }

// of tells obstacles of a kind.
func of(kind network.ObstacleKind) func(network.Obstacle) bool {
	return func(o network.Obstacle) bool { return o.Kind == kind }
}

func checkForwarding(f *Facts) []Finding {
	switch {
	case f.Config == nil:
		return unknown("it is not known which network this host is in")
	case f.NoPassages != nil:
		return unknown("%v", f.NoPassages)
	}
	return or(obstacles(f.Passages, of("")), good("on, of this host and of the devices that pods' packets come in by"))
}

func checkReversePath(f *Facts) []Finding {
	switch {
	case f.Config == nil || f.Own == nil:
		return unknown("it is not known who the other hosts are")
	case f.NoPaths != nil:
		return unknown("%v", f.NoPaths)
	}
	return or(obstacles(f.Paths, of(network.OnRPFilter)), good("packets of other hosts are not dropped for their source"))
}

func checkBridged(f *Facts) []Finding {
	const setting = "net.bridge.bridge-nf-call-iptables"
	switch {
	case f.Bridged == nil && !f.Store.Kubernetes:
		return nil
	case f.Store.Kubernetes && f.podsBridge() != "" && (f.Bridged == nil || *f.Bridged == 0):
		return []Finding{bad("modprobe br_netfilter && sysctl -w "+setting+"=1", "%s is not 1: a Service does not work between pods of this host, which are on %s", setting, f.podsBridge())}
	case f.Bridged == nil:
		return nil
	}
	return good("%s is %d", setting, *f.Bridged)
}

// podsBridge is the bridge that this host's pods are behind.
func (f *Facts) podsBridge() string {
	for _, i := range f.Interfaces {
		if i.Bridge && f.hasPods(i) {
			return i.Name
		}
	}
	return ""
}

// hasPods reports whether this host's pods are behind an interface.
func (f *Facts) hasPods(i kernel.Interface) bool {
	return slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool {
		own := f.subnet().Of(ip.FamilyOf(a.Prefix.Addr()))
		return own.IsValid() && own.Contains(a.Prefix.Addr()) && !a.Prefix.IsSingleIP()
	})
}

// subnet is this host's.
func (f *Facts) subnet() ip.Subnet {
	if f.Own != nil {
		return f.Own.Subnet
	}
	return f.Env.Subnet
}

func checkFilters(f *Facts) []Finding {
	switch {
	case f.Config == nil:
		return unknown("it is not known which packets should pass")
	case f.NoFilters != nil:
		return unknown("%v", f.NoFilters)
	}
	runs := ""
	if len(f.Managers) > 0 {
		runs = "; " + strings.Join(f.Managers, " and ") + " is there"
	}
	return or(obstacles(f.Filters, every), good("rules of nftables and iptables let the network's packets through%s", runs))
}

func checkRoutes(f *Facts) []Finding {
	switch {
	case f.Own == nil && f.NoPaths == nil:
		return unknown("this host has no lease")
	case f.NoPaths != nil:
		return unknown("%v", f.NoPaths)
	}
	return or(obstacles(f.Paths, of("")), good("packets for %d peers, and for this host's pods, go their way", len(f.Others)))
}

func checkOverlap(f *Facts) []Finding {
	switch {
	case f.Config == nil:
		return unknown("it is not known which network this host is in")
	case f.NoForeign != nil:
		return unknown("%v", f.NoForeign)
	}
	var all []Finding
	notes := ""
	for _, family := range f.families() {
		n := f.Config.Of(family).Network
		for _, r := range f.Foreign[family] {
			inside := r.Dst.Bits() > n.Bits() && n.Contains(r.Dst.Addr())
			if !inside || r.IsLocal() || f.subnet().Of(family).Overlaps(r.Dst) || f.ofPeer(r.Dst) {
				continue
			}
			prefix := ""
			if family == ip.V6 {
				prefix = "IPv6"
			}
			all = append(all, bad(fmt.Sprintf("%s, or have %sSubnetMin and %sSubnetMax of the configuration leave it out", r.Delete(), prefix, prefix),
				"the route %s lies in Network %s: a host that gets a subnet there cannot be reached from this one", r, n))
		}
		if link := f.Underlays[family].Used.Net; link.IsValid() && n.Overlaps(link) {
			notes += fmt.Sprintf("; Network %s and %s, the network of %s, overlap, which limits both", n, link, f.Underlays[family].Used.Iface)
		}
	}
	return or(all, good("no other route of this host is inside %s%s", f.Config.Network(), notes))
}

// ofPeer reports whether another host has a part of p, so that checkRoutes judges it.
func (f *Facts) ofPeer(p netip.Prefix) bool {
	for _, l := range f.Others {
		if l.Subnet.Of(ip.FamilyOf(p.Addr())).Overlaps(p) {
			return true
		}
	}
	return false
}

func checkPods(f *Facts) []Finding {
	if f.NoInterfaces != nil {
		return unknown("%v", f.NoInterfaces)
	}
	if all := obstacles(f.Passages, of(network.OnPods)); len(all) > 0 {
		return all
	}
	own := f.subnet()
	if !own.IsValid() {
		return nil
	}
	if i := slices.IndexFunc(f.Interfaces, func(i kernel.Interface) bool {
		return f.hasPods(i) && !f.isExternal(i.Name)
	}); i >= 0 {
		return good("%s has an address of %s", f.Interfaces[i].Name, own)
	}
	if f.CNIBridge || f.Store.Kubernetes {
		return nil // or pods have no bridge
	}
	return obstacles(network.StrayDocker(f.Interfaces, own, func(name string) bool { return f.isExternal(name) || f.isDevice(name) }), every)
}

func (f *Facts) isExternal(name string) bool {
	for _, u := range f.Underlays {
		if u.Used.Iface == name {
			return true
		}
	}
	return false
}

func checkEnv(f *Facts) []Finding {
	switch {
	case f.NoEnv != nil:
		return []Finding{bad("", "%v", f.NoEnv)}
	case f.Daemon != nil && f.Daemon.Ready && f.Env.Subnet.String() != f.Daemon.Lease.Subnet:
		return []Finding{bad("see the daemon's log", "%s says %s, and the daemon has %s", f.SubnetFile, f.Env.Subnet, f.Daemon.Lease.Subnet)}
	case !f.Env.Subnet.IsValid():
		return unknown("%s names no subnet yet", f.SubnetFile)
	}
	return good("%s has %s", f.SubnetFile, f.Env.Subnet)
}

func checkCNI(f *Facts) []Finding {
	switch {
	case f.CNIFile == "":
		return nil
	case f.NoCNI != nil:
		return []Finding{bad("", "%s: %v", f.CNIFile, f.NoCNI)}
	case !f.LookedAtCNI:
		return unknown("%s was not looked at: this host's subnet is not known", f.CNIFile)
	}
	return or(obstacles(f.CNI, every), good("runtimes take %s, and its plugins are there", f.CNIFile))
}

func checkBoot(f *Facts) []Finding {
	if f.CNIBridge || f.Store.Kubernetes { // pods are none of Docker's
		return nil
	}
	if f.Boot.Err != nil {
		return unknown("%v", f.Boot.Err)
	}
	var all []Finding
	for _, u := range f.Boot.Before {
		all = append(all, bad("give it After=flanneld.service: mkdir -p /etc/systemd/system/"+u+".d && printf '[Unit]\\nAfter=flanneld.service\\n' > /etc/systemd/system/"+u+".d/flanneld.conf && systemctl daemon-reload",
			"%s may be started before flanneld.service has a subnet", u))
	}
	if len(f.Boot.Units) == 0 {
		return nil // or those that are there are not used
	}
	return or(all, good("flanneld.service is started before %s", strings.Join(f.Boot.Units, ", ")))
}

func checkLeft(f *Facts) []Finding {
	if f.Config == nil || f.NoInterfaces != nil {
		return unknown("it is not known which network, or which interfaces, this host has")
	}
	var all []Finding
	for _, i := range f.Interfaces {
		if !strings.HasPrefix(i.Name, "flannel") || f.isDevice(i.Name) {
			continue
		}
		for _, a := range i.Addrs {
			if n := f.Config.Of(ip.FamilyOf(a.Prefix.Addr())).Network; n.IsValid() && n.Contains(a.Prefix.Addr()) {
				all = append(all, bad("ip link del "+i.Name, "the device %s has %s, and is not of the backend %s: another one, or an older flannel, left it", i.Name, a.Prefix, f.Config.BackendType))
				break
			}
		}
	}
	return or(all, good("there is no device of another backend"))
}

// isDevice reports whether an interface is the backend's.
func (f *Facts) isDevice(name string) bool {
	if f.Daemon != nil {
		for _, n := range f.Daemon.Network {
			if n.Device == name {
				return true
			}
		}
	}
	return slices.Contains(f.Devices, name)
}
