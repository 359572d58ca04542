package network

import (
	"context"
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
	if was == nil || was.Config != w.Config || was.Own.Subnet != w.Own.Subnet || was.Host.V4.Iface != w.Host.V4.Iface || was.Host.Prepared != w.Host.Prepared {
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
		ifaces, err := p.view.Interfaces(ctx)
		if err == nil {
			networks := w.Networks
			if p.OwnBridge {
				networks = everywhere
			}
			p.report(slices.Concat(closedPassages(ifaces, p.view.Forwards(ip.V4), w.Backend, w.Host, w.Own.Subnet.V4), leftBridge(ifaces, w.Own.Subnet.V4, networks)))
		}
		return 0, err
	})
}

// closedPassages returns what keeps packets of the overlay from passing through the
// host. They come in by the interface that pods are behind and, from other hosts, by the
// backend's device or the external interface.
func closedPassages(ifaces []kernel.Interface, hostForwards bool, b backend.Backend, host backend.Host, own netip.Prefix) []Obstacle {
	var obstacles []Obstacle
	var closed []string
	entrances := 0
	device := b.Device(host, ip.V4)
	hasPods := func(i kernel.Interface) bool {
		return slices.ContainsFunc(i.Addrs, func(a kernel.Address) bool { return own.Contains(a.Prefix.Addr()) })
	}
	elsewhere := slices.ContainsFunc(ifaces, func(i kernel.Interface) bool { return i.Up && i.Name != device && hasPods(i) })
	for _, i := range ifaces {
		if i.Name == host.V4.Iface && i.NoCarrier {
			o := Obstacle{Subject: i.Name, Problem: "it has no carrier: no packet leaves this host or comes in"}
			if i.ProtoDown {
				o.Remedy = "ip link set " + printable.Word(i.Name) + " protodown off"
			}
			obstacles = append(obstacles, o)
		}
		pods := hasPods(i)
		if pods && !i.Up && !elsewhere {
			obstacles = append(obstacles, Obstacle{
				Subject: i.Name, Problem: "it is down, and the pods are behind it", Remedy: "ip link set " + printable.Word(i.Name) + " up",
			})
		}
		if !pods && i.Name != device && (i.Name != host.V4.Iface || !b.Unencapsulated()) {
			continue
		}
		entrances++
		if !i.Forwards {
			closed = append(closed, i.Name)
		}
	}
	switch {
	case !hostForwards && (len(closed) > 0 || entrances == 0):
		obstacles = append(obstacles, Obstacle{
			Subject: own.String(),
			Problem: "this host forwards no packets: net.ipv4.ip_forward is 0",
			Remedy:  "sysctl -w net.ipv4.ip_forward=1",
		})
	case hostForwards:
		for _, name := range closed {
			setting := "net.ipv4.conf." + strings.ReplaceAll(name, ".", "/") + ".forwarding"
			obstacles = append(obstacles, Obstacle{
				Subject: name,
				Problem: "packets that come in there are not forwarded: " + setting + " is 0",
				Remedy:  "sysctl -w " + printable.Word(setting+"=1"),
			})
		}
	}
	return obstacles
}

var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}

// cniBridge is the bridge that pods of CNI are on, unless its configuration says otherwise.
const cniBridge = "cni0"

// leftBridge returns that bridge if it has the address of another subnet than this host's, of
// one of these networks: CNI's plugins gave it one when they made the first pod.
func leftBridge(ifaces []kernel.Interface, own netip.Prefix, networks []netip.Prefix) []Obstacle {
	at := slices.IndexFunc(ifaces, func(i kernel.Interface) bool { return i.Name == cniBridge })
	if at < 0 {
		return nil
	}
	var left netip.Prefix
	for _, a := range ifaces[at].Addrs {
		switch addr := a.Prefix.Addr(); {
		case own.Contains(addr):
			return nil
		case slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) }):
			left = a.Prefix
		}
	}
	if !left.IsValid() {
		return nil
	}
	return []Obstacle{{
		Subject: cniBridge,
		Problem: "its address " + left.String() + " is not of this host's subnet " + own.String() + ", and nor are those of its pods: make them anew",
		Remedy:  "ip link delete " + cniBridge,
	}}
}
