package ip

import (
	"math"
	"net/netip"
	"strings"
	"testing"
)

func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

func TestKey(t *testing.T) {
	for _, c := range []struct {
		key    string
		v4, v6 string
	}{
		{"10.5.3.0-24", "10.5.3.0/24", ""},
		{"10.50.89.128-25", "10.50.89.128/25", ""},
		{"fc00:5:3::-64", "", "fc00:5:3::/64"},
		{"10.50.22.0-24&2001:cafe:42:b::-64", "10.50.22.0/24", "2001:cafe:42:b::/64"},
		{"0.0.0.0-0&fc00::-64", "0.0.0.0/0", "fc00::/64"}, // flannel's, in IPv6 alone
	} {
		want := Subnet{prefix(c.v4), prefix(c.v6)}
		if got := want.Key(); got != c.key {
			t.Errorf("Key() = %q, want %q", got, c.key)
		}
		got, err := ParseKey(c.key)
		if err != nil || got != want {
			t.Errorf("ParseKey(%q) = %v, %v; want %v", c.key, got, err, want)
		}
	}
}

func TestParseKeyRejects(t *testing.T) {
	for key, why := range map[string]string{
		"":                          "form address-length",
		"foo":                       "form address-length",
		"x10.5.3.0-24":              "form address-length",
		"10.5.3.0-24x":              "form address-length",
		"10.5.3.0/24":               "form address-length",
		"10.5.3.0-":                 "form address-length",
		"10.5.3.0--24":              "form address-length",
		"10.5.3.0-024":              "form address-length",
		"010.5.3.0-24":              "form address-length",
		"10.5.3.0-33":               "form address-length",
		"0.0.0.0-0":                 "out of range",
		"0.0.0.0-0&10.5.3.0-24":     "want one IPv4",
		"0.0.0.0-0&":                "form address-length",
		"fc00::-64&0.0.0.0-0":       "out of range",
		"10.5.3.0-32":               "out of range",
		"10.5.3.8-24":               "host bits set; the subnet is 10.5.3.0/24",
		"::ffff:10.5.3.0-120":       "IPv4-mapped",
		"FC00::-64":                 "canonical",
		"10.5.3.0-24&10.5.4.0-24":   "want one IPv4",
		"fc00::-64&10.5.3.0-24":     "want one IPv4",
		"fc00::-64&fc01::-64":       "want one IPv4",
		"10.5.3.0-24&fc00::-64&":    "form address-length",
		"10.5.3.0-24&fc00::-64&x-1": "form address-length",
	} {
		got, err := ParseKey(key)
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("ParseKey(%q) = %v, %v; want an error with %q", key, got, err, why)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"10.5.3.0-24", "fc00::-64", "10.5.3.0-24&fc00::-64", "0.0.0.0-0", "0.0.0.0-0&fc00::-64", "&", "1-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		s, err := ParseKey(key)
		if err != nil {
			return
		}
		if !s.IsValid() || s.Key() != key {
			t.Fatalf("ParseKey(%q) = %v, whose key is %q", key, s, s.Key())
		}
	})
}

func TestNext(t *testing.T) {
	for p, want := range map[string]string{
		"10.5.3.0/24":                 "10.5.4.0/24",
		"10.5.255.0/24":               "10.6.0.0/24",
		"10.5.3.128/25":               "10.5.4.0/25",
		"10.5.3.4/30":                 "10.5.3.8/30",
		"255.255.255.0/24":            "",
		"0.0.0.0/0":                   "",
		"128.0.0.0/1":                 "",
		"fc00::/64":                   "fc00:0:0:1::/64",
		"fc00:0:0:ffff::/64":          "fc00:0:1::/64",
		"ffff:ffff:ffff:ffff::/64":    "",
		"255.255.255.252/30":          "",
		"10.5.3.255/32":               "10.5.4.0/32",
		"fe80::ffff:ffff:ffff:0/112":  "fe80::1:0:0:0:0/112",
		"fe80::ffff:ffff:ffff:ff/128": "fe80::ffff:ffff:ffff:100/128",
	} {
		got, ok := Next(prefix(p))
		if ok != (want != "") || ok && got.Masked().String() != prefix(want).Masked().String() {
			t.Errorf("Next(%s) = %v, %v; want %q", p, got, ok, want)
		}
	}
}

func TestNth(t *testing.T) {
	for _, c := range []struct {
		p    string
		n    int
		want string
	}{
		{"10.5.0.0/24", 0, "10.5.0.0/24"},
		{"10.5.0.0/24", 259, "10.6.3.0/24"},
		{"10.5.7.0/24", 255, "10.6.6.0/24"},
		{"fc00::/64", 0x12345, "fc00:0:1:2345::/64"},
		{"fc00:0:0:ffff::/64", 1, "fc00:0:1::/64"},
		{"255.255.254.0/24", 1, "255.255.255.0/24"},
		{"255.255.254.0/24", 2, ""},
		{"0.0.0.0/0", 1, ""},
		{"::/120", math.MaxInt, "::7f:ffff:ffff:ffff:ff00/120"},
	} {
		got, ok := Nth(prefix(c.p), c.n)
		if ok != (c.want != "") || ok && got != prefix(c.want) {
			t.Errorf("Nth(%s, %d) = %v, %v; want %q", c.p, c.n, got, ok, c.want)
		}
	}
}

func TestLast(t *testing.T) {
	for p, want := range map[string]string{
		"10.5.0.0/16": "10.5.255.255",
		"10.5.3.0/30": "10.5.3.3",
		"0.0.0.0/0":   "255.255.255.255",
		"10.5.3.7/32": "10.5.3.7",
		"fc00::/126":  "fc00::3",
	} {
		if got := LastAddr(prefix(p)); got.String() != want {
			t.Errorf("LastAddr(%s) = %v, want %s", p, got, want)
		}
	}
	if got := LastSubnet(prefix("10.5.0.0/16"), 24); got != prefix("10.5.255.0/24") {
		t.Errorf("LastSubnet = %v", got)
	}
}

func TestCountSubnets(t *testing.T) {
	for _, c := range []struct {
		min, max string
		bits     int
		want     int
	}{
		{"10.5.1.0", "10.5.255.0", 24, 255},
		{"10.5.1.0", "10.5.1.0", 24, 1},
		{"10.5.2.0", "10.5.1.0", 24, 0},
		{"10.4.255.0", "10.5.1.0", 24, 3},
		{"0.0.0.0", "255.255.255.252", 30, 1 << 30},
		{"::", "ffff::", 16, 1 << 16},
		{"::", "ffff:ffff:ffff:ffff:ffff::", 80, math.MaxInt},
		{"10.5.1.0", "fc00::", 24, 0},
	} {
		got := CountSubnets(netip.MustParseAddr(c.min), netip.MustParseAddr(c.max), c.bits)
		if got != c.want {
			t.Errorf("CountSubnets(%s, %s, %d) = %d, want %d", c.min, c.max, c.bits, got, c.want)
		}
	}
}
