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

// arrivalsMost is of how many peers it is asked whether their packets come in, beside those of
// which the last look said no: what is in their way is in that of others, too.
const arrivalsMost = 64

// arrival is a packet of another host that comes in by an interface, and one to where it is from.
type arrival struct {
	in, back kernel.PathQuery
	peer     ip.Subnet
	subject  string
}

// askSources finds peers whose packets are dropped on their way in, as the way back is by another
// interface than they come by. IPv6 has no such setting.
func (c *pathCheck) askSources(ctx context.Context, peers []*subnet.Lease, astray map[ip.Subnet]bool) error {
	if c.family != ip.V4 {
		return nil
	}
	var all []arrival
	for _, l := range someOf(peers, astray) {
		all = c.addArrivals(all, l)
	}
	if len(all) == 0 {
		return nil
	}
	comes, err := c.view.Paths(ctx, queriesOf(all, func(a arrival) kernel.PathQuery { return a.in }))
	if err != nil {
		return err
	}
	goes, err := c.view.Paths(ctx, queriesOf(all, func(a arrival) kernel.PathQuery { return a.back }))
	if err != nil {
		return err
	}
	for i, a := range all {
		refused := errors.Is(comes[i].Err, unix.EXDEV) || errors.Is(comes[i].Err, unix.EINVAL) && goes[i].Dev != a.in.IIF // as kernels from 6.14 on have it
		if !refused {
			continue
		}
		back := "there is no way back"
		if goes[i].Err == nil {
			back = "the way back is by " + goes[i].Dev
		}
		setting := ofInterface(ip.V4, a.in.IIF, "rp_filter")
		c.hurts(cause{
			kind: OnRPFilter, problem: fmt.Sprintf("packets that come in by %s are dropped, as %s, and %s is 1", a.in.IIF, back, setting),
			remedy: "sysctl -w " + printable.Word(setting+"=2"),
		}, a.peer, a.subject)
	}
	return nil
}

func queriesOf(all []arrival, query func(arrival) kernel.PathQuery) []kernel.PathQuery {
	queries := make([]kernel.PathQuery, len(all))
	for i, a := range all {
		queries[i] = query(a)
	}
	return queries
}

// someOf returns all of the peers that were astray, and some of the others.
func someOf(peers []*subnet.Lease, astray map[ip.Subnet]bool) (some []*subnet.Lease) {
	others := make([]*subnet.Lease, 0, len(peers))
	for _, l := range peers {
		if astray[l.Subnet] {
			some = append(some, l)
		} else {
			others = append(others, l)
		}
	}
	n := min(len(others), arrivalsMost)
	for i := range n {
		some = append(some, others[i*len(others)/n])
	}
	return some
}

// addArrivals adds the packets of a peer that are not taken from everywhere: those of its host,
// and those of its pods.
func (c *pathCheck) addArrivals(all []arrival, l *subnet.Lease) []arrival {
	strict := func(name string) bool {
		i := byName(c.ifaces, name)
		return i != nil && i.StrictSource
	}
	if from := l.PublicIP.Of(c.family); from.IsValid() && c.host.Addr.IsValid() && strict(c.host.Iface) {
		all = append(all, arrival{
			kernel.PathQuery{To: c.host.Addr, From: from, IIF: c.host.Iface}, kernel.PathQuery{To: from, From: c.host.Addr}, l.Subnet, hostOf(l, c.family),
		})
	}
	device, pods, to := c.w.Backend.Device(c.w.Host, c.family), l.Subnet.Of(c.family), c.w.Own.Subnet.Of(c.family).Addr()
	if strict(device) && pods.IsValid() && to.IsValid() && !backend.UsesLinks(c.w.Backend) {
		from := pods.Addr().Next()
		all = append(all, arrival{kernel.PathQuery{To: to, From: from, IIF: device}, kernel.PathQuery{To: from}, l.Subnet, pods.String()})
	}
	return all
}

// interfaceOption is the option that names the external interface of a family.
var interfaceOption = map[ip.Family]string{ip.V4: "-iface", ip.V6: "-iface-ipv6"}

// WrongInterface returns that the external interface of a family leads to no other host, if they
// all are in the network of another one, and none is in its own.
func WrongInterface(f ip.Family, used backend.Underlay, ifaces []kernel.Interface, peers []*subnet.Lease) []Obstacle {
	some := false
	for _, l := range peers {
		if a := l.PublicIP.Of(f); used.Net.Contains(a) {
			return nil
		} else if a.IsValid() {
			some = true
		}
	}
	hasAll := func(n netip.Prefix) bool {
		return !n.IsSingleIP() && !slices.ContainsFunc(peers, func(l *subnet.Lease) bool {
			a := l.PublicIP.Of(f)
			return a.IsValid() && !n.Masked().Contains(a)
		})
	}
	if !some || used.Iface == "" {
		return nil
	}
	for _, i := range ifaces {
		if i.Name == used.Iface || !i.Up || i.PointToPoint || i.Loopback || !slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool {
			return ip.FamilyOf(a.Prefix.Addr()) == f && hasAll(a.Prefix)
		}) {
			continue
		}
		return []Obstacle{{
			Kind: OnInterface, Subject: used.Iface,
			Problem: fmt.Sprintf("with %s it leads to none of the other hosts, and %s is in their network", used.Addr, i.Name),
			Remedy:  fmt.Sprintf("start flanneld with %s=%s", interfaceOption[f], printable.Word(i.Name)),
		}}
	}
	return nil
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
