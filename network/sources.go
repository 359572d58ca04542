package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
	"flanneld/subnet"
)

const (
	// rejectedMost is of how many peers it is kept that their packets do not come in: the others
	// have the same in their way.
	rejectedMost = 64
	// wayAsked is of how many peers it is asked which way packets for them take, to find whether
	// the external interface is the wrong one.
	wayAsked = 3
)

// askSources finds peers whose packets are dropped on their way in, as the way back is by another
// interface than they come by: of those that are on the link of the external interface, if that
// is strict about it, and that nothing else keeps packets from. IPv6 has no such setting.
func (c *pathCheck) askSources(ctx context.Context, peers []*subnet.Lease) error {
	i := byName(c.ifaces, c.host.Iface)
	if c.family != ip.V4 || i == nil || !i.StrictSource || !c.host.Up || !c.host.Addr.IsValid() {
		return nil
	}
	var asked []*subnet.Lease
	var in, back []kernel.PathQuery
	for n := 0; n < len(peers); n += 1 + len(peers)/(pathCheckAll+1) { // at most about so many
		l := peers[n]
		if from := l.PublicIP.Of(c.family); c.host.Net.Contains(from) && !c.astray[l.Subnet] {
			asked = append(asked, l)
			in = append(in, kernel.PathQuery{To: c.host.Addr, From: from, IIF: c.host.Iface})
			back = append(back, kernel.PathQuery{To: from, From: c.host.Addr})
		}
	}
	if len(asked) == 0 {
		return nil
	}
	comes, err := c.view.Paths(ctx, in)
	if err != nil {
		return err
	}
	goes, err := c.view.Paths(ctx, back)
	if err != nil {
		return err
	}
	for i, l := range asked {
		refused := errors.Is(comes[i].Err, unix.EXDEV) || errors.Is(comes[i].Err, unix.EINVAL) && goes[i].Dev != c.host.Iface // as kernels from 6.14 on have it
		if !refused || goes[i].Local {
			continue
		}
		way := "there is no way back"
		if goes[i].Err == nil {
			way = "the way back is by " + goes[i].Dev
		}
		setting := ofInterface(ip.V4, c.host.Iface, "rp_filter")
		why := cause{
			kind: OnRPFilter, problem: fmt.Sprintf("packets that come in by %s are dropped, as %s, and %s is 1", c.host.Iface, way, setting),
			remedy: "sysctl -w " + printable.Word(setting+"=2"),
		}
		subject := hostOf(l, c.family)
		if len(c.peers) > pathCheckAll { // not always the same are asked about
			subject = "peers in " + c.network.String()
		}
		c.hurts(why, subject)
		if len(c.rejected) < rejectedMost {
			c.rejected[l.Subnet] = true
		}
	}
	return nil
}

// interfaceOption is the option that names the external interface of a family.
var interfaceOption = map[ip.Family]string{ip.V4: "-iface", ip.V6: "-iface-ipv6"}

// ways tells which way packets take.
type ways interface {
	Paths(context.Context, []kernel.PathQuery) ([]kernel.Path, error)
}

// WrongInterface returns that the external interface of a family leads to no other host, if none is
// in its network, all are in that of another one, and the kernel sends packets for them there.
func WrongInterface(ctx context.Context, view ways, f ip.Family, used backend.Underlay, ifaces []kernel.Interface, peers []*subnet.Lease) ([]Obstacle, error) {
	var hosts []netip.Addr
	for _, l := range peers {
		a := l.PublicIP.Of(f)
		if used.Net.Contains(a) {
			return nil, nil
		}
		if a.IsValid() {
			hosts = append(hosts, a)
		}
	}
	if len(hosts) == 0 || used.Iface == "" {
		return nil, nil
	}
	hasAll := func(n netip.Prefix) bool {
		return !n.IsSingleIP() && !slices.ContainsFunc(hosts, func(a netip.Addr) bool { return !n.Masked().Contains(a) })
	}
	at := slices.IndexFunc(ifaces, func(i kernel.Interface) bool {
		return i.Name != used.Iface && i.Up && !i.PointToPoint && !i.Loopback && slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool { return hasAll(a.Prefix) })
	})
	if at < 0 {
		return nil, nil
	}
	better := ifaces[at].Name
	var queries []kernel.PathQuery
	for _, a := range hosts[:min(len(hosts), wayAsked)] {
		queries = append(queries, kernel.PathQuery{To: a})
	}
	paths, err := view.Paths(ctx, queries)
	if err != nil || slices.ContainsFunc(paths, func(p kernel.Path) bool { return p.Err != nil || p.Dev != better || p.Via.IsValid() }) {
		return nil, err
	}
	return []Obstacle{{
		Kind: OnInterface, Subject: used.Iface,
		Problem: fmt.Sprintf("with %s it leads to none of the other hosts, and %s is in their network", used.Addr, better),
		Remedy:  fmt.Sprintf("start flanneld with %s=%s", interfaceOption[f], printable.Word(better)),
	}}, nil
}

// dockerBridge is what Docker has its containers on.
const dockerBridge = "docker0"

// StrayDocker returns that docker0 is not in this host's subnet, and nor are its containers, if no
// other interface is.
func StrayDocker(ifaces []kernel.Interface, own ip.Subnet, notPods func(name string) bool) (all []Obstacle) {
	docker := byName(ifaces, dockerBridge)
	if docker == nil || !own.V4.IsValid() || byName(ifaces, CNIBridge) != nil {
		return nil
	}
	for _, i := range ifaces {
		if !notPods(i.Name) && slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool { return own.V4.Contains(a.Prefix.Addr()) }) {
			return nil
		}
	}
	var has []string
	for _, a := range docker.Addrs {
		if a.Prefix.Addr().Is4() {
			has = append(has, a.Prefix.String())
		}
	}
	if len(has) == 0 {
		return nil
	}
	return []Obstacle{{
		Kind: OnPods, Subject: dockerBridge,
		Problem: fmt.Sprintf("it has %s, which is not of this host's subnet %s: Docker was started before flanneld, or without its options", strings.Join(has, ", "), own.V4),
		Remedy:  "systemctl restart docker, once it takes its options from subnet.env; its containers get new addresses",
	}}
}
