package main_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	daemon "flanneld/cmd/flanneld"
	"flanneld/pkg/ip"
)

// variant is a backend, a store, and the families of the network: what daemons do about
// faults must be the same with all of them.
type variant struct {
	backend  backend
	store    store
	slow     bool // it is the one of its store that tests which take long run with
	families families
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

	dualVariants = []variant{hostGW.in(dualStack), vxlan.in(dualStack)}
)

// dualToo runs a test with each variant, and in networks of both families.
func dualToo(t *testing.T, f func(*testing.T, variant)) {
	t.Helper()
	for _, v := range slices.Concat(variants, dualVariants) {
		t.Run(v.name(), func(t *testing.T) { f(t, v) })
	}
}

// everyFamily is dualToo, and runs the test where there is nothing but IPv6.
func everyFamily(t *testing.T, f func(*testing.T, variant)) {
	t.Helper()
	dualToo(t, f)
	v := vxlan.in(ipv6Only)
	t.Run(v.name(), func(t *testing.T) { f(t, v) })
}

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

func (v variant) name() string {
	if v.families == ipv4Only {
		return v.backend.name + "," + v.store.name
	}
	return v.backend.name + "," + v.store.name + "," + string(v.families)
}

// in returns the variant with other families.
func (v variant) in(f families) variant {
	v.families, v.slow = f, false
	return v
}

// settings are keys of the network configuration.
type settings map[string]any

// config is the text of a network configuration for the backend, in which
// these settings replace or join the usual ones.
func (v variant) config(special settings) string {
	all := settings{"Backend": json.RawMessage(v.backend.config)}
	maps.Copy(all, v.families.config())
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
	// expected is what a host must have so as to reach a peer in the first of its families,
	// and present is what it has of that sort, one text for each object in the kernel.
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
		return fmt.Sprintf(`{%s,"BackendType":"host-gw"%s}`, p.publicIPs(), p.machine())
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
		return fmt.Sprintf(`{%s%s}`, p.publicIPs(), p.machine())
	},
	expected: (*node).tunnelTo,
	present:  (*node).probed,
	itself:   true,
}

var allocBackend = backend{
	name:   "alloc",
	config: `{"Type":"alloc"}`,
	lease: func(p peer) string {
		return fmt.Sprintf(`{%s%s}`, p.publicIPs(), p.machine())
	},
	expected: func(*node, peer) []string { return nil },
	present:  (*node).routes,
}

// peer is a host as others know it: by its lease.
type peer struct {
	subnet netip.Prefix
	public netip.Addr
	node   *node // nil for a stranger
	also   *peer // what its lease says of the other family, if it has both
}

// views are what a lease says of each family.
func (p peer) views() []peer {
	if p.also == nil {
		return []peer{p}
	}
	return []peer{p, *p.also}
}

// stranger is a peer of which there is nothing but a lease.
func stranger(subnet, public string) peer {
	return peer{subnet: netip.MustParsePrefix(subnet), public: netip.MustParseAddr(public)}
}

// stranger is a peer of which there is nothing but a lease, in the families of the network. It
// is given by what it has in IPv4.
func (n *network) stranger(subnet, public string) peer {
	return n.families.of(stranger(subnet, public))
}

// distant is the i-th of many strangers, with addresses in 172.16.0.0/16.
func distant(i int) peer {
	return peer{
		subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), 0}), 24),
		public: netip.AddrFrom4([4]byte{172, 16, byte(1 + i>>8), byte(i)}),
	}
}

// envSubnets are the variables of subnet.env that name the subnets.
var envSubnets = map[ip.Family]string{ip.V4: "FLANNEL_SUBNET", ip.V6: "FLANNEL_IPV6_SUBNET"}

// distant is the i-th of many strangers, in the families of the network.
func (n *network) distant(i int) peer { return n.families.of(distant(i)) }

// peer of all other hosts, in the families of which the host has a subnet.
func (h *node) peer() peer {
	h.n.t.Helper()
	env := h.daemon.Env()
	var views []*peer
	for _, f := range ip.Families {
		if text, ok := env[envSubnets[f]]; ok {
			p, err := netip.ParsePrefix(text)
			check(h.n.t, err)
			views = append(views, &peer{subnet: p.Masked(), public: h.Of(f), node: h})
		}
	}
	if len(views) == 0 {
		h.n.t.Fatalf("%s has no subnet by %q", h.Name, h.daemon.EnvText())
	}
	if len(views) == 2 {
		views[0].also = views[1]
	}
	return *views[0]
}

// has reports whether the host has a subnet of a family.
func (h *node) has(f ip.Family) bool {
	_, ok := h.daemon.Env()[envSubnets[f]]
	return ok
}

// publicIPs are the addresses in the value of the peer's lease.
func (p peer) publicIPs() string {
	var addrs ip.Addrs
	for _, v := range p.views() {
		if v.public.Is4() {
			addrs.V4 = v.public
		} else {
			addrs.V6 = v.public
		}
	}
	text := func(f ip.Family) string {
		if a := addrs.Of(f); a.IsValid() {
			return fmt.Sprintf("%q", a)
		}
		return "null"
	}
	return fmt.Sprintf(`"PublicIP":%s,"PublicIPv6":%s`, text(ip.V4), text(ip.V6))
}

// machine is what the peer's lease says of the machine that wrote it.
func (p peer) machine() string {
	if p.node == nil {
		return "" // as flannel has it
	}
	return fmt.Sprintf(`,"Machine":%q`, daemon.Machine())
}

// subnets are those of the peer as the log has them.
func (p peer) subnets() string { return strings.Join(p.texts(netip.Prefix.String), ",") }

// texts are those of the peer's subnets.
func (p peer) texts(text func(netip.Prefix) string) (all []string) {
	for _, v := range p.views() {
		all = append(all, text(v.subnet))
	}
	return all
}

// name of the peer's key in the store.
func (p peer) name() string {
	return strings.Join(p.texts(func(s netip.Prefix) string { return strings.ReplaceAll(s.String(), "/", "-") }), "&")
}

func (p peer) key() string { return "subnets/" + p.name() }

// route is the plain route to the peer, as node.routes has it.
func (p peer) route() string { return fmt.Sprintf("%s via %s", p.subnet, p.public) }

// putPeer writes the lease of a stranger, without a time to live.
func (n *network) putPeer(p peer) {
	n.t.Helper()
	n.put(p.key(), n.backend.lease(p))
}
