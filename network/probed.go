package network

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/pkg/status"
	"flanneld/subnet"
)

const (
	// After silentRounds in a row in which nothing came back from a peer, it counts as out of
	// reach; after smallRounds in which what is small did, and what is large did not, as that.
	silentRounds, smallRounds = 3, 5
	// smallSize is that of a packet which passes wherever one does.
	smallSize = 100
	// sizeExact is how close the largest size that passes is looked for, in bytes.
	sizeExact = 8
)

// probed is a peer in one address family, as probes found it. A round begins with a packet
// of full size. If that comes back, it is over. Else a small one follows, and one that goes
// to the host itself.
type probed struct {
	lease *subnet.Lease
	since instant // it is in that state
	rtt   time.Duration
	due   instant // when the next round begins
	// news is what is about to be logged of it, and failed why this host could not send to it;
	// nil for nothing.
	news   *string
	failed *error
	place  int32 // in the queue; outside while a round is on
	// passes and fails are sizes, of which the larger one does not come back, and tries is
	// the one between them that this round tries.
	passes, fails, tries int32

	family   ip.Family
	as       stateNumber
	left     bool  // its lease is gone
	said     bool  // its trouble was logged, or is about to be
	answered bool  // since its lease says where it is
	lost     uint8 // rounds in a row in which what is large did not come back
	// What came back in the latest of those rounds, a bit for each, the latest lowest.
	small, under uint8
	// What is waited for in this round, and what came back.
	second             bool
	pending            uint8
	gotSmall, gotUnder bool
	unsent             bool // a request of this round, as the socket was full: it tells nothing
}

// stateNumber is the place of a state in badness.
type stateNumber uint8

func numberOf(s status.PeerState) stateNumber { return stateNumber(slices.Index(badness, s)) }

func (v *probed) state() status.PeerState { return badness[v.as] }

// instant is a time, in a third of the room of time.Time: there may be 50,000 peers.
type instant time.Duration

var firstInstant = time.Now()

func instantOf(t time.Time) instant { return instant(t.Sub(firstInstant)) }

func (i instant) time() time.Time { return firstInstant.Add(time.Duration(i)) }

// outside is the place of what is not in the queue.
const outside = -1

// target is how packets get to a peer.
type target struct {
	over, under netip.Addr // what answers through the overlay, and without it
	tunnel      state.Datagrams
}

// direct is set if both are one.
func (a target) direct() bool { return a.over == a.under }

// targetOf returns how packets get to a peer of a host, if anything there is known to answer: a
// device of the backend has the first address of its host's subnet; without one the host
// itself is the next on the way.
func targetOf(w *Desired, f ip.Family, l *subnet.Lease) (target, bool) {
	objects, err := w.Backend.Peer(w.Host, f, w.Own, l)
	if err != nil || len(objects) == 0 {
		return target{}, false
	}
	a := target{under: l.PublicIP.Of(f)}
	if w.Backend.Device(w.Host, f) == "" {
		a.over = a.under
		return a, a.over.IsValid()
	}
	a.over = l.Subnet.Of(f).Addr()
	for _, o := range w.Backend.Local(w.Host, w.Config.Network(), w.Own) {
		if d, ok := state.DatagramsOf(o); ok && slices.ContainsFunc(objects, func(o state.Object) bool { return leads(o, d.Dev) }) {
			a.tunnel = d
		}
	}
	return a, true
}

// shouldAnswer reports whether it tells something that the peer does not answer. Without a
// tunnel it may be that nobody lets pings in.
func (v *probed) shouldAnswer(a target) bool { return v.answered || !a.direct() }

// judge returns the state after a round in which what is large did not come back.
func (v *probed) judge(a target) status.PeerState {
	const latest = 1<<silentRounds - 1
	switch {
	case v.lost < silentRounds:
	case v.small&latest != 0:
		if bits.OnesCount8(v.small) >= smallRounds {
			return status.PeerSmallOnly
		}
	case !v.shouldAnswer(a):
		return status.PeerUsed
	case v.under&latest != 0:
		return status.PeerUnreachable
	default:
		return status.PeerGone
	}
	return v.state()
}

// forget has nothing be known of a peer, and reports whether it was in another state.
func (v *probed) forget(now time.Time) bool {
	changed := v.set(status.PeerUsed, now)
	v.lost, v.answered, v.rtt, v.small, v.under = 0, false, 0, 0, 0
	return changed
}

// set sets the state, and reports whether it is another one.
func (v *probed) set(s status.PeerState, now time.Time) bool {
	if v.state() == s {
		return false
	}
	v.as, v.since = numberOf(s), instantOf(now)
	v.passes, v.fails = 0, 0
	return true
}

// size returns the next size to try, where the largest that passes is not known; else 0.
func (v *probed) size() int32 {
	if v.fails-v.passes <= sizeExact {
		return 0
	}
	return (v.passes + v.fails) / 2
}

// doubtful reports whether the peer did not answer, or is in trouble.
func (v *probed) doubtful() bool { return v.lost > 0 || v.state().Troubled() }

// name is what messages call the peer.
func (v *probed) name() string {
	return fmt.Sprintf("%s (%s)", v.lease.Subnet.Of(v.family), v.lease.PublicIP.Of(v.family))
}

// explain says what is the likeliest cause of trouble, and what command tells more.
func (v *probed) explain(w *Desired) (reason, remedy string) {
	a, ok := targetOf(w, v.family, v.lease)
	if !ok {
		return "", ""
	}
	own := w.Host.Of(v.family)
	switch v.state() {
	case status.PeerSmallOnly:
		size, header := w.Backend.MTU(w.Host), 28
		if v.family == ip.V6 {
			header = 48
		}
		reason = fmt.Sprintf("packets of %d bytes do not come back, small ones do: the MTU on the way is probably below %d", size, own.MTU)
		if v.passes > 0 && v.fails-v.passes <= sizeExact {
			reason = fmt.Sprintf("packets of %d bytes do not come back, those of %d do: the MTU on the way is probably about %d, and MTU in the configuration's Backend can say so", size, v.passes, int(v.passes)+own.MTU-size)
		}
		return reason, fmt.Sprintf("ping -M do -s %d %s", size-header, a.over)
	case status.PeerUnreachable:
		if a.tunnel.Port == 0 {
			return fmt.Sprintf("the host answers at %s, but not at %s: a packet filter is probably in the way, or flanneld does not run there", a.under, a.over),
				fmt.Sprintf("tcpdump -ni any host %s, on %s", a.over, a.under)
		}
		return fmt.Sprintf("the host answers at %s, but nothing comes back through %s: UDP port %d between %s and %s is probably blocked, or flanneld does not run there", a.under, a.tunnel.Dev, a.tunnel.Port, own.Addr, a.under),
			fmt.Sprintf("tcpdump -ni any udp port %d and host %s, on %s", a.tunnel.Port, own.PublicIP, a.under)
	case status.PeerGone:
		reason = fmt.Sprintf("it answers neither at %s nor at %s: the host is down or cut off, or lets nobody ping it", a.over, a.under)
		if a.direct() {
			reason = fmt.Sprintf("it does not answer at %s any more: the host is down or cut off, or lets nobody ping it now", a.under)
		}
		remedy = "ping " + a.under.String()
	default:
		return "", ""
	}
	if v.failed != nil {
		reason += fmt.Sprintf("; this host could not even send: %v", *v.failed)
	}
	return reason, remedy
}

// PeerReach is whether packets get to a peer.
type PeerReach struct {
	Subnet         ip.Subnet
	State          status.PeerState
	Reason, Remedy string // of trouble
	Since          time.Time
	RTT            time.Duration
}

// badness orders states: a peer is as it is in the family in which it is worst.
var badness = []status.PeerState{status.PeerReachable, status.PeerUsed, status.PeerSmallOnly, status.PeerUnreachable, status.PeerGone}

func worse(a, b *probed) bool { return a.as > b.as }
