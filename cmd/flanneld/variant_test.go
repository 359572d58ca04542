package main_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	daemon "flanneld/cmd/flanneld"
)

// variant is a backend and a store: what daemons do about faults must be the
// same with all of them.
type variant struct {
	backend backend
	store   store
	slow    bool // it is the one of its store that tests which take long run with
}

// The variants are such that every test meets every backend and every store, and
// one that takes long, or is about etcd alone, every store. What backends do does
// not depend on the store, so that not every pair is needed.
var (
	hostGW    = variant{backend: hostGWBackend, store: etcdV2, slow: true}
	allocOnly = variant{backend: allocBackend, store: etcdV3}
	vxlan     = variant{backend: vxlanBackend, store: etcdV3, slow: true}
	udp       = variant{backend: udpBackend, store: etcdV2}

	variants = []variant{hostGW, vxlan, udp}
)

// everyVariant runs a test with each variant.
func everyVariant(t *testing.T, f func(*testing.T, variant)) {
	t.Helper()
	for _, v := range variants {
		t.Run(v.name(), func(t *testing.T) { f(t, v) })
	}
}

// slowVariants runs a test that takes long, or is about etcd alone, with a variant
// of each store.
func slowVariants(t *testing.T, f func(*testing.T, variant)) {
	t.Helper()
	for _, v := range variants {
		if v.slow {
			t.Run(v.name(), func(t *testing.T) { f(t, v) })
		}
	}
}

// inParallel runs a test with the variants of everyVariant or slowVariants, all of
// them in parallel, also to other tests: one that waits more than it works, and
// that holds nothing against a machine that is busy.
func inParallel(t *testing.T, variants func(*testing.T, func(*testing.T, variant)), f func(*testing.T, variant)) {
	t.Helper()
	t.Parallel()
	variants(t, func(t *testing.T, v variant) {
		t.Parallel()
		f(t, v)
	})
}

// withWitness runs a test in which pings bear witness with the variants of everyVariant
// or slowVariants: in parallel to other tests, but for the variant whose daemon carries
// packets itself, and loses some on a busy machine.
func withWitness(t *testing.T, variants func(*testing.T, func(*testing.T, variant)), f func(*testing.T, variant)) {
	t.Helper()
	restInParallel(t, variants, func(t *testing.T, v variant) {
		if !v.backend.itself {
			t.Parallel()
		}
		f(t, v)
	})
}

// restInParallel runs a test with the variants of everyVariant or slowVariants, one after
// the other. What follows where a variant calls network.parallel is run in parallel, also
// to other tests.
func restInParallel(t *testing.T, variants func(*testing.T, func(*testing.T, variant)), f func(*testing.T, variant)) {
	t.Helper()
	variants(t, f)
	t.Parallel() // the variants go on when this function returns, which is with all others now
}

func (v variant) name() string { return v.backend.name + "," + v.store.name }

// settings are keys of the network configuration.
type settings map[string]any

// config is the text of a network configuration for the backend, in which
// these settings replace or join the usual ones.
func (v variant) config(special settings) string {
	all := settings{"Network": "10.5.0.0/16", "Backend": json.RawMessage(v.backend.config)}
	maps.Copy(all, special)
	text, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// backend is what tests know of a backend.
type backend struct {
	name     string
	config   string // the Backend object of the network configuration
	overhead int    // bytes that it takes of each packet
	// lease is the value of a peer's lease, as a daemon writes it.
	lease func(peer) string
	// expected is what a host must have so as to reach a peer, and present is
	// what it has of that sort, one text for each object in the kernel.
	expected func(*node, peer) []string
	present  func(*node) []string
	// byNexthop is what is expected in a large network, and dev where its
	// nexthops lead.
	byNexthop func(*node, peer) []string
	dev       string
	// itself is whether packets go through the daemon, and not while none runs.
	itself bool
}

var hostGWBackend = backend{
	name:   "host-gw",
	config: `{"Type":"host-gw"}`,
	lease: func(p peer) string {
		return fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"host-gw"%s}`, p.public, p.machine())
	},
	expected:  func(_ *node, p peer) []string { return []string{p.route()} },
	present:   (*node).routes,
	byNexthop: func(_ *node, p peer) []string { return []string{p.routeByNexthop()} },
	dev:       "eth0",
}

// udpBackend keeps its peers in the daemon itself: what it has of them shows only
// in the packets that it carries.
var udpBackend = backend{
	name:     "udp",
	config:   `{"Type":"udp"}`,
	overhead: 28,
	lease: func(p peer) string {
		return fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null%s}`, p.public, p.machine())
	},
	expected: (*node).tunnelTo,
	present:  (*node).probed,
	itself:   true,
}

var allocBackend = backend{
	name:   "alloc",
	config: `{"Type":"alloc"}`,
	lease: func(p peer) string {
		return fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null%s}`, p.public, p.machine())
	},
	expected: func(*node, peer) []string { return nil },
	present:  (*node).routes,
}

// peer is a host as others know it: by its lease.
type peer struct {
	subnet netip.Prefix
	public netip.Addr
	node   *node // nil for a stranger
}

// stranger is a peer of which there is nothing but a lease.
func stranger(subnet, public string) peer {
	return peer{subnet: netip.MustParsePrefix(subnet), public: netip.MustParseAddr(public)}
}

// distant is the i-th of many strangers, with addresses in 172.16.0.0/16.
func distant(i int) peer {
	return peer{
		subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), 0}), 24),
		public: netip.AddrFrom4([4]byte{172, 16, byte(1 + i>>8), byte(i)}),
	}
}

// peer of all other hosts.
func (h *node) peer() peer { return peer{subnet: h.subnet(), public: h.Addr, node: h} }

// machine is what the peer's lease says of the machine that wrote it.
func (p peer) machine() string {
	if p.node == nil {
		return "" // as flannel has it
	}
	return fmt.Sprintf(`,"Machine":%q`, daemon.Machine())
}

// name of the peer's key in the store.
func (p peer) name() string { return strings.ReplaceAll(p.subnet.String(), "/", "-") }

func (p peer) key() string { return "subnets/" + p.name() }

// route is the plain route to the peer, as node.routes has it.
func (p peer) route() string { return fmt.Sprintf("%s via %s", p.subnet, p.public) }

// putPeer writes the lease of a stranger, without a time to live.
func (n *network) putPeer(p peer) {
	n.t.Helper()
	n.put(p.key(), n.backend.lease(p))
}
