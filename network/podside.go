package network

import (
	"net/netip"
	"slices"

	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
)

// podSide is where this host's pods are: behind a bridge with an address in this host's
// subnet, or each behind a device of its own.
type podSide struct {
	dev     string     // that a pod's packets come in by; empty if there is none
	addr    netip.Addr // that a pod could have
	bridges []string   // devices with an address in the subnet, if that is how pods are reached
}

// findPods finds them.
func (c *pathCheck) findPods() podSide {
	own := c.w.Own.Subnet.Of(c.family)
	if !own.IsValid() {
		return podSide{}
	}
	var p podSide
	for _, i := range c.ifaces {
		if !i.Up || i.Loopback || c.devices[i.Name] || i.Name == c.host.Iface {
			continue
		}
		for _, a := range i.Addrs {
			if !own.Contains(a.Prefix.Addr()) || slices.Contains(p.bridges, i.Name) {
				continue
			}
			if a.Prefix.Addr() == own.Addr().Next() { // as subnet.env says
				p.bridges = []string{i.Name}
				return c.withPod(p)
			}
			p.bridges = append(p.bridges, i.Name)
		}
	}
	if len(p.bridges) > 0 {
		return c.withPod(p)
	}
	for _, r := range c.foreign {
		if own.Contains(r.Dst.Addr()) && c.podRoute(r) {
			return podSide{dev: r.Dev, addr: r.Dst.Addr()}
		}
	}
	return p
}

// withPod chooses an address for a pod behind the first bridge: a high one that is not the host's.
func (c *pathCheck) withPod(p podSide) podSide {
	p.dev = p.bridges[0]
	own := c.w.Own.Subnet.Of(c.family)
	for a := ip.LastAddr(own).Prev(); own.Contains(a); a = a.Prev() {
		if !c.isLocal(a) {
			p.addr = a
			break
		}
	}
	return p
}

func (c *pathCheck) isLocal(a netip.Addr) bool {
	return slices.ContainsFunc(c.ifaces, func(i kernel.Interface) bool { return hasAddr(&i, a) })
}

// podRoute reports whether a route may be to a single pod, as the ptp plugin and others
// make them.
func (c *pathCheck) podRoute(r kernel.TableRoute) bool {
	return r.Main() && r.Dst.IsSingleIP() && !r.Via.IsValid() && r.Dev != "" && !r.Refuses() &&
		r.Dev != c.host.Iface && !c.devices[r.Dev] && !c.pointToPoint(r.Dev)
}

// pointToPoint reports whether a device is one of a VPN's, say.
func (c *pathCheck) pointToPoint(dev string) bool {
	i := byName(c.ifaces, dev)
	return i != nil && i.PointToPoint
}

// addOwn asks which way packets for this host's own pods take: behind the bridge, all of
// the subnet should be there; without one, no foreign route should lead elsewhere.
func (c *pathCheck) addOwn() {
	own := c.w.Own.Subnet.Of(c.family)
	if !own.IsValid() {
		return
	}
	bridged := len(c.pods.bridges) > 0
	var single []netip.Addr // pods
	var at []netip.Addr
	for _, r := range c.foreign {
		switch {
		case !own.Contains(r.Dst.Addr()) || r.Dst.Bits() < own.Bits() || !r.Main():
		case c.podRoute(r):
			single = append(single, r.Dst.Addr())
		case bridged && slices.Contains(c.pods.bridges, r.Dev) && !r.Via.IsValid():
		case !bridged && r.Refuses(): // there are no pods yet
		default:
			at = append(at, c.inside(r.Dst))
		}
	}
	if bridged {
		at = append(at, c.inside(own), c.pods.addr)
	}
	want := func(path kernel.Path) bool {
		return path.Local || bridged && slices.Contains(c.pods.bridges, path.Dev) && !path.Via.IsValid()
	}
	for _, to := range at {
		if to.IsValid() && !c.isLocal(to) && !slices.Contains(single, to) {
			c.queries = append(c.queries, question{
				PathQuery: kernel.PathQuery{To: to}, subject: own.String() + " (this host's own)", peer: c.w.Own.Subnet, want: want, bits: own.Bits(),
			})
		}
	}
}
