package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

const (
	// passagePause is how long at least it is from one look at the interfaces to the next:
	// containers that come and go bring many changes.
	passagePause = 500 * time.Millisecond
	// passageRetry is how soon they are looked at again after that failed.
	passageRetry = time.Second
)

// PassageView is what can be seen of the interfaces by which packets pass through the host.
type PassageView interface {
	Interfaces(ctx context.Context) ([]kernel.Interface, error)
	Forwards(ip.Family) bool
}

// Passages report what keeps this host, or interfaces that are not ours, from passing
// packets on.
type Passages struct {
	lookout
	// OwnBridge is set if cni0 is for the pods of this daemon's network and no other one.
	OwnBridge bool
	// Docker tells whether it may be Docker that starts this host's pods; nil for no.
	Docker func() bool

	view    PassageView
	report  func([]Obstacle)
	desired atomic.Pointer[Desired]
}

// NewPassages returns Passages that do nothing before the first desired state. They call
// report from Run.
func NewPassages(view PassageView, report func([]Obstacle)) *Passages {
	return &Passages{view: view, report: report, lookout: lookout{
		woken: make(chan struct{}, 1), quiet: passagePause, longest: passagePause, retry: passageRetry,
		logf: klog.Warningf, failed: "whether this host forwards packets is not known: %v",
	}}
}

// SetDesired replaces what is desired.
func (p *Passages) SetDesired(w Desired) {
	was := p.desired.Swap(&w)
	if was == nil || was.Config != w.Config || was.Own.Subnet != w.Own.Subnet || was.Host.V4.Iface != w.Host.V4.Iface || was.Host.V6.Iface != w.Host.V6.Iface || was.Host.Prepared != w.Host.Prepared {
		p.wake()
	}
}

// Event takes an event of the kernel.
func (p *Passages) Event(e dataplane.Event) {
	if e.Lost || e.Forwarding || e.Iface != "" {
		p.wake()
	}
}

// Run reports until ctx ends, and returns ctx.Err().
func (p *Passages) Run(ctx context.Context) error {
	return p.run(ctx, func(ctx context.Context) (rest time.Duration, err error) {
		w := p.desired.Load()
		if w == nil {
			return 0, nil
		}
		all, err := p.Look(ctx, w)
		if err == nil {
			p.report(all)
		}
		return 0, err
	})
}

// Look returns what is in the way now of what is desired.
func (p *Passages) Look(ctx context.Context, w *Desired) (all []Obstacle, err error) {
	ifaces, err := p.view.Interfaces(ctx)
	if err != nil {
		return nil, err
	}
	networks := w.Networks
	if p.OwnBridge {
		networks = everywhere
	}
	for _, f := range w.Own.Subnet.Families() {
		all = slices.Concat(all, closedPassages(f, ifaces, p.view.Forwards(f), w.Backend, w.Host, w.Own.Subnet), leftBridge(ifaces, w.Own.Subnet.Of(f), networks))
	}
	if d := byName(ifaces, dockerBridge); d != nil && d.Running && p.Docker != nil && p.Docker() { // with containers
		all = append(all, StrayDocker(ifaces, w.Own.Subnet, func(name string) bool {
			return name == w.Host.V4.Iface || name == w.Backend.Device(w.Host, ip.V4)
		})...)
	}
	return all, nil
}

// forwarding is the setting without which this host forwards no packets of a family.
var forwarding = map[ip.Family]string{ip.V4: "net.ipv4.ip_forward", ip.V6: "net.ipv6.conf.all.forwarding"}

// closedPassages returns what keeps packets of a family of the overlay from passing through the
// host. They come in by the interface that pods are behind and, from other hosts, by the
// backend's device or the external interface. In IPv6 no interface has a setting of its own.
func closedPassages(f ip.Family, ifaces []kernel.Interface, hostForwards bool, b backend.Backend, host backend.Host, subnet ip.Subnet) []Obstacle {
	var obstacles []Obstacle
	var closed []string
	entrances := 0
	own, external := subnet.Of(f), host.Of(f).Iface
	device := b.Device(host, f)
	hasPods := func(i kernel.Interface) bool {
		return slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool { return own.Contains(a.Prefix.Addr()) })
	}
	elsewhere := slices.ContainsFunc(ifaces, func(i kernel.Interface) bool { return i.Up && i.Name != device && hasPods(i) })
	for _, i := range ifaces {
		if i.Name == external && i.NoCarrier {
			o := Obstacle{Subject: i.Name, Problem: "it has no carrier: no packet leaves this host or comes in"}
			if i.ProtoDown {
				o.Remedy = "ip link set " + printable.Word(i.Name) + " protodown off"
			}
			obstacles = append(obstacles, o)
		}
		if f == ip.V6 && i.NoIPv6 && i.Name != b.Device(host, ip.V4) && slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool { return subnet.V4.Contains(a.Prefix.Addr()) }) {
			obstacles = append(obstacles, noIPv6(i))
		}
		pods := hasPods(i)
		if pods && !i.Up && !elsewhere {
			obstacles = append(obstacles, Obstacle{
				Subject: i.Name, Problem: "it is down, and the pods are behind it", Remedy: "ip link set " + printable.Word(i.Name) + " up",
			})
		}
		if !pods && i.Name != device && (i.Name != external || !b.Unencapsulated()) {
			continue
		}
		entrances++
		if !i.Forwards {
			closed = append(closed, i.Name)
		}
	}
	switch {
	case !hostForwards && (len(closed) > 0 || entrances == 0 || f == ip.V6):
		obstacles = append(obstacles, Obstacle{
			Subject: own.String(),
			Problem: "this host forwards no packets: " + forwarding[f] + " is 0",
			Remedy:  "sysctl -w " + acceptRouters(f, ifaces, external) + forwarding[f] + "=1",
		})
	case hostForwards && f == ip.V4:
		for _, name := range closed {
			setting := ofInterface(ip.V4, name, "forwarding")
			obstacles = append(obstacles, Obstacle{
				Subject: name,
				Problem: "packets that come in there are not forwarded: " + setting + " is 0",
				Remedy:  "sysctl -w " + printable.Word(setting+"=1"),
			})
		}
	}
	return obstacles
}

// ofInterface is an interface's setting in a family, as sysctl has it.
func ofInterface(f ip.Family, iface, setting string) string {
	return fmt.Sprintf("net.ipv%d.conf.%s.%s", f, strings.ReplaceAll(iface, ".", "/"), setting)
}

// noIPv6 is what is wrong with an interface that pods are behind, and that has no IPv6.
func noIPv6(i kernel.Interface) Obstacle {
	const least = 1280
	if i.MTU < least {
		return Obstacle{
			Subject: i.Name, Problem: fmt.Sprintf("the pods behind it have no IPv6: its MTU %d is less than %d", i.MTU, least),
			Remedy: fmt.Sprintf("ip link set %s mtu %d", printable.Word(i.Name), least),
		}
	}
	setting := ofInterface(ip.V6, i.Name, "disable_ipv6")
	return Obstacle{
		Subject: i.Name, Problem: "the pods behind it have no IPv6: " + setting + " is 1", Remedy: "sysctl -w " + printable.Word(setting+"=0"),
	}
}

// acceptRouters is what has a host that forwards still take its addresses and its default route
// from a router, if it does.
func acceptRouters(f ip.Family, ifaces []kernel.Interface, external string) string {
	i := byName(ifaces, external)
	if f == ip.V4 || i == nil || !slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool { return a.Prefix.Addr().Is6() && !a.Permanent }) {
		return ""
	}
	return printable.Word(ofInterface(f, external, "accept_ra=2")) + " "
}

var everywhere = []netip.Prefix{anyone(ip.V4), anyone(ip.V6)}

// CNIBridge is the bridge that pods of CNI are on, unless its configuration says otherwise.
const CNIBridge = "cni0"

// leftBridge returns that bridge if it has the address of another subnet than this host's, of
// one of these networks: CNI's plugins gave it one when they made the first pod.
func leftBridge(ifaces []kernel.Interface, own netip.Prefix, networks []netip.Prefix) []Obstacle {
	at := slices.IndexFunc(ifaces, func(i kernel.Interface) bool { return i.Name == CNIBridge })
	if at < 0 {
		return nil
	}
	var left netip.Prefix
	for _, a := range ifaces[at].Addrs {
		switch addr := a.Prefix.Addr(); {
		case own.Contains(addr):
			return nil
		case ip.FamilyOf(addr) != ip.FamilyOf(own.Addr()) || addr.IsLinkLocalUnicast():
		case slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) }):
			left = a.Prefix
		}
	}
	if !left.IsValid() {
		return nil
	}
	return []Obstacle{{
		Kind: OnPods, Subject: CNIBridge,
		Problem: "its address " + left.String() + " is not of this host's subnet " + own.String() + ", and nor are those of its pods: make them anew",
		Remedy:  "ip link delete " + CNIBridge,
	}}
}
