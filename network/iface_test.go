package network

import (
	"context"
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/pkg/target/kernel"
)

// view is a host as a test wants it.
type view struct {
	ifaces   []kernel.Interface
	defaults []kernel.DefaultRoute
	iface    string // of RouteTo
	src      netip.Addr
	err      error // of all
}

func (v view) Interfaces(context.Context) ([]kernel.Interface, error) { return v.ifaces, v.err }

func (v view) DefaultRoutes(context.Context) ([]kernel.DefaultRoute, error) {
	return v.defaults, v.err
}

func (v view) RouteTo(netip.Addr) (string, netip.Addr, error) {
	if v.iface == "" {
		return "", netip.Addr{}, errors.New("network is unreachable")
	}
	return v.iface, v.src, v.err
}

func iface(name string, addrs ...string) kernel.Interface {
	i := kernel.Interface{Name: name, MTU: 1500, Up: true, MAC: state.MAC{2, 0, 0, 0, 0, 1}}
	for _, a := range addrs {
		text, deprecated := strings.CutSuffix(a, " deprecated")
		i.Addrs = append(i.Addrs, kernel.Address{Prefix: prefix(text), Deprecated: deprecated})
	}
	return i
}

func hostView() view {
	down := iface("down0", "198.51.100.1/24")
	down.Up = false
	noMTU := iface("nomtu0", "198.51.100.99/24")
	noMTU.MTU = 0
	return view{
		ifaces: []kernel.Interface{
			iface("lo", "127.0.0.1/8", "::1/128"),
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
		{name: "default route's interface without address", change: func(v *view) { v.defaults[0].Iface = "eth3" }, tells: []string{"eth3", "no IPv4 address"}},
		{name: "default route's interface gone", change: func(v *view) { v.defaults[0].Iface = "eth9" }, tells: []string{"eth9", "no such interface"}},
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
		{name: "in order", ifaces: "eth9 eth3 eth1 eth0", want: "eth1 203.0.113.8"},
		{name: "all are told", ifaces: "eth9 eth3", regexes: "^foo", reach: true, tells: []string{"-iface=eth9", "-iface=eth3", "-iface-regex=^foo", "-iface-can-reach=198.51.100.77", "unreachable"}},

		{name: "regex of a name", regexes: "^eth[1-9]$", want: "eth1 203.0.113.8"},
		{name: "regex of an address selects it", regexes: `\.2$`, want: "eth0 192.0.2.2"},
		{name: "addresses before names", regexes: "203", want: "eth1 203.0.113.7"},
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
				s.CanReach = addr("198.51.100.77")
			}
			h, err := s.Choose(t.Context(), v)
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
			if !h.Net.V4.Contains(h.Addr.V4) || h.Net.V4 != h.Net.V4.Masked() || h.MTU != 1500 {
				t.Errorf("chose %+v", h)
			}
		})
	}
}

// A public address needs no interface that owns it, and selects none.
func TestChoosePublicIP(t *testing.T) {
	s := Selection{PublicIP: netip.MustParseAddr("203.0.113.8"), MachineID: "id"}
	h, err := s.Choose(t.Context(), hostView())
	want := backend.Host{
		Iface: "eth0", MTU: 1500, Up: true, ID: "id 02:00:00:00:00:01",
		Addr:     ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")},
		Net:      ip.SubnetOf(prefix("192.0.2.0/24")),
		PublicIP: ip.Addrs{V4: s.PublicIP},
	}
	if err != nil || h != want {
		t.Errorf("got %+v, %v, want %+v", h, err, want)
	}
}

func TestFollow(t *testing.T) {
	s := Selection{Ifaces: []string{"eth0"}}
	v := hostView()
	h, err := s.Choose(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	follow := func(want backend.Host) {
		t.Helper()
		if got, err := s.Follow(t.Context(), v, h); err != nil || got != want {
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
		if got, err := s.Follow(t.Context(), v, h); err == nil || !strings.Contains(err.Error(), want) || got != h {
			t.Errorf("got %+v, %v, want %+v and an error with %q", got, err, h, want)
		}
	}
	v.ifaces[1] = iface("eth0") // for now
	gone("no longer has the address 192.0.2.1")
	v.ifaces = v.ifaces[:1]
	gone("no interface eth0 any more")

	v.err = errors.New("boom")
	if got, err := s.Follow(t.Context(), v, h); err == nil || got != h {
		t.Errorf("got %+v, %v", got, err)
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
		"by expression that fits no more": {Selection{Regexes: []*regexp.Regexp{regexp.MustCompile(`\.1$`)}}, nil, false},
		"by the default route":            {Selection{}, []kernel.DefaultRoute{{Iface: "eth0"}}, true},
		"with the default route gone":     {Selection{}, nil, true},
		"the default route is elsewhere":  {Selection{}, []kernel.DefaultRoute{{Iface: "lo"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			v := hostView()
			v.defaults = c.defaults
			h := backend.Host{Iface: "eth0", Addr: ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}}
			v.ifaces[1] = iface("eth0", "192.0.2.77/24")
			got, err := c.s.Follow(t.Context(), v, h)
			if want := netip.MustParseAddr("192.0.2.77"); c.follows && (err != nil || got.Addr.V4 != want || got.PublicIP.V4 != want || got.Iface != "eth0") {
				t.Errorf("got %+v, %v", got, err)
			}
			if !c.follows && (err == nil || got != h) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}
