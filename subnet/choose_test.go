package subnet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
)

func mustConfig(t testing.TB, text string) *Config {
	t.Helper()
	c, err := ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func leases(t testing.TB, keys ...string) Snapshot {
	t.Helper()
	var a Assembler
	for _, key := range keys {
		a.Put(Entry{Key: key, Value: `{"PublicIP":"192.0.2.9","PublicIPv6":"fd00::9"}`})
	}
	return a.Snapshot(1)
}

func TestChoose(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, test := range []struct {
		name, config string
		taken        []string
		problems     []string
		avoid        []string
		want         []string // all that may be drawn
	}{
		{"all", `{"Network":"10.5.0.0/24","SubnetLen":26}`, nil, nil, nil, []string{"10.5.0.64/26", "10.5.0.128/26", "10.5.0.192/26"}},
		{"Min and Max are included", `{"Network":"10.5.0.0/16","SubnetMin":"10.5.7.0","SubnetMax":"10.5.8.0"}`, nil, nil, nil, []string{"10.5.7.0/24", "10.5.8.0/24"}},
		{"taken", `{"Network":"10.5.0.0/24","SubnetLen":26}`, []string{"10.5.0.128-26"}, nil, nil, []string{"10.5.0.64/26", "10.5.0.192/26"}},
		{"taken by a longer one", `{"Network":"10.5.0.0/24","SubnetLen":26}`, []string{"10.5.0.132-30"}, nil, nil, []string{"10.5.0.64/26", "10.5.0.192/26"}},
		{"taken by a shorter one", `{"Network":"10.5.0.0/24","SubnetLen":26}`, []string{"10.5.0.128-25"}, nil, nil, []string{"10.5.0.64/26"}},
		{"unreadable", `{"Network":"10.5.0.0/24","SubnetLen":26}`, nil, []string{"10.5.0.64-26", "nonsense"}, nil, []string{"10.5.0.128/26", "10.5.0.192/26"}},
		{"avoided", `{"Network":"10.5.0.0/24","SubnetLen":26}`, nil, nil, []string{"10.5.0.130/25", "fd00::/8"}, []string{"10.5.0.64/26"}},
		{"avoided address", `{"Network":"10.5.0.0/24","SubnetLen":26}`, nil, nil, []string{"10.5.0.65/32"}, []string{"10.5.0.128/26", "10.5.0.192/26"}},
		{"last of the address space", `{"Network":"255.255.255.0/24","SubnetLen":26,"SubnetMin":"255.255.255.192"}`, nil, nil, nil, []string{"255.255.255.192/26"}},
		{
			"both families", `{"Network":"10.5.0.0/24","SubnetLen":26,"SubnetMin":"10.5.0.192","EnableIPv6":true,"IPv6Network":"fc00::/62","IPv6SubnetMin":"fc00:0:0:2::"}`,
			[]string{"10.5.0.0-26&fc00:0:0:2::-64"},
			nil, nil,
			[]string{"10.5.0.192/26,fc00:0:0:3::/64"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustConfig(t, test.config)
			s := leases(t, test.taken...)
			for _, key := range test.problems {
				subnet, _ := ip.ParseKey(key)
				s.Problems = append(s.Problems, Problem{Key: key, Subnet: subnet})
			}
			var avoid []netip.Prefix
			for _, a := range test.avoid {
				avoid = append(avoid, netip.MustParsePrefix(a))
			}
			seen := make(map[string]bool)
			for range 40 * len(test.want) {
				chosen, err := c.draw(ip.Subnet{}, s, avoid, rnd)
				if err != nil {
					t.Fatal(err)
				}
				if !c.Free(s, chosen) || !c.Fits(chosen) {
					t.Fatalf("chose %s, which is taken or does not fit", chosen)
				}
				seen[chosen.String()] = true
			}
			for _, w := range test.want {
				if !seen[w] {
					t.Errorf("%s was never drawn", w)
				}
				delete(seen, w)
			}
			if len(seen) > 0 {
				t.Errorf("drawn, too: %v", seen)
			}
		})
	}
}

// Early hosts get subnets near the start, and as many as there are to draw from
// make a collision rare.
func TestChooseFromFirst(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	c := mustConfig(t, `{"Network":"10.0.0.0/8"}`)
	seen := make(map[ip.Subnet]bool)
	last := netip.MustParseAddr("10.0.102.0") // 10.0.1.0 is the first, one is taken
	for range 2000 {
		s, err := c.draw(ip.Subnet{}, leases(t, "10.0.50.0-24"), nil, rnd)
		if err != nil || last.Less(s.V4.Addr()) {
			t.Fatalf("chose %s, %v", s, err)
		}
		seen[s] = true
	}
	if len(seen) < candidates-1 || len(seen) > candidates {
		t.Errorf("drew from %d subnets, want %d", len(seen), candidates)
	}
}

func TestChooseNothingFree(t *testing.T) {
	for _, test := range []struct {
		config string
		taken  []string
		names  []string
	}{
		{`{"Network":"10.5.0.0/24","SubnetLen":26}`, []string{"10.5.0.64-26", "10.5.0.128-25"}, []string{"10.5.0.0/24", "/26", "all 3 "}},
		{`{"Network":"255.255.255.0/24","SubnetLen":26}`, []string{"255.255.255.0-25", "255.255.255.128-25"}, []string{"255.255.255.0/24", "/26", "all 3 "}},
		{
			`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/62","IPv6SubnetMin":"fc00:0:0:3::"}`,
			[]string{"10.5.0.0-24&fc00:0:0:3::-64"},
			[]string{"fc00::/62", "/64", "all 1 "},
		},
	} {
		s, err := mustConfig(t, test.config).draw(ip.Subnet{}, leases(t, test.taken...), nil, rand.New(rand.NewPCG(1, 2)))
		if err == nil {
			t.Errorf("%s: chose %s", test.config, s)
			continue
		}
		for _, part := range test.names {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q does not name %q", err, part)
			}
		}
	}
}

// A full range of 16,383 is gone through without a comparison of each with each.
func TestChooseIsFast(t *testing.T) {
	var keys []string
	for i := 1; i < 1<<14; i++ {
		keys = append(keys, fmt.Sprintf("10.%d.%d.0-24", i>>8, i&255))
	}
	var entries []Entry
	for _, key := range keys {
		entries = append(entries, Entry{Key: key, Value: `{"PublicIP":"192.0.2.9"}`})
	}
	var a Assembler
	a.Reset(entries)
	began := time.Now()
	if s, err := mustConfig(t, `{"Network":"10.0.0.0/10"}`).draw(ip.Subnet{}, a.Snapshot(1), nil, rand.New(rand.NewPCG(1, 2))); err == nil {
		t.Errorf("chose %s", s)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

// Among a few large leases a free subnet is found without a look at each that is taken.
func TestChooseBehindLargeLease(t *testing.T) {
	c := mustConfig(t, `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/16"}`)
	s, err := c.draw(ip.Subnet{}, leases(t, "fd00::-17"), nil, rand.New(rand.NewPCG(1, 2)))
	if err != nil || s.V6.Addr().Less(netip.MustParseAddr("fd00:8000::")) {
		t.Errorf("drew %s, %v", s, err)
	}
}

// The prefixes of both families have one number, as long as that is free.
func TestDrawPairs(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	c := mustConfig(t, `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/56"}`)
	for range 100 {
		s, err := c.draw(ip.Subnet{}, Snapshot{}, nil, rnd)
		if err != nil || s.V4.Addr().As4()[2] != s.V6.Addr().As16()[7] {
			t.Fatalf("drew %s, %v", s, err)
		}
	}
	one := ip.SubnetOf(netip.MustParsePrefix("10.5.7.0/24"))
	s, err := c.draw(one, leases(t, "10.5.7.0-24", "10.5.9.0-24&fc00:0:0:7::-64"), nil, rnd)
	if err != nil || s.V4 != one.V4 || s.V6 == netip.MustParsePrefix("fc00:0:0:7::/64") || !c.Fits(s) {
		t.Errorf("drew %s, %v", s, err)
	}
}

// BenchmarkDraw draws among 200 leases, in a /16 of /24s and in a /56 of /64s.
func BenchmarkDraw(b *testing.B) {
	for name, f := range map[string]struct{ config, key string }{
		"IPv4": {`{"Network":"10.5.0.0/16"}`, "10.5.%d.0-24"},
		"IPv6": {`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/56"}`, "fc00:0:0:%x::-64"},
	} {
		b.Run(name, func(b *testing.B) {
			var keys []string
			for i := 1; i <= 200; i++ {
				keys = append(keys, fmt.Sprintf(f.key, i))
			}
			c, s, rnd := mustConfig(b, f.config), leases(b, keys...), rand.New(rand.NewPCG(1, 2))
			for b.Loop() {
				if _, err := c.draw(ip.Subnet{}, s, nil, rnd); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestFree(t *testing.T) {
	c := mustConfig(t, `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`)
	// The second one is nobody's: it covers the whole Network.
	s := leases(t, "10.5.8.0-24", "10.0.0.0-8", "10.5.9.0-24&fc00::-64")
	s.Problems = []Problem{{Key: "nonsense"}, {Key: "10.5.20.0-24", Subnet: ip.Subnet{V4: netip.MustParsePrefix("10.5.20.0/24")}}}
	for key, want := range map[string]bool{
		"10.5.7.0-24": true, "10.5.8.0-24": false, "10.5.8.0-23": false, "10.5.8.128-25": false,
		"10.5.20.0-24": false, "10.5.10.0-24&fc00::-64": false, "10.5.10.0-24&fc00:0:0:1::-64": true,
	} {
		subnet, err := ip.ParseKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Free(s, subnet); got != want {
			t.Errorf("Free(%s) = %t", key, got)
		}
	}
}
