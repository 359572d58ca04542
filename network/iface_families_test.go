package network

import (
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
)

// addr6 is an address of an interface, with its flags.
func addr6(text string) kernel.Address {
	words := strings.Fields(text)
	a := kernel.Address{Prefix: prefix(words[0])}
	for _, w := range words[1:] {
		switch w {
		case "deprecated":
			a.Deprecated = true
		case "temporary":
			a.Temporary = true
		case "tentative":
			a.Tentative = true
		case "duplicate":
			a.Duplicate = true
		}
	}
	return a
}

// dualIface has these IPv6 addresses beside one of IPv4.
func dualIface(name, v4 string, v6 ...string) kernel.Interface {
	i := iface(name, v4)
	for _, text := range v6 {
		i.Addrs = append(i.Addrs, addr6(text))
	}
	return i
}

// dualView has the default routes of the two families by eth0.
func dualView() view {
	return view{
		ifaces: []kernel.Interface{
			loopback(),
			dualIface("eth0", "192.0.2.1/24", "fe80::1/64", "2001:db8::1/64"),
			dualIface("eth1", "198.51.100.1/24", "fe80::2/64", "2001:db8:1::1/64", "fd00::1/64"),
		},
		defaults:  []kernel.DefaultRoute{{Iface: "eth0", Metric: 100}},
		defaults6: []kernel.DefaultRoute{{Iface: "eth0", Metric: 1024}},
	}
}

// In each family the interface is that of its own default route, and where there is a choice
// both share one; options count for both, and an address of one family for the other only where
// it has none of its own.
func TestChooseFamilies(t *testing.T) {
	for _, test := range []struct {
		name   string
		s      Selection
		change func(*view)
		v4, v6 string   // "" is an error
		tells  []string // of IPv6's
	}{
		{name: "one default route in each", v4: "eth0 192.0.2.1", v6: "eth0 2001:db8::1"},
		{
			name:   "on different interfaces",
			change: func(v *view) { v.defaults6 = []kernel.DefaultRoute{{Iface: "eth1", Metric: 1024}} },
			v4:     "eth0 192.0.2.1", v6: "eth1 2001:db8:1::1",
		},
		{
			name: "routers on both links, and the same preference",
			change: func(v *view) {
				v.defaults6 = []kernel.DefaultRoute{{Iface: "eth1", Metric: 1024}, {Iface: "eth0", Metric: 1024}}
			},
			v4: "eth0 192.0.2.1", v6: "eth0 2001:db8::1",
		},
		{
			name: "routers on both links, and one preferred",
			change: func(v *view) {
				v.defaults6 = []kernel.DefaultRoute{{Iface: "eth1", Metric: 10}, {Iface: "eth0", Metric: 1024}}
			},
			v4: "eth0 192.0.2.1", v6: "eth1 2001:db8:1::1",
		},
		{name: "no IPv6 default route", change: func(v *view) { v.defaults6 = nil }, v4: "eth0 192.0.2.1", v6: "eth0 2001:db8::1"},
		{
			name:   "no IPv6 at all",
			change: func(v *view) { v.defaults6 = nil; v.ifaces[1] = iface("eth0", "192.0.2.1/24", "fe80::1/64") },
			v4:     "eth0 192.0.2.1",
			tells:  []string{"no default route", "-iface-ipv6", "IPv4's interface eth0", "no IPv6 address", "for the link alone"},
		},
		{
			name:   "IPv6 is disabled",
			change: func(v *view) { v.ifaces[1] = iface("eth0", "192.0.2.1/24"); v.ifaces[1].NoIPv6 = true },
			v4:     "eth0 192.0.2.1", tells: []string{"sysctl net.ipv6.conf.eth0.disable_ipv6=0"},
		},
		{
			name: "an MTU too small for IPv6",
			change: func(v *view) {
				v.ifaces[1] = iface("eth0", "192.0.2.1/24")
				v.ifaces[1].MTU, v.ifaces[1].NoIPv6 = 1200, true
			},
			v4: "eth0 192.0.2.1", tells: []string{"MTU 1200", "1280"},
		},
		{
			name: "privacy, deprecated and tentative addresses",
			change: func(v *view) {
				v.ifaces[1] = dualIface("eth0", "192.0.2.1/24", "2001:db8::a/64 temporary", "2001:db8::b/64 tentative", "2001:db8::c/64 deprecated", "2001:db8::d/128", "2001:db8::e/64 duplicate")
			},
			v4: "eth0 192.0.2.1", v6: "eth0 2001:db8::d",
		},
		{
			name:   "a stable one of a network before a single one",
			change: func(v *view) { v.ifaces[1] = dualIface("eth0", "192.0.2.1/24", "2001:db8::d/128", "2001:db8::1/64") },
			v4:     "eth0 192.0.2.1", v6: "eth0 2001:db8::1",
		},
		{
			name: "only a privacy and a deprecated address",
			change: func(v *view) {
				v.ifaces[1] = dualIface("eth0", "192.0.2.1/24", "2001:db8::c/64 deprecated", "2001:db8::a/64 temporary")
			},
			v4: "eth0 192.0.2.1", v6: "eth0 2001:db8::a",
		},
		{
			name:   "another host has the address",
			change: func(v *view) { v.ifaces[1] = dualIface("eth0", "192.0.2.1/24", "2001:db8::1/64 duplicate") },
			v4:     "eth0 192.0.2.1", tells: []string{"another host on the link has 2001:db8::1"},
		},
		{
			name:   "only tentative",
			change: func(v *view) { v.ifaces[1] = dualIface("eth0", "192.0.2.1/24", "2001:db8::1/64 tentative") },
			v4:     "eth0 192.0.2.1", tells: []string{"eth0 has no IPv6 address yet"},
		},

		{name: "a name", s: Selection{Ifaces: []string{"eth1"}}, v4: "eth1 198.51.100.1", v6: "eth1 2001:db8:1::1"},
		{name: "an IPv4 address", s: Selection{Ifaces: []string{"198.51.100.1"}}, v4: "eth1 198.51.100.1", v6: "eth1 2001:db8:1::1"},
		{name: "an IPv6 address", s: Selection{Ifaces: []string{"fd00::1"}}, v4: "eth1 198.51.100.1", v6: "eth1 fd00::1"},
		{name: "an address of each", s: Selection{Ifaces: []string{"192.0.2.1", "fd00::1"}}, v4: "eth0 192.0.2.1", v6: "eth1 fd00::1"},
		{name: "a link-local address", s: Selection{Ifaces: []string{"fe80::1"}}, v4: "eth0 192.0.2.1", tells: []string{"-iface=fe80::1", "no IPv6 address"}},
		{name: "an interface for IPv6", s: Selection{IPv6Ifaces: []string{"eth1"}}, v4: "eth0 192.0.2.1", v6: "eth1 2001:db8:1::1"},
		{name: "one for each", s: Selection{Ifaces: []string{"eth1"}, IPv6Ifaces: []string{"eth0"}}, v4: "eth1 198.51.100.1", v6: "eth0 2001:db8::1"},
		{name: "one for IPv6 that is not there", s: Selection{IPv6Ifaces: []string{"eth9"}}, v4: "eth0 192.0.2.1", tells: []string{"-iface-ipv6=eth9", "no such interface"}},
		{name: "one for IPv6 that is not there, and one for both", s: Selection{Ifaces: []string{"eth1"}, IPv6Ifaces: []string{"eth9"}}, v4: "eth1 198.51.100.1", v6: "eth1 2001:db8:1::1"},
		{name: "a pattern of IPv4 addresses", s: Selection{Regexes: []*regexp.Regexp{regexp.MustCompile(`^198\.`)}}, v4: "eth1 198.51.100.1", v6: "eth1 2001:db8:1::1"},
		{name: "a pattern of IPv6 addresses", s: Selection{Regexes: []*regexp.Regexp{regexp.MustCompile(`^fd00:`)}}, v4: "eth1 198.51.100.1", v6: "eth1 fd00::1"},
		{
			name:   "the way to an IPv4 address",
			s:      Selection{CanReach: ip.Addrs{V4: netip.MustParseAddr("203.0.113.1")}},
			change: func(v *view) { v.iface, v.src = "eth1", netip.MustParseAddr("198.51.100.1") },
			v4:     "eth1 198.51.100.1", v6: "eth1 2001:db8:1::1",
		},
		{
			name:   "the way to an IPv6 address",
			s:      Selection{CanReach: ip.Addrs{V6: netip.MustParseAddr("2001:db8:9::1")}},
			change: func(v *view) { v.iface, v.src = "eth1", netip.MustParseAddr("fd00::1") },
			v4:     "eth1 198.51.100.1", v6: "eth1 fd00::1",
		},
		{
			name: "the public address of another interface",
			s:    Selection{PublicIP: ip.Addrs{V6: netip.MustParseAddr("fd00::1")}},
			v4:   "eth0 192.0.2.1", v6: "eth1 fd00::1",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := dualView()
			if test.change != nil {
				test.change(&v)
			}
			var h backend.Host
			for f, want := range map[ip.Family]string{ip.V4: test.v4} {
				u, err := test.s.Choose(t.Context(), v, f, h)
				if got := u.Iface + " " + u.Addr.String(); err != nil || got != want {
					t.Errorf("%s: chose %s, %v; want %s", f, got, err, want)
				}
				h.Set(f, u)
			}
			u, err := test.s.Choose(t.Context(), v, ip.V6, h)
			if test.v6 == "" {
				if err == nil {
					t.Fatalf("chose %+v", u)
				}
				for _, part := range test.tells {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("error %q does not tell %q", err, part)
					}
				}
				return
			}
			want := netip.MustParseAddr(strings.Fields(test.v6)[1])
			if got := u.Iface + " " + u.Addr.String(); err != nil || got != test.v6 || u.PublicIP != want || u.Net.Addr().Is4() {
				t.Errorf("chose %+v, %v; want %s", u, err, test.v6)
			}
		})
	}
}

// Where a host is renumbered, IPv6 follows to the new address when the old one is for new use
// no more; and it stays on IPv4's interface among equals.
func TestFollowIPv6(t *testing.T) {
	inUse := func(v view) backend.Host {
		var h backend.Host
		for _, f := range ip.Families {
			u, err := Selection{}.Choose(t.Context(), v, f, h)
			if err != nil {
				t.Fatal(err)
			}
			h.Set(f, u)
		}
		return h
	}
	for name, c := range map[string]struct {
		change func(*view)
		next   string
		lost   bool
	}{
		"nothing": {func(*view) {}, "eth0 2001:db8::1", false},
		"a privacy address": {func(v *view) {
			v.ifaces[1] = dualIface("eth0", "192.0.2.1/24", "2001:db8::a/64 temporary", "2001:db8::1/64")
		}, "eth0 2001:db8::1", false},
		"renumbered": {func(v *view) {
			v.ifaces[1] = dualIface("eth0", "192.0.2.1/24", "2001:db8::1/64 deprecated", "2001:db8:2::1/64")
		}, "eth0 2001:db8:2::1", false},
		"the address is new": {func(v *view) { v.ifaces[1] = dualIface("eth0", "192.0.2.1/24", "2001:db8::7/128") }, "eth0 2001:db8::7", true},
		"a link-local one is left": {func(v *view) {
			v.ifaces[1] = dualIface("eth0", "192.0.2.1/24", "fe80::1/64")
			v.ifaces = v.ifaces[:2]
		}, "eth0 2001:db8::1", true},
		"no default route": {func(v *view) { v.defaults6 = nil }, "eth0 2001:db8::1", false},
	} {
		v := dualView()
		h := inUse(v)
		c.change(&v)
		sight, err := Selection{}.Follow(t.Context(), v, ip.V6, h)
		if got := sight.Next.Iface + " " + sight.Next.Addr.String(); err != nil || got != c.next || (sight.Lost != nil) != c.lost {
			t.Errorf("%s: the next is %s, want %s; %v, %v", name, got, c.next, sight.Lost, err)
		}
	}
}

// Of a family that is not wanted nothing is asked.
func TestIPv4AloneAsksNothingOfIPv6(t *testing.T) {
	v := dualView()
	v.defaults6, v.err6 = nil, errors.New("asked")
	if _, err := (Selection{}).Choose(t.Context(), v, ip.V4, backend.Host{}); err != nil {
		t.Error(err)
	}
}
