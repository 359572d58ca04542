package subnet

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"flanneld/pkg/ip"
)

// selfAt is a host with the given address and network on its external interface, and
// others on others.
func selfAt(external string, others ...string) Self {
	p := netip.MustParsePrefix(external)
	s := Self{Addr: ip.Addrs{V4: p.Addr()}, Link: ip.SubnetOf(p.Masked()), All: []netip.Prefix{p}}
	for _, o := range others {
		s.All = append(s.All, netip.MustParsePrefix(o))
	}
	return s
}

func TestVet(t *testing.T) {
	outside := selfAt("192.0.2.1/24", "172.17.0.1/16", "127.0.0.1/8", "198.51.100.4/31")
	inside := selfAt("10.5.64.7/20")
	around := selfAt("10.5.64.7/8")
	for _, test := range []struct {
		name, key, public string
		config            string
		self              Self
		reason            string // "" is fit
		stays             bool   // what the host has
	}{
		{name: "fit", key: "10.5.2.0-24", public: "192.0.2.2"},
		{name: "below SubnetMin, as a reservation may be", key: "10.5.0.0-24", public: "192.0.2.2"},
		{name: "our own", key: "10.5.1.0-24", public: "192.0.2.2", reason: "own"},
		{name: "outside Network", key: "10.6.2.0-24", public: "192.0.2.2", reason: "outside Network 10.5.0.0/16"},
		{name: "shorter than Network", key: "10.0.0.0-8", public: "192.0.2.2", reason: "outside Network"},
		{name: "all of Network", key: "10.5.0.0-16", public: "192.0.2.2", reason: "outside Network 10.5.0.0/16, or is all of it"},
		{name: "shorter than SubnetLen", key: "10.5.2.0-23", public: "192.0.2.2"},
		{name: "longer than SubnetLen", key: "10.5.2.0-25", public: "192.0.2.2"},
		{name: "within our own", key: "10.5.1.128-25", public: "192.0.2.2", reason: "own subnet"},
		{name: "around our own", key: "10.5.0.0-17", public: "192.0.2.2", reason: "own subnet"},
		{name: "the host's own network", key: "10.5.65.0-24", public: "10.5.64.9", self: inside, reason: "external interface"},
		{name: "our own address, in a network around Network", key: "10.5.64.0-24", public: "10.9.0.9", self: around, reason: "10.5.64.7/32, which is on this host's external interface"},
		{name: "our public address", key: "10.5.2.0-24", public: "192.0.2.1", reason: "192.0.2.1 is this host's own", stays: true},
		{name: "another address of ours", key: "10.5.2.0-24", public: "172.17.0.1", reason: "172.17.0.1 is one of this host's own"},
		{name: "our broadcast address", key: "10.5.2.0-24", public: "192.0.2.255", reason: "broadcast or network address of 192.0.2.0/24", stays: true},
		{name: "the address of our network", key: "10.5.2.0-24", public: "192.0.2.0", reason: "broadcast or network address of 192.0.2.0/24", stays: true},
		{name: "the other end of a /31", key: "10.5.2.0-24", public: "198.51.100.5"},
		{name: "the broadcast address of a network of others", key: "10.5.2.0-24", public: "203.0.113.255"},
		{name: "public address inside", key: "10.5.2.0-24", public: "10.5.2.7", reason: "inside the subnet"},
		{name: "a pod of ours", key: "10.5.2.0-24", public: "10.5.1.7", reason: "inside this host's own subnet 10.5.1.0/24"},
		{name: "inside Network, where no hosts are", key: "10.5.2.0-24", public: "10.5.9.9", reason: "inside Network 10.5.0.0/16, where pods are"},
		{name: "inside Network, in the first subnet", key: "10.5.2.0-24", public: "10.5.0.9", reason: "inside Network"},
		{name: "inside Network, below what pods may get", key: "10.5.2.0-24", public: "10.5.0.9", config: `{"Network":"10.5.0.0/16","SubnetMin":"10.5.2.0"}`},
		{name: "inside Network, above what pods may get", key: "10.5.2.0-24", public: "10.5.4.9", config: `{"Network":"10.5.0.0/16","SubnetMax":"10.5.3.0"}`},
		{name: "inside Network, as hosts are", key: "10.5.2.0-24", public: "10.5.64.9", self: inside},
		{name: "inside Network, as hosts are, behind a router", key: "10.5.2.0-24", public: "10.5.99.9", self: inside},
		{name: "inside Network, which is inside the network of hosts", key: "10.5.2.0-24", public: "10.5.99.9", self: around},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustConfig(t, cmp.Or(test.config, `{"Network":"10.5.0.0/16"}`))
			self := test.self
			if !self.Addr.V4.IsValid() {
				self = outside
			}
			own := leases(t, "10.5.1.0-24").Leases[0]
			own.PublicIP = self.Addr
			l := leases(t, test.key).Leases[0]
			l.PublicIP.V4 = netip.MustParseAddr(test.public)
			peers, problems := new(Vetter).Vet(c, own, self, Snapshot{Leases: []*Lease{l}})
			switch {
			case test.reason == "own":
				if len(peers)+len(problems) != 0 {
					t.Errorf("peers %v, problems %v", peers, problems)
				}
			case test.reason == "":
				if len(peers) != 1 || peers[0] != l || len(problems) != 0 {
					t.Errorf("peers %v, problems %v", peers, problems)
				}
			case len(peers) != 0 || len(problems) != 1:
				t.Errorf("peers %v, problems %v", peers, problems)
			default:
				p := problems[0]
				if !strings.Contains(p.Reason, test.reason) || p.Key != test.key || p.Subnet != l.Subnet || p.Withdraw == test.stays {
					t.Errorf("problem %+v does not name %q, or whether what there is stays", p, test.reason)
				}
			}
		})
	}
}

// Each address family of a lease is judged by itself, and what is in none that is on is no
// problem.
func TestVetFamilies(t *testing.T) {
	const (
		ipv4 = `{"Network":"10.5.0.0/16"}`
		ipv6 = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}`
		dual = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`
	)
	for name, c := range map[string]struct {
		config string
		leases map[string]string // public addresses by key
		used   []string
		why    []string // of problems, by key
	}{
		"all of one kind":                    {dual, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 2001:db8::2"}, []string{"10.5.2.0/24,fc00:0:0:2::/64"}, nil},
		"hosts that have one":                {dual, map[string]string{"10.5.2.0-24": "192.0.2.2", "fc00:0:0:3::-64": "2001:db8::3"}, []string{"fc00:0:0:3::/64", "10.5.2.0/24"}, nil},
		"IPv6 is off":                        {ipv4, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 2001:db8::2", "fc00:0:0:3::-64": "2001:db8::3"}, []string{"10.5.2.0/24"}, []string{"fc00:0:0:3::/64 is of an address family that the configuration does not enable"}},
		"IPv4 is off":                        {ipv6, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 2001:db8::2", "10.5.3.0-24": "192.0.2.3"}, []string{"fc00:0:0:2::/64"}, []string{"10.5.3.0/24 is of an address family that the configuration does not enable"}},
		"flannel's in IPv6 alone":            {ipv6, map[string]string{"0.0.0.0-0&fc00:0:0:2::-64": "2001:db8::2"}, []string{"fc00:0:0:2::/64"}, nil},
		"flannel's in IPv6 alone, beside":    {dual, map[string]string{"0.0.0.0-0&fc00:0:0:2::-64": "2001:db8::2", "10.5.3.0-24": "192.0.2.3"}, []string{"fc00:0:0:2::/64", "10.5.3.0/24"}, nil},
		"one is outside":                     {dual, map[string]string{"10.5.2.0-24&fc01::-64": "192.0.2.2 2001:db8::2"}, []string{"10.5.2.0/24"}, []string{"fc01::/64 lies outside Network fc00::/48"}},
		"both are outside":                   {dual, map[string]string{"10.6.2.0-24&fc01::-64": "192.0.2.2 2001:db8::2"}, nil, []string{"fc01::/64 lies outside Network", "10.6.2.0/24 lies outside Network"}},
		"one overlaps our own":               {dual, map[string]string{"10.5.2.0-24&fc00:0:0:1::-64": "192.0.2.2 2001:db8::2"}, []string{"10.5.2.0/24"}, []string{"fc00:0:0:1::/64 overlaps this host's own subnet"}},
		"one is on our link":                 {dual, map[string]string{"10.5.2.0-24&fc00:0:0:ff::-64": "192.0.2.2 2001:db8::2"}, []string{"10.5.2.0/24"}, []string{"fc00:0:0:ff::/64 overlaps fc00:0:0:ff::/64, which is on this host's external interface"}},
		"our IPv6 address":                   {dual, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 fc00:0:0:ff::1"}, []string{"10.5.2.0/24"}, []string{"fc00:0:0:ff::1 is this host's own"}},
		"our IPv4 address":                   {dual, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.1 2001:db8::2"}, []string{"fc00:0:0:2::/64"}, []string{"192.0.2.1 is this host's own"}},
		"inside itself":                      {dual, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 fc00:0:0:2::9"}, []string{"10.5.2.0/24"}, []string{"fc00:0:0:2::9 lies inside the subnet itself"}},
		"one overlaps another host's":        {dual, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 2001:db8::2", "10.5.3.0-24&fc00:0:0:2::-63": "192.0.2.3 2001:db8::3"}, []string{"10.5.2.0/24,fc00:0:0:2::/64", "10.5.3.0/24"}, []string{"fc00:0:0:2::/63 overlaps the lease 10.5.2.0/24,fc00:0:0:2::/64"}},
		"one is another host's, too":         {dual, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 2001:db8::2", "10.5.3.0-24&fc00:0:0:2::-64": "192.0.2.3 2001:db8::3"}, []string{"10.5.2.0/24,fc00:0:0:2::/64", "10.5.3.0/24"}, []string{"fc00:0:0:2::/64 overlaps the lease 10.5.2.0/24,fc00:0:0:2::/64"}},
		"IPv4 is another host's, too":        {ipv4, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 2001:db8::2", "10.5.2.0-24": "192.0.2.3"}, []string{"10.5.2.0/24"}, []string{"10.5.2.0/24 overlaps the lease 10.5.2.0/24"}},
		"inside another host's":              {dual, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 fc00:0:0:3::9", "10.5.3.0-24&fc00:0:0:3::-64": "192.0.2.3 fc00:0:0:ff::3"}, []string{"10.5.2.0/24", "10.5.3.0/24,fc00:0:0:3::/64"}, []string{"fc00:0:0:3::9 lies inside 10.5.3.0/24,fc00:0:0:3::/64"}},
		"what a host wrote, and then":        {dual, map[string]string{"10.5.2.0-24": "192.0.2.2", "10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 2001:db8::2"}, []string{"10.5.2.0/24,fc00:0:0:2::/64"}, nil},
		"what a host wrote, and then, in v4": {ipv4, map[string]string{"10.5.2.0-24": "192.0.2.2", "10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 2001:db8::2"}, []string{"10.5.2.0/24"}, nil},
		"what we wrote":                      {dual, map[string]string{"10.5.1.0-24": "192.0.2.1", "fc00:0:0:1::-64": "fc00:0:0:ff::1"}, nil, nil},
		"one address cannot be read":         {dual, map[string]string{"10.5.2.0-24&fc00:0:0:2::-64": "192.0.2.2 nonsense"}, []string{"10.5.2.0/24"}, []string{"PublicIPv6"}},
	} {
		t.Run(name, func(t *testing.T) {
			own := leases(t, "10.5.1.0-24&fc00:0:0:1::-64").Leases[0]
			self := selfAt("192.0.2.1/24")
			link := netip.MustParsePrefix("fc00:0:0:ff::1/64")
			self.Addr.V6, self.Link.V6, self.All = link.Addr(), link.Masked(), append(self.All, link)
			own.PublicIP = self.Addr
			own.Revision = 99
			keys := slices.Sorted(maps.Keys(c.leases))
			backward := slices.Clone(keys)
			slices.Reverse(backward)
			for _, order := range [][]string{keys, backward} {
				var a Assembler
				var v Vetter
				for _, key := range order {
					public := strings.Fields(c.leases[key])
					value := fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":%q}`, public[0], public[len(public)-1])
					n := int64(slices.Index(keys, key)) + 1
					a.Put(Entry{Key: key, Value: value, Revision: uint64(n), Created: n})
					v.Vet(mustConfig(t, c.config), own, self, a.Snapshot(1))
				}
				peers, problems := v.Vet(mustConfig(t, c.config), own, self, a.Snapshot(1))
				if got := subnetsOf(peers); got != strings.Join(c.used, " ") {
					t.Errorf("used are %s, want %s", got, c.used)
				}
				for _, p := range peers {
					for _, f := range ip.Families {
						if p.Subnet.Of(f).IsValid() != p.PublicIP.Of(f).IsValid() {
							t.Errorf("%s is at %s", p.Subnet, p.PublicIP)
						}
					}
				}
				if len(problems) != len(c.why) {
					t.Fatalf("problems are %+v", problems)
				}
				for i, why := range c.why {
					if !strings.Contains(problems[i].Reason, why) {
						t.Errorf("it says %q, without %q", problems[i].Reason, why)
					}
				}
			}
		})
	}
}

// Leases that cannot all be in force: every host decides in the same way, whatever
// the order in which it hears of them.
func TestVetTogether(t *testing.T) {
	outside, inside := selfAt("192.0.2.1/24"), selfAt("10.5.64.7/20")
	for _, test := range []struct {
		name    string
		self    Self
		leases  map[string]string // public addresses by key
		refused string            // keys
	}{
		{"hosts with several leases", outside, map[string]string{"10.5.2.0-24": "192.0.2.2", "10.5.3.0-24": "192.0.2.2"}, ""},
		{"a longer one", outside, map[string]string{"10.5.2.0-24": "192.0.2.2", "10.5.2.128-25": "192.0.2.3"}, "10.5.2.128-25"},
		{"a shorter one", outside, map[string]string{"10.5.2.0-24": "192.0.2.2", "10.5.128.0-17": "192.0.2.4", "10.5.2.0-23": "192.0.2.3"}, "10.5.2.0-23"},
		{"around several", outside, map[string]string{"10.5.128.0-17": "192.0.2.4", "10.5.130.0-24": "192.0.2.2", "10.5.140.0-24": "192.0.2.3"}, "10.5.128.0-17"},
		{"of other lengths", outside, map[string]string{"10.5.120.0-23": "192.0.2.2", "10.5.121.0-25": "192.0.2.3", "10.5.121.128-25": "192.0.2.4"}, "10.5.120.0-23"},
		{"within one that loses", outside, map[string]string{"10.5.4.0-22": "192.0.2.2", "10.5.4.0-24": "192.0.2.3", "10.5.6.0-25": "192.0.2.4"}, "10.5.4.0-22"},
		{"within one within one", outside, map[string]string{"10.5.4.0-22": "192.0.2.2", "10.5.4.0-24": "192.0.2.3", "10.5.4.64-26": "192.0.2.4"}, "10.5.4.0-22 10.5.4.64-26"},
		{"each inside the other", inside, map[string]string{"10.5.2.0-24": "10.5.3.9", "10.5.3.0-24": "10.5.2.9"}, "10.5.2.0-24 10.5.3.0-24"},
		{"three in a circle", inside, map[string]string{"10.5.2.0-24": "10.5.3.9", "10.5.3.0-24": "10.5.4.9", "10.5.4.0-24": "10.5.2.9"}, "10.5.2.0-24 10.5.3.0-24 10.5.4.0-24"},
		{"a pod's address", inside, map[string]string{"10.5.2.0-24": "10.5.3.9", "10.5.3.0-24": "10.5.64.9"}, "10.5.2.0-24"},
		{"a subnet with the address of a host of our network", inside, map[string]string{"10.5.2.0-24": "10.5.64.9", "10.5.3.0-24": "10.5.2.9"}, "10.5.3.0-24"},
		{"a great one with the addresses of hosts", inside, map[string]string{"10.5.2.0-24": "10.5.200.9", "10.5.3.0-24": "10.5.201.9", "10.5.128.0-17": "10.5.64.9"}, "10.5.128.0-17"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustConfig(t, `{"Network":"10.5.0.0/16"}`)
			own := &Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24")), Attrs: Attrs{PublicIP: test.self.Addr}}
			keys := slices.Collect(maps.Keys(test.leases))
			for range 20 {
				rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
				var a Assembler
				var v Vetter
				for i, key := range keys {
					a.Put(Entry{Key: key, Value: fmt.Sprintf(`{"PublicIP":%q}`, test.leases[key]), Revision: uint64(i)})
					v.Vet(c, own, test.self, a.Snapshot(1))
				}
				peers, problems := v.Vet(c, own, test.self, a.Snapshot(1))
				var refused []string
				for _, p := range problems {
					refused = append(refused, p.Key)
				}
				if got := strings.Join(refused, " "); got != test.refused || len(peers)+len(refused) != len(keys) {
					t.Fatalf("heard of in the order %v, %q are refused: %v", keys, got, problems)
				}
				for _, p := range peers { // with the last one that was refused, it is over
					if i := slices.Index(keys, p.Subnet.Key()); i < 0 {
						t.Fatalf("%s is a peer", p.Subnet)
					}
				}
				for _, key := range refused {
					a.Remove(key)
				}
				if peers, problems = v.Vet(c, own, test.self, a.Snapshot(1)); len(problems) > 0 || len(peers) != len(keys)-len(refused) {
					t.Fatalf("without those: peers %v, problems %v", peers, problems)
				}
			}
		})
	}
}

// Overlap with our own subnet can only be of the same length.
func TestVetOverlapsOwn(t *testing.T) {
	c := mustConfig(t, `{"Network":"10.5.0.0/16"}`)
	own := leases(t, "10.5.1.0-24").Leases[0]
	own.PublicIP.V4 = netip.MustParseAddr("192.0.2.1")
	own.Subnet = ip.SubnetOf(netip.MustParsePrefix("10.5.0.0/23")) // from before a change of SubnetLen
	peers, problems := new(Vetter).Vet(c, own, Self{}, leases(t, "10.5.1.0-24", "10.5.2.0-24"))
	if len(peers) != 1 || len(problems) != 1 || !strings.Contains(problems[0].Reason, "own subnet") {
		t.Errorf("peers %v, problems %v", peers, problems)
	}
}

// The store's own problems are passed on, in order, but for that of our lease,
// which the keeper mends.
func TestVetProblems(t *testing.T) {
	c := mustConfig(t, `{"Network":"10.5.0.0/16"}`)
	own := leases(t, "10.5.1.0-24").Leases[0]
	own.PublicIP.V4 = netip.MustParseAddr("192.0.2.1")
	s := leases(t, "10.6.0.0-24", "10.5.3.0-24")
	s.Problems = []Problem{
		{Key: "10.5.1.0-24", Subnet: own.Subnet, Reason: "garbage"},
		{Key: "nonsense", Reason: "bad key"},
		{Key: "10.5.9.0-24", Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.9.0/24")), Reason: "garbage"},
	}
	peers, problems := new(Vetter).Vet(c, own, Self{}, s)
	if len(peers) != 1 || peers[0].Subnet.String() != "10.5.3.0/24" {
		t.Errorf("peers %v", peers)
	}
	var keys []string
	for _, p := range problems {
		keys = append(keys, p.Key)
	}
	if got := strings.Join(keys, " "); got != "10.5.9.0-24 10.6.0.0-24 nonsense" {
		t.Errorf("problems with %s", got)
	}
}

func TestLocal(t *testing.T) {
	c, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ addr, want string }{
		{"192.168.0.3/24", "192.168.0.0/24"},
		{"10.5.7.3/24", "10.5.7.0/24"},
		{"10.5.7.3/16", "10.5.7.3/32"},
		{"10.5.7.3/8", "10.5.7.3/32"},
		{"11.5.7.3/8", "11.0.0.0/8"},
	} {
		p := netip.MustParsePrefix(test.addr)
		got := c.Local(ip.Addrs{V4: p.Addr()}, ip.SubnetOf(p.Masked()))
		if len(got) != 1 || got[0] != netip.MustParsePrefix(test.want) {
			t.Errorf("for %s: %v, want %s", test.addr, got, test.want)
		}
	}
}

// Verdicts that are remembered are those that would be given anew.
func TestVetRemembers(t *testing.T) {
	c, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16"}`))
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, self := range []Self{selfAt("192.0.2.1/24"), selfAt("10.5.64.7/20")} {
		var v Vetter
		var a Assembler
		for range 3000 {
			bits := 24
			if rnd.IntN(4) == 0 {
				bits = 22 + rnd.IntN(4)
			}
			base := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(5 + rnd.IntN(20)/19), byte(rnd.IntN(20)), 0}), bits).Masked()
			key := ip.SubnetOf(base).Key()
			public := fmt.Sprintf("192.0.2.%d", rnd.IntN(4))
			if rnd.IntN(8) == 0 {
				public = fmt.Sprintf("10.5.%d.9", rnd.IntN(20))
			}
			if rnd.IntN(8) == 0 {
				public = fmt.Sprintf("10.5.64.%d", rnd.IntN(20))
			}
			switch {
			case rnd.IntN(100) == 0: // now and then there is nothing wrong
				a = Assembler{}
			case rnd.IntN(3) == 0:
				a.Remove(key)
			default:
				a.Put(Entry{Key: key, Value: fmt.Sprintf(`{"PublicIP":%q}`, public), Revision: rnd.Uint64N(5)})
			}
			own := &Lease{
				Subnet: ip.SubnetOf(netip.MustParsePrefix(fmt.Sprintf("10.5.%d.0/24", rnd.IntN(100)/99))),
				Attrs:  Attrs{PublicIP: self.Addr},
			}
			s := a.Snapshot(1)
			peers, problems := v.Vet(c, own, self, s)
			wantPeers, wantProblems := new(Vetter).Vet(c, own, self, s)
			if !slices.Equal(peers, wantPeers) || !slices.Equal(problems, wantProblems) {
				t.Fatalf("remembered %v %v, anew %v %v", peers, problems, wantPeers, wantProblems)
			}
			for i := range peers { // none can be in the way of others
				if i > 0 && peers[i].Subnet.Overlaps(peers[i-1].Subnet) {
					t.Fatalf("%s and %s overlap", peers[i-1].Subnet, peers[i].Subnet)
				}
				for _, p := range peers {
					if p.Subnet.V4.Contains(peers[i].PublicIP.V4) {
						t.Fatalf("%s holds %s", p.Subnet, peers[i].PublicIP)
					}
				}
			}
		}
	}
}

// The same with leases of both families, of one, and of another one than before.
func TestVetRemembersFamilies(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	self := selfAt("192.0.2.1/24")
	self.Addr.V6, self.Link.V6 = netip.MustParseAddr("fc00:0:0:40::7"), netip.MustParsePrefix("fc00:0:0:40::/60")
	for _, config := range []string{
		`{"Network":"10.5.0.0/16"}`, `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}`,
		`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`,
	} {
		c := mustConfig(t, config)
		var v Vetter
		var a Assembler
		for range 3000 {
			v4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(5 + rnd.IntN(20)/19), byte(rnd.IntN(8)), 0}), 24-rnd.IntN(8)/6).Masked()
			v6 := netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fc00:0:0:%x::", rnd.IntN(8))), 64-rnd.IntN(8)/6).Masked()
			s := ip.Subnet{V4: v4, V6: v6}
			if n := rnd.IntN(4); n < 2 {
				s = s.With(ip.Families[n], netip.Prefix{})
			}
			host := rnd.IntN(6)
			public6 := fmt.Sprintf("2001:db8::%x", host)
			if rnd.IntN(8) == 0 {
				public6 = fmt.Sprintf("fc00:0:0:%x::9", rnd.IntN(8))
			}
			switch {
			case rnd.IntN(100) == 0:
				a = Assembler{}
			case rnd.IntN(3) == 0:
				a.Remove(s.Key())
			default:
				value := fmt.Sprintf(`{"PublicIP":"192.0.2.%d","PublicIPv6":%q,"Machine":"m %d"}`, host, public6, host)
				a.Put(Entry{Key: s.Key(), Value: value, Revision: rnd.Uint64N(50), Created: rnd.Int64N(5)})
			}
			own := &Lease{
				Subnet: ip.Subnet{V4: netip.MustParsePrefix("10.5.1.0/24"), V6: netip.MustParsePrefix("fc00:0:0:1::/64")},
				Attrs:  Attrs{PublicIP: ip.Addrs{V4: self.Addr.V4, V6: netip.MustParseAddr(fmt.Sprintf("2001:db8::1:%d", rnd.IntN(100)/99))}, Machine: "m 1"},
			}
			peers, problems := v.Vet(c, own, self, a.Snapshot(1))
			wantPeers, wantProblems := new(Vetter).Vet(c, own, self, a.Snapshot(1))
			same := func(a, b *Lease) bool { return *a == *b }
			if !slices.EqualFunc(peers, wantPeers, same) || !slices.Equal(problems, wantProblems) {
				t.Fatalf("remembered %v %v, anew %v %v", peers, problems, wantPeers, wantProblems)
			}
			for i, p := range peers {
				for _, o := range peers[:i] {
					if o.Subnet.Overlaps(p.Subnet) {
						t.Fatalf("%s and %s overlap", o.Subnet, p.Subnet)
					}
				}
			}
		}
	}
}

// What cannot be used costs nothing with each change of what can.
func TestVetManyRefused(t *testing.T) {
	c := mustConfig(t, `{"Network":"10.0.0.0/8","SubnetLen":24}`)
	var entries []Entry
	for i := range 5000 {
		entries = append(entries, Entry{Key: fmt.Sprintf("11.%d.%d.0-24", i>>8, i&255), Value: `{"PublicIP":"192.0.2.9"}`})
	}
	var a Assembler
	a.Reset(entries)
	var v Vetter
	own := &Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24"))}
	revision := uint64(0)
	allocated := testing.AllocsPerRun(10, func() {
		revision++
		a.Put(Entry{Key: "10.5.2.0-24", Value: `{"PublicIP":"192.0.2.8"}`, Revision: revision})
		if peers, problems := v.Vet(c, own, Self{}, a.Snapshot(revision)); len(peers) != 1 || len(problems) != len(entries) {
			t.Fatalf("%d peers and %d problems", len(peers), len(problems))
		}
	})
	if allocated > 500 {
		t.Errorf("a change takes %.0f allocations", allocated)
	}
}

// Where the store chooses subnets, the length that most have is the usual one, and the host
// that was registered first goes before.
func TestVetTogetherAssigned(t *testing.T) {
	const second, third = "10.5.2.0/24", "10.5.3.0/24"
	for name, c := range map[string]struct {
		leases  map[string]int64 // when their hosts were registered
		refused string
	}{
		"inside another":         {map[string]int64{second: 2, third: 3, "10.5.2.128/25": 4}, "10.5.2.128/25"},
		"inside another, older":  {map[string]int64{second: 2, third: 3, "10.5.2.128/25": 1}, "10.5.2.128/25"},
		"around others, older":   {map[string]int64{second: 2, third: 3, "10.5.0.0/22": 1, "10.5.128.0/17": 1}, "10.5.0.0/22"},
		"no usual length":        {map[string]int64{second: 2, "10.5.2.128/25": 3, "10.5.3.128/25": 3}, "10.5.2.128/25"},
		"no usual length, older": {map[string]int64{second: 2, "10.5.2.128/25": 1, "10.5.3.128/25": 3}, second},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := parseConfig([]byte(`{"Network":"10.5.0.0/16"}`), true)
			if err != nil {
				t.Fatal(err)
			}
			lease := func(cidr string, created int64) *Lease {
				p := netip.MustParsePrefix(cidr)
				a := p.Addr().As4()
				return &Lease{
					Subnet: ip.SubnetOf(p), Created: created,
					Attrs: Attrs{PublicIP: ip.Addrs{V4: netip.AddrFrom4([4]byte{192, 0, a[2], 2 + a[3]})}, Machine: cidr},
				}
			}
			keys := slices.Collect(maps.Keys(c.leases))
			for range 20 {
				rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
				var v Vetter
				var all []*Lease
				var problems []Problem
				for _, key := range keys {
					l := lease(key, c.leases[key])
					i, _ := search(all, l.Subnet)
					all = slices.Insert(slices.Clone(all), i, l)
					_, problems = v.Vet(config, lease("10.5.1.0/24", 9), selfAt("198.51.100.1/24"), Snapshot{Leases: all})
				}
				refused := []string{}
				for _, p := range problems {
					refused = append(refused, p.Subnet.String())
				}
				if got := strings.Join(refused, " "); got != c.refused {
					t.Fatalf("%q: refused are %s, want %s", keys, got, c.refused)
				}
			}
		})
	}
}
