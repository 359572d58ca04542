package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/backend"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// wire is a device of a kind that only this file knows: a tunnel with a secret.
type wire struct {
	Name, Secret string
	Network      netip.Prefix
}

func (w wire) Key() state.Key                { return state.LinkKey(w.Name) }
func (w wire) String() string                { return "wire " + w.Name + " " + w.Secret }
func (wire) Essential() bool                 { return true }
func (w wire) Owned(o *state.Ownership) bool { return o.Devices[w.Name] }

func (w wire) OwnedWith(_ []netip.Addr, o *state.Ownership) bool {
	return slices.Contains(o.Networks, w.Network)
}

func (w wire) Flushes(there state.Object) state.Flush {
	if is, ok := there.(wire); ok && is.Secret == w.Secret {
		return state.FlushNone
	}
	return state.FlushAll
}

// kindWirePeer comes after addresses and before routes.
const kindWirePeer = state.KindTunnelPeer + 5

// wirePeer is at the other end of a wire.
type wirePeer struct {
	Dev      string
	Subnet   netip.Prefix
	Identity string
	Host     netip.Addr
}

func (p wirePeer) Key() state.Key {
	return state.Key{Kind: kindWirePeer, Scope: p.Dev + " " + p.Identity}
}

func (p wirePeer) String() string {
	return fmt.Sprintf("wire peer %s of %s at %s", p.Identity, p.Subnet, p.Host)
}

func (p wirePeer) Needs() []state.Key                        { return []state.Key{state.LinkKey(p.Dev)} }
func (p wirePeer) LeaseSubnet() netip.Prefix                 { return p.Subnet }
func (p wirePeer) PeerDevice(backend.Host, ip.Family) string { return p.Dev }
func (p wirePeer) Claim() any                                { return "Identity " + p.Identity }
func (p wirePeer) FlushedBy(op state.Op) bool {
	return op.Flushes(p.Dev) == state.FlushAll
}

func (p wirePeer) Owned(o *state.Ownership) bool {
	return o.Devices[p.Dev] && o.Contains(p.Subnet.Addr())
}

// wires is a backend with a wire to each peer, whose identity is its BackendData.
type wires struct{ secret string }

func (wires) Device(backend.Host, ip.Family) string { return "wire0" }
func (wires) Unencapsulated() bool                  { return false }
func (wires) MTU(backend.Host) int                  { return 1400 }

func (wires) Attrs(backend.Host, backend.Past) (subnet.Attrs, error) { return subnet.Attrs{}, nil }

func (b wires) Local(_ backend.Host, _ ip.Subnet, own *subnet.Lease) []state.Object {
	return []state.Object{wire{"wire0", b.secret, wireNetwork}, wireAddr(own.Subnet.V4)}
}

func (wires) Peer(_ backend.Host, _ ip.Family, _, peer *subnet.Lease) ([]state.Object, error) {
	return []state.Object{
		wirePeer{"wire0", peer.Subnet.V4, peer.BackendData, peer.PublicIP.V4},
		state.Route{Dst: peer.Subnet.V4, Dev: "wire0"},
	}, nil
}

var wireNetwork = netip.MustParsePrefix("10.0.0.0/8")

func wireAddr(own netip.Prefix) state.Addr {
	return state.Addr{Dev: "wire0", Prefix: netip.PrefixFrom(own.Addr(), 32)}
}

func wireLease(n int, identity string) *subnet.Lease {
	l := lease(n, n)
	l.BackendData = identity
	return written(l)
}

func wireDesired(secret string, peers ...*subnet.Lease) Desired {
	w := desire(peers...)
	w.Backend, w.Config = wires{secret}, &subnet.Config{}
	w.Own = &subnet.Lease{Subnet: ip.SubnetOf(ownSubnet)}
	return w
}

// wirePlane is a dataplane that has what it was told to. With a device goes what is on it.
type wirePlane struct {
	mu      sync.Mutex
	have    state.Observed
	refused map[state.Key]bool
	steps   []string
}

func (d *wirePlane) Dump(context.Context, state.Set) (state.Observed, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.have), nil
}

func (d *wirePlane) Apply(_ context.Context, ops []state.Op) []error {
	d.mu.Lock()
	defer d.mu.Unlock()
	errs := make([]error, len(ops))
	for i, op := range ops {
		if d.refused[op.Key()] {
			errs[i] = errors.New("refused")
			continue
		}
		d.steps = append(d.steps, op.String())
		if op.Flushes(op.Key().Scope) == state.FlushAll {
			maps.DeleteFunc(d.have, func(_ state.Key, e state.Entry) bool { return state.DeviceOf(e.Object, d.have) == op.Key().Scope })
		}
		if delete(d.have, op.Key()); op.Want != nil {
			d.put(op.Want, state.Ours)
		}
	}
	return errs
}

func (d *wirePlane) put(o state.Object, owner state.Owner) {
	d.have[o.Key()] = state.Entry{Object: o, Owner: owner, Text: "someone's " + o.String()}
}

func (*wirePlane) Watch(ctx context.Context, ready func(), _ func(dataplane.Event)) error {
	ready()
	<-ctx.Done()
	return ctx.Err()
}

// A kind of device with peers needs no more than its objects' own methods, which are all in
// this file, and a dataplane that has them.
func TestKindThatIsDefinedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &wirePlane{have: make(state.Observed), refused: make(map[state.Key]bool)}
		r := NewReconciler(func(Status) {}, Plane{Dataplane: d})
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() { _ = r.Run(ctx) })
		defer g.Wait()
		defer cancel()
		step := func(w Desired, want ...string) {
			t.Helper()
			r.SetDesired(w)
			time.Sleep(time.Second)
			synctest.Wait()
			d.mu.Lock()
			defer d.mu.Unlock()
			if got := d.steps; !slices.Equal(got, want) {
				t.Errorf("steps:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			d.steps = nil
		}
		ready := func() bool {
			select {
			case <-r.Ready():
				return true
			default:
				return false
			}
		}
		const addr = "adding address 10.255.0.0/32 dev wire0"
		peer := func(verb string, n int, identity string) string {
			return fmt.Sprintf("%s wire peer %s of %s at %s", verb, identity, peerSubnet(n), peerAddr(n))
		}
		route := func(verb string, n int) string { return fmt.Sprintf("%s route %s dev wire0", verb, peerSubnet(n)) }

		// What is left of an earlier network goes with its device; what is another
		// daemon's stays.
		other := netip.MustParsePrefix("172.16.0.0/12")
		d.put(wire{"wire7", "s", wireNetwork}, state.Ours)
		d.put(wirePeer{"wire7", peerSubnet(9).V4, "i", peerAddr(9)}, state.Ours)
		d.put(wire{"wire8", "s", other}, state.Ours)
		d.put(wirePeer{"wire8", peerSubnet(9).V4, "i", peerAddr(9)}, state.Ours)

		// Nothing is tried that needs a device which could not be had, and without it
		// this host is not ready.
		d.refused[state.LinkKey("wire0")] = true
		w := wireDesired("s1", wireLease(1, "one"))
		step(w, "deleting wire wire7 s")
		if ready() {
			t.Error("ready without a device")
		}
		d.mu.Lock()
		clear(d.refused)
		d.mu.Unlock()
		time.Sleep(time.Second)
		step(w, "adding wire wire0 s1", addr, peer("adding", 1, "one"), route("adding", 1))
		if !ready() {
			t.Error("not ready")
		}

		// With another secret the device is made anew, and what is on it, in one pass.
		step(wireDesired("s2", w.Peers...), "replacing wire wire0 s2", addr, peer("adding", 1, "one"), route("adding", 1))

		// What is there for a lease that cannot be read stays.
		w = wireDesired("s2")
		w.Unreadable = []ip.Subnet{peerSubnet(1)}
		step(w)
		w = wireDesired("s2")
		step(w, route("deleting", 1), peer("deleting", 1, "one"))

		// Of two leases with one identity the newer one is served.
		older, newer := wireLease(2, "two"), wireLease(3, "two")
		w = wireDesired("s2", older, newer)
		step(w, peer("adding", 3, "two"), route("adding", 3))
		if why := r.plan.problems[older.Subnet]; !strings.HasPrefix(why, "its Identity two is that of lease "+newer.Subnet.String()) {
			t.Errorf("problem: %q", why)
		}
		w.Peers = w.Peers[:1]
		step(w, peer("replacing", 2, "two"), route("adding", 2), route("deleting", 3))
	})
}
