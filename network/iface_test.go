package network

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"flanneld/backend"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// view is a host as a test wants it.
type view struct {
	ifaces   []kernel.Interface
	defaults []kernel.DefaultRoute
	// defaults6 are those of IPv6, and err6 is why they cannot be had.
	defaults6 []kernel.DefaultRoute
	err6      error
	iface     string // of RouteTo
	src       netip.Addr
	err       error // of all
}

func (v view) Interfaces(context.Context) ([]kernel.Interface, error) { return v.ifaces, v.err }

func (v view) DefaultRoutes(_ context.Context, f ip.Family) ([]kernel.DefaultRoute, error) {
	if f == ip.V6 {
		return v.defaults6, cmp.Or(v.err6, v.err)
	}
	return v.defaults, v.err
}

func (v view) RouteTo(netip.Addr) (string, netip.Addr, error) {
	if v.iface == "" {
		return "", netip.Addr{}, errors.New("network is unreachable")
	}
	return v.iface, v.src, v.err
}

func iface(name string, addrs ...string) kernel.Interface {
	i := kernel.Interface{Name: name, MTU: 1500, Up: true, Running: true, MAC: state.MAC{2, 0, 0, 0, 0, 1}}
	for _, a := range addrs {
		text, deprecated := strings.CutSuffix(a, " deprecated")
		i.Addrs = append(i.Addrs, kernel.Address{Prefix: prefix(text), Deprecated: deprecated})
	}
	return i
}

func loopback(addrs ...string) kernel.Interface {
	lo := iface("lo", append([]string{"127.0.0.1/8", "::1/128"}, addrs...)...)
	lo.Loopback = true
	return lo
}

// dummy is a device like kube-ipvs0, which has the addresses of services.
func dummy(name string, addrs ...string) kernel.Interface {
	d := iface(name, addrs...)
	d.Dummy = true
	return d
}

func hostView() view {
	down := iface("down0", "198.51.100.1/24")
	down.Up, down.Running = false, false
	noMTU := iface("nomtu0", "198.51.100.99/24")
	noMTU.MTU = 0
	return view{
		ifaces: []kernel.Interface{
			loopback(),
			iface("eth0", "fe80::1/64", "169.254.3.3/16", "192.0.2.1/24", "192.0.2.2/24"),
			iface("eth1", "203.0.113.7/28 deprecated", "203.0.113.8/28"),
			iface("eth2", "169.254.1.1/16", "fd00::2/64"),
			iface("eth3", "fd00::3/64"),
			iface("wlan0", "198.51.100.5/24 deprecated"),
			iface("tun203"),
			down, noMTU,
		},
		defaults: []kernel.DefaultRoute{{Iface: "eth0", Metric: 0}, {Iface: "eth1", Metric: 100}},
	}
}

func TestChoose(t *testing.T) {
	addr := netip.MustParseAddr
	for _, test := range []struct {
		name    string
		ifaces  string // -iface, separated by blanks
		regexes string
		reach   bool
		change  func(*view)
		want    string   // "" is an error
		tells   []string // of the error
	}{
		{name: "default route", want: "eth0 192.0.2.1"},
		{name: "device-only default route elsewhere", change: func(v *view) { v.defaults = v.defaults[1:] }, want: "eth1 203.0.113.8"},
		{name: "no default route", change: func(v *view) { v.defaults = nil }, tells: []string{"no default route", "-iface"}},
		{name: "multipath default route", change: func(v *view) { v.defaults = []kernel.DefaultRoute{{Multipath: true}, {Iface: "eth1"}} }, tells: []string{"several next hops", "-iface"}},
		{name: "default route's interface without address", change: func(v *view) { v.defaults = []kernel.DefaultRoute{{Iface: "eth3"}} }, tells: []string{"eth3", "no IPv4 address"}},
		{name: "default route's interface gone", change: func(v *view) { v.defaults = []kernel.DefaultRoute{{Iface: "eth9"}} }, tells: []string{"eth9", "no such interface"}},
		{name: "of two default routes' interfaces one has an address", change: func(v *view) { v.defaults[0].Iface = "eth3" }, want: "eth1 203.0.113.8"},
		{name: "of two default routes' interfaces one is down", change: func(v *view) { v.defaults[0].Iface = "down0" }, want: "eth1 203.0.113.8"},
		{name: "of two default routes' interfaces one has no carrier", change: func(v *view) { v.ifaces[1].Running = false }, want: "eth1 203.0.113.8"},
		{name: "of two default routes' interfaces one is link-local", change: func(v *view) { v.defaults[0].Iface = "eth2" }, want: "eth1 203.0.113.8"},
		{name: "address that moves from host to host", change: func(v *view) { v.ifaces[1] = iface("eth0", "192.0.2.9/32", "192.0.2.1/24 deprecated") }, want: "eth0 192.0.2.1"},
		{name: "only a single address", change: func(v *view) { v.ifaces[1] = iface("eth0", "169.254.3.3/16", "192.0.2.9/32") }, want: "eth0 192.0.2.9"},
		{name: "port of a bridge", change: func(v *view) {
			v.ifaces[1] = iface("eth0")
			v.ifaces[1].Master = 7
			v.ifaces[4] = iface("br0", "192.0.2.1/24")
			v.ifaces[4].Index = 7
		}, want: "br0 192.0.2.1"},
		{name: "listing fails", change: func(v *view) { v.err = errors.New("boom") }, tells: []string{"boom"}},

		{name: "name", ifaces: "eth1", want: "eth1 203.0.113.8"},
		{name: "address", ifaces: "192.0.2.2", want: "eth0 192.0.2.2"},
		{name: "deprecated address by itself", ifaces: "203.0.113.7", want: "eth1 203.0.113.7"},
		{name: "link-local address by itself", ifaces: "169.254.3.3", want: "eth0 169.254.3.3"},
		{name: "only link-local", ifaces: "eth2", want: "eth2 169.254.1.1"},
		{name: "only deprecated", ifaces: "wlan0", want: "wlan0 198.51.100.5"},
		{name: "down", ifaces: "down0", want: "down0 198.51.100.1"},
		{name: "loopback", ifaces: "lo", tells: []string{"lo", "no IPv4 address"}},
		{name: "loopback address", ifaces: "127.0.0.1", tells: []string{"-iface=127.0.0.1"}},
		{name: "IPv6 address", ifaces: "fd00::3", tells: []string{"-iface=fd00::3"}},
		{name: "no MTU", ifaces: "nomtu0", tells: []string{"nomtu0", "MTU"}},
		{name: "absent name", ifaces: "eth9", tells: []string{"-iface=eth9", "no such interface"}},
		{name: "absent address", ifaces: "192.0.2.9", tells: []string{"-iface=192.0.2.9", "no such interface"}},
		{name: "commas are not split", ifaces: "eth0,eth1", tells: []string{"-iface=eth0,eth1"}},
		{name: "what is down comes last", ifaces: "down0 eth1", want: "eth1 203.0.113.8"},
		{name: "address that a dummy has, too", ifaces: "192.0.2.1", change: func(v *view) { v.ifaces[0] = dummy("kube-ipvs0", "192.0.2.1/32") }, want: "eth0 192.0.2.1"},
		{name: "address of the loopback interface", ifaces: "192.0.2.99", change: func(v *view) { v.ifaces[0] = loopback("192.0.2.99/32") }, want: "lo 192.0.2.99"},
		{name: "in order", ifaces: "eth9 eth3 eth1 eth0", want: "eth1 203.0.113.8"},
		{name: "all are told", ifaces: "eth9 eth3", regexes: "^foo", reach: true, tells: []string{"-iface=eth9", "-iface=eth3", "-iface-regex=^foo", "-iface-can-reach=198.51.100.77", "unreachable"}},

		{name: "regex of a name", regexes: "^eth[1-9]$", want: "eth1 203.0.113.8"},
		{name: "regex of an address selects it", regexes: `\.2$`, want: "eth0 192.0.2.2"},
		{name: "addresses before names, and no deprecated one", regexes: "203", want: "eth1 203.0.113.8"},
		{name: "regex that skips what has no address", regexes: "^eth[23]$", want: "eth2 169.254.1.1"},
		{name: "no loopback address", regexes: `^127\.`, tells: []string{`-iface-regex=^127\.`}},
		{name: "regexes in order", regexes: "^foo ^eth2$ ^eth1$", want: "eth2 169.254.1.1"},
		{name: "names before regexes", ifaces: "eth1", regexes: "eth0", want: "eth1 203.0.113.8"},
		{name: "regex after names", ifaces: "eth9", regexes: "eth2", want: "eth2 169.254.1.1"},

		{name: "can reach", reach: true, change: func(v *view) { v.iface, v.src = "eth0", addr("192.0.2.2") }, want: "eth0 192.0.2.2"},
		{name: "can reach without source", reach: true, change: func(v *view) { v.iface = "eth1" }, want: "eth1 203.0.113.8"},
		{name: "cannot reach", reach: true, tells: []string{"-iface-can-reach=198.51.100.77", "unreachable"}},
		{name: "reached by itself", reach: true, change: func(v *view) { v.iface, v.src = "lo", addr("127.0.0.1") }, tells: []string{"lo"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := hostView()
			if test.change != nil {
				test.change(&v)
			}
			s := Selection{Ifaces: strings.Fields(test.ifaces)}
			for _, re := range strings.Fields(test.regexes) {
				s.Regexes = append(s.Regexes, regexp.MustCompile(re))
			}
			if test.reach {
				s.CanReach.V4 = addr("198.51.100.77")
			}
			h, err := s.Choose(t.Context(), v, ip.V4, backend.Host{})
			if test.want == "" {
				if err == nil {
					t.Fatalf("chose %+v", h)
				}
				for _, part := range test.tells {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("error %q does not tell %q", err, part)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := h.Iface + " " + h.Addr.String(); got != test.want || h.PublicIP != h.Addr {
				t.Errorf("chose %s with the public address %s, want %s", got, h.PublicIP, test.want)
			}
			if !h.Net.Contains(h.Addr) || h.Net != h.Net.Masked() || h.MTU != 1500 {
				t.Errorf("chose %+v", h)
			}
		})
	}
}

// The interface that owns the public address is used, unless an option names another
// one or nothing can leave by it. A public address that nobody owns selects none.
func TestChoosePublicIP(t *testing.T) {
	for _, test := range []struct {
		name, public string
		ifaces       string
		change       func(*view)
		want         string
		owned        bool
	}{
		{name: "behind a NAT", public: "198.18.0.1", want: "eth0 192.0.2.1"},
		{name: "of another interface", public: "203.0.113.8", want: "eth1 203.0.113.8", owned: true},
		{name: "of another interface, deprecated", public: "203.0.113.7", want: "eth1 203.0.113.7", owned: true},
		{name: "second of the default route's interface", public: "192.0.2.2", want: "eth0 192.0.2.2", owned: true},
		{name: "second of the interface that is named", public: "192.0.2.2", ifaces: "eth0", want: "eth0 192.0.2.2", owned: true},
		{name: "second of the interface that an address names", public: "192.0.2.2", ifaces: "192.0.2.1", want: "eth0 192.0.2.2", owned: true},
		{name: "of another interface than the one that is named", public: "203.0.113.8", ifaces: "eth0", want: "eth0 192.0.2.1", owned: true},
		{name: "of an interface that is down", public: "198.51.100.1", want: "eth0 192.0.2.1", owned: true},
		{name: "of the loopback interface", public: "203.0.113.99", change: func(v *view) { v.ifaces[0] = loopback("203.0.113.99/32") }, want: "eth0 192.0.2.1", owned: true},
		{name: "of a dummy", public: "203.0.113.99", change: func(v *view) { v.ifaces[0] = dummy("dummy0", "203.0.113.99/32") }, want: "eth0 192.0.2.1", owned: true},
		{name: "of a dummy, too", public: "203.0.113.8", change: func(v *view) { v.ifaces[0] = dummy("kube-ipvs0", "203.0.113.8/32") }, want: "eth1 203.0.113.8", owned: true},
		{name: "without a default route", public: "203.0.113.8", change: func(v *view) { v.defaults = nil }, want: "eth1 203.0.113.8", owned: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := hostView()
			if test.change != nil {
				test.change(&v)
			}
			s := Selection{PublicIP: ip.Addrs{V4: netip.MustParseAddr(test.public)}, Ifaces: strings.Fields(test.ifaces)}
			h, err := s.Choose(t.Context(), v, ip.V4, backend.Host{})
			if err != nil {
				t.Fatal(err)
			}
			if got := h.Iface + " " + h.Addr.String(); got != test.want || h.PublicIP != s.PublicIP.V4 || h.OwnsPublicIP != test.owned {
				t.Errorf("chose %+v, want %s", h, test.want)
			}
		})
	}
	s := Selection{PublicIP: ip.Addrs{V4: netip.MustParseAddr("198.18.0.1")}, MachineID: "id"}
	h, err := s.Choose(t.Context(), hostView(), ip.V4, backend.Host{})
	want := backend.Underlay{
		Iface: "eth0", MTU: 1500, Up: true,
		Addr:     netip.MustParseAddr("192.0.2.1"),
		Net:      prefix("192.0.2.0/24"),
		PublicIP: s.PublicIP.V4,
		ID:       "id 02:00:00:00:00:01",
	}
	if err != nil || h != want {
		t.Errorf("got %+v, %v, want %+v", h, err, want)
	}
}

// Without a default route, an address that is known of this host leads to the interface
// that has it; an option is not overruled.
func TestChooseKnown(t *testing.T) {
	addr := netip.MustParseAddr
	for _, test := range []struct {
		name   string
		ifaces string
		change func(*view)
		known  []netip.Addr
		want   string
	}{
		{name: "nothing known"},
		{name: "of an interface", known: []netip.Addr{addr("203.0.113.8")}, want: "eth1 203.0.113.8"},
		{name: "the first that there is", known: []netip.Addr{addr("198.18.0.1"), addr("203.0.113.8"), addr("192.0.2.1")}, want: "eth1 203.0.113.8"},
		{name: "of nobody", known: []netip.Addr{addr("198.18.0.1")}},
		{name: "of the loopback interface", known: []netip.Addr{addr("198.18.0.1")}, change: func(v *view) { v.ifaces[0] = loopback("198.18.0.1/32") }},
		{name: "of a dummy, too", known: []netip.Addr{addr("192.0.2.1")}, change: func(v *view) { v.ifaces[0] = dummy("kube-ipvs0", "192.0.2.1/32") }, want: "eth0 192.0.2.1"},
		{name: "an option is given", ifaces: "eth9", known: []netip.Addr{addr("203.0.113.8")}},
		{name: "the default route has several next hops", known: []netip.Addr{addr("203.0.113.8")}, change: func(v *view) { v.defaults = []kernel.DefaultRoute{{Multipath: true}} }, want: "eth1 203.0.113.8"},
		{name: "a default route outweighs it", known: []netip.Addr{addr("203.0.113.8")}, change: func(v *view) { v.defaults = []kernel.DefaultRoute{{Iface: "eth0"}} }, want: "eth0 192.0.2.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := hostView()
			v.defaults = nil
			if test.change != nil {
				test.change(&v)
			}
			s := Selection{Ifaces: strings.Fields(test.ifaces)}
			h, err := s.Choose(t.Context(), v, ip.V4, backend.Host{}, test.known...)
			if test.want == "" {
				if err == nil {
					t.Errorf("chose %+v", h)
				}
				return
			}
			if got := h.Iface + " " + h.Addr.String(); err != nil || got != test.want {
				t.Errorf("chose %s, %v, want %s", got, err, test.want)
			}
		})
	}
}

func TestFollow(t *testing.T) {
	s := Selection{Ifaces: []string{"eth0"}}
	v := hostView()
	h, err := s.Choose(t.Context(), v, ip.V4, backend.Host{})
	if err != nil {
		t.Fatal(err)
	}
	follow := func(want backend.Underlay) {
		t.Helper()
		if got, err := s.Follow(t.Context(), v, ip.V4, backend.Host{V4: h}); err != nil || got.Lost != nil || got.Now != want || got.Next != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	follow(h)

	v.ifaces[1].MTU = 9001
	larger := h
	larger.MTU = 9001
	follow(larger)

	// Another address comes first now; ours is still there.
	v.ifaces[1] = iface("eth0", "192.0.2.200/24", "192.0.2.1/24")
	follow(h)

	// The interface has another name now.
	renamed := h
	renamed.Iface = "ens3"
	v.ifaces[1] = iface("ens3", "192.0.2.1/24")
	follow(renamed)

	gone := func(want string) {
		t.Helper()
		got, err := s.Follow(t.Context(), v, ip.V4, backend.Host{V4: h})
		if err != nil || got.Lost == nil || !strings.Contains(got.Lost.Error(), want) || got.Now != h || got.Next != h {
			t.Errorf("got %+v, %v, want %+v and an error with %q", got, err, h, want)
		}
	}
	v.ifaces[1] = iface("eth0") // for now
	gone("no longer has the address 192.0.2.1")
	// Others that have the address do not carry packets, or have it for ends of their own.
	v.ifaces[0] = loopback("192.0.2.1/32")
	v.ifaces = append(v.ifaces, dummy("kube-ipvs0", "192.0.2.1/32"), iface("wg0", "192.0.2.1/32"))
	gone("no longer has the address 192.0.2.1")
	v.ifaces = v.ifaces[:1]
	gone("no interface eth0 any more")

	v.err = errors.New("boom")
	if got, err := s.Follow(t.Context(), v, ip.V4, backend.Host{V4: h}); err == nil {
		t.Errorf("got %+v", got)
	}
}

// While an interface is followed, the ranking is that of the start; of equals, the one in
// use stays.
func TestFollowBest(t *testing.T) {
	for name, c := range map[string]struct {
		s      Selection
		public string // the address in use; empty is eth0's first
		change func(*view)
		now    string // of Sight.Now, empty if it is lost
		works  bool
		next   string
	}{
		"nothing changed": {change: func(*view) {}, now: "eth0 192.0.2.1", works: true, next: "eth0 192.0.2.1"},
		"link-local, then another address": {
			public: "169.254.3.3", change: func(*view) {},
			now: "eth0 169.254.3.3", next: "eth0 192.0.2.1",
		},
		"deprecated": {
			change: func(v *view) { v.ifaces[1] = iface("eth0", "192.0.2.1/24 deprecated", "192.0.2.50/24") },
			now:    "eth0 192.0.2.1", works: true, next: "eth0 192.0.2.50",
		},
		"second address, of equal rank": {public: "192.0.2.2", change: func(*view) {}, now: "eth0 192.0.2.2", works: true, next: "eth0 192.0.2.2"},
		"single address comes":          {change: func(v *view) { v.ifaces[1] = iface("eth0", "192.0.2.9/32", "192.0.2.1/24") }, now: "eth0 192.0.2.1", works: true, next: "eth0 192.0.2.1"},
		"default route changes":         {change: func(v *view) { v.defaults = v.defaults[1:] }, now: "eth0 192.0.2.1", works: true, next: "eth1 203.0.113.8"},
		"metrics change":                {change: func(v *view) { v.defaults = []kernel.DefaultRoute{v.defaults[1], {Iface: "eth0", Metric: 200}} }, now: "eth0 192.0.2.1", works: true, next: "eth1 203.0.113.8"},
		"equal metrics":                 {change: func(v *view) { v.defaults = []kernel.DefaultRoute{{Iface: "eth1"}, {Iface: "eth0"}} }, now: "eth0 192.0.2.1", works: true, next: "eth0 192.0.2.1"},
		"no default route":              {change: func(v *view) { v.defaults = nil }, now: "eth0 192.0.2.1", works: true, next: "eth0 192.0.2.1"},
		"several next hops":             {change: func(v *view) { v.defaults = []kernel.DefaultRoute{{Multipath: true}} }, now: "eth0 192.0.2.1", works: true, next: "eth0 192.0.2.1"},
		"down":                          {change: func(v *view) { v.ifaces[1].Up = false }, now: "eth0 192.0.2.1", next: "eth1 203.0.113.8"},
		"no carrier":                    {change: func(v *view) { v.ifaces[1].Running = false }, now: "eth0 192.0.2.1", next: "eth1 203.0.113.8"},
		"down, and nothing else":        {change: func(v *view) { v.ifaces[1].Up, v.defaults = false, nil }, now: "eth0 192.0.2.1", next: "eth0 192.0.2.1"},
		"gone":                          {change: func(v *view) { v.ifaces = slices.Delete(v.ifaces, 1, 2) }, next: "eth1 203.0.113.8"},
		"address gone":                  {change: func(v *view) { v.ifaces[1].Addrs = nil }, next: "eth1 203.0.113.8"},
		"port of a bridge with another address": {
			change: func(v *view) {
				v.ifaces[1] = iface("eth0")
				v.ifaces[1].Master = 7
				v.ifaces = append(v.ifaces, iface("br0", "192.0.2.77/24"))
				v.ifaces[len(v.ifaces)-1].Index = 7
				v.defaults = nil
			},
			next: "br0 192.0.2.77",
		},
		"port of a bridge with our address": {
			change: func(v *view) {
				v.ifaces[1] = iface("eth0")
				v.ifaces[1].Master = 7
				v.ifaces = append(v.ifaces, iface("br0", "192.0.2.1/24"))
				v.ifaces[len(v.ifaces)-1].Index = 7
			},
			now: "br0 192.0.2.1", next: "br0 192.0.2.1",
		},
		"the first of several names is back": {
			s: Selection{Ifaces: []string{"eth1", "eth0"}}, change: func(*view) {},
			now: "eth0 192.0.2.1", works: true, next: "eth1 203.0.113.8",
		},
		"the public address comes to another interface": {
			s: Selection{PublicIP: ip.Addrs{V4: netip.MustParseAddr("203.0.113.8")}}, change: func(*view) {},
			now: "eth0 192.0.2.1", works: true, next: "eth1 203.0.113.8",
		},
		"the way to a host changes": {
			s:      Selection{CanReach: ip.Addrs{V4: netip.MustParseAddr("198.18.0.1")}},
			change: func(v *view) { v.iface, v.src = "eth1", netip.MustParseAddr("203.0.113.8") },
			now:    "eth0 192.0.2.1", works: true, next: "eth1 203.0.113.8",
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := hostView()
			var h backend.Underlay
			if c.public == "" {
				c.public = "192.0.2.1"
			}
			h, err := Selection{Ifaces: []string{c.public}, PublicIP: c.s.PublicIP}.Choose(t.Context(), v, ip.V4, backend.Host{})
			if err != nil {
				t.Fatal(err)
			}
			c.change(&v)
			got, err := c.s.Follow(t.Context(), v, ip.V4, backend.Host{V4: h})
			if err != nil {
				t.Fatal(err)
			}
			text := func(h backend.Underlay) string { return h.Iface + " " + h.Addr.String() }
			if (got.Lost != nil) != (c.now == "") || got.Lost == nil && text(got.Now) != c.now || got.Lost != nil && got.Now != h {
				t.Errorf("there is now %s, %v; want %s", text(got.Now), got.Lost, c.now)
			}
			if text(got.Next) != c.next || got.Works != c.works {
				t.Errorf("the best is %s, want %s; works: %t", text(got.Next), c.next, got.Works)
			}
		})
	}
}

// The address of the interface changed: the one that the selection leads to now
// takes its place, if it leads to that interface.
func TestFollowAddress(t *testing.T) {
	for name, c := range map[string]struct {
		s        Selection
		defaults []kernel.DefaultRoute
		follows  bool
	}{
		"by name":                         {Selection{Ifaces: []string{"eth0"}}, nil, true},
		"by address":                      {Selection{Ifaces: []string{"192.0.2.1"}}, nil, false},
		"by address, then name":           {Selection{Ifaces: []string{"192.0.2.1", "eth0"}}, nil, true},
		"by expression":                   {Selection{Regexes: []*regexp.Regexp{regexp.MustCompile(`^192\.0\.`)}}, nil, true},
		"by expression that fits no more": {Selection{Regexes: []*regexp.Regexp{regexp.MustCompile(`2\.1$`)}}, nil, false},
		"by the default route":            {Selection{}, []kernel.DefaultRoute{{Iface: "eth0"}}, true},
		"with the default route gone":     {Selection{}, nil, true},
		"the default route is elsewhere":  {Selection{}, []kernel.DefaultRoute{{Iface: "lo"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			v := hostView()
			v.defaults = c.defaults
			h := backend.Underlay{Iface: "eth0", Addr: netip.MustParseAddr("192.0.2.1")}
			v.ifaces[1] = iface("eth0", "192.0.2.77/24")
			sight, err := c.s.Follow(t.Context(), v, ip.V4, backend.Host{V4: h})
			if err != nil || sight.Lost == nil || sight.Now != h {
				t.Errorf("got %+v, %v", sight, err)
			}
			got := sight.Next
			if want := netip.MustParseAddr("192.0.2.77"); c.follows && (got.Addr != want || got.PublicIP != want || got.Iface != "eth0") {
				t.Errorf("got %+v", got)
			}
			if !c.follows && got != h {
				t.Errorf("got %+v", got)
			}
		})
	}
}
