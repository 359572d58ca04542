package subnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"flanneld/pkg/ip"
)

func TestParseConfig(t *testing.T) {
	for _, test := range []struct {
		name, json string
		v4, v6     string // network length min max; "" if off
		backend    string
	}{
		{"shortest", `{"Network":"10.5.0.0/16"}`, "10.5.0.0/16 24 10.5.1.0 10.5.255.0", "", "udp"},
		{"keys in any case, unknown ones", `{"nEtWoRk":"10.5.0.0/16","subnetLEN":20,"Hello":{}}`, "10.5.0.0/16 20 10.5.16.0 10.5.240.0", "", "udp"},
		{"host bits are masked", `{"Network":"10.5.7.9/16"}`, "10.5.0.0/16 24 10.5.1.0 10.5.255.0", "", "udp"},
		{"/22 gets /24", `{"Network":"10.5.0.0/22"}`, "10.5.0.0/22 24 10.5.1.0 10.5.3.0", "", "udp"},
		{"/23 gets /25", `{"Network":"10.5.0.0/23"}`, "10.5.0.0/23 25 10.5.0.128 10.5.1.128", "", "udp"},
		{"/24 gets /26", `{"Network":"10.5.0.0/24"}`, "10.5.0.0/24 26 10.5.0.64 10.5.0.192", "", "udp"},
		{"/24 may have /25", `{"Network":"10.5.0.0/24","SubnetLen":25}`, "10.5.0.0/24 25 10.5.0.128 10.5.0.128", "", "udp"},
		{"/28 gets /30", `{"Network":"10.5.0.0/28"}`, "10.5.0.0/28 30 10.5.0.4 10.5.0.12", "", "udp"},
		{"/29 gets /30", `{"Network":"10.5.0.0/29"}`, "10.5.0.0/29 30 10.5.0.4 10.5.0.4", "", "udp"},
		{"null and 0 lengths", `{"Network":"10.5.0.0/16","SubnetLen":0}`, "10.5.0.0/16 24 10.5.1.0 10.5.255.0", "", "udp"},
		{"null length", `{"Network":"10.5.0.0/16","SubnetLen":null}`, "10.5.0.0/16 24 10.5.1.0 10.5.255.0", "", "udp"},
		{"longest length", `{"Network":"10.5.0.0/16","SubnetLen":30}`, "10.5.0.0/16 30 10.5.0.4 10.5.255.252", "", "udp"},
		{"shortest length", `{"Network":"10.5.0.0/16","SubnetLen":18}`, "10.5.0.0/16 18 10.5.64.0 10.5.192.0", "", "udp"},
		{"bounds", `{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0"}`, "10.0.0.0/8 20 10.10.0.0 10.99.0.0", "", "udp"},
		{"Min at the network's address", `{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0"}`, "10.5.0.0/16 24 10.5.0.0 10.5.255.0", "", "udp"},
		{"one subnet", `{"Network":"10.5.0.0/16","SubnetMin":"10.5.7.0","SubnetMax":"10.5.7.0"}`, "10.5.0.0/16 24 10.5.7.0 10.5.7.0", "", "udp"},
		{"end of the address space", `{"Network":"255.255.0.0/16"}`, "255.255.0.0/16 24 255.255.1.0 255.255.255.0", "", "udp"},
		{"up to loopback", `{"Network":"64.0.0.0/2","SubnetMax":"126.255.255.0"}`, "64.0.0.0/2 24 64.0.1.0 126.255.255.0", "", "udp"},
		{"from multicast's end on", `{"Network":"192.0.0.0/2","SubnetMin":"240.0.0.0"}`, "192.0.0.0/2 24 240.0.0.0 255.255.255.0", "", "udp"},
		{"backend type", `{"Network":"10.5.0.0/16","Backend":{"Type":"VXLAN","VNI":7}}`, "10.5.0.0/16 24 10.5.1.0 10.5.255.0", "", "vxlan"},
		{"backend without type", `{"Network":"10.5.0.0/16","Backend":{}}`, "10.5.0.0/16 24 10.5.1.0 10.5.255.0", "", ""},
		{"backend null", `{"Network":"10.5.0.0/16","Backend":null}`, "10.5.0.0/16 24 10.5.1.0 10.5.255.0", "", ""},
		{"dual stack", `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`, "10.5.0.0/16 24 10.5.1.0 10.5.255.0", "fc00::/48 64 fc00:0:0:1:: fc00:0:0:ffff::", "udp"},
		{"IPv6 only, IPv4 keys are not read", `{"EnableIPv4":false,"EnableIPv6":true,"Network":7,"IPv6Network":"fc00::/62"}`, "", "fc00::/62 64 fc00:0:0:1:: fc00:0:0:3::", "udp"},
		{"IPv6 off, its keys are not read", `{"Network":"10.5.0.0/16","EnableIPv6":false,"IPv6Network":"nonsense"}`, "10.5.0.0/16 24 10.5.1.0 10.5.255.0", "", "udp"},
		{"IPv6 /63 gets /65", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/63"}`, "", "fc00::/63 65 fc00:0:0:0:8000:: fc00:0:0:1:8000::", "udp"},
		{"IPv6 /124 gets /126", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/124"}`, "", "fc00::/124 126 fc00::4 fc00::c", "udp"},
		{"IPv6 bounds", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":60,"IPv6SubnetMin":"fc00::","IPv6SubnetMax":"fc00:0:0:20::"}`, "", "fc00::/48 60 fc00:: fc00:0:0:20::", "udp"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := ParseConfig([]byte(test.json))
			if err != nil {
				t.Fatal(err)
			}
			checkRange(t, c.V4, test.v4)
			checkRange(t, c.V6, test.v6)
			if c.BackendType != test.backend {
				t.Errorf("backend type %q, want %q", c.BackendType, test.backend)
			}
		})
	}
}

func checkRange(t *testing.T, r Range, want string) {
	t.Helper()
	if want == "" {
		if r != (Range{}) {
			t.Errorf("range of a family that is off is %+v", r)
		}
		return
	}
	f := strings.Fields(want)
	w := Range{Network: netip.MustParsePrefix(f[0]), Min: netip.MustParseAddr(f[2]), Max: netip.MustParseAddr(f[3])}
	for _, digit := range f[1] {
		w.SubnetLen = w.SubnetLen*10 + int(digit-'0')
	}
	if r != w {
		t.Errorf("range is %+v, want %+v", r, w)
	}
}

// What is said of the rules for packets.
func TestParseConfigRules(t *testing.T) {
	for json, want := range map[string]string{
		`{}`: "<nil> []",
		`{"EnableNFTables":null,"MasqExclude":null}`:                            "<nil> []",
		`{"EnableNFTables":false,"MasqExclude":[]}`:                             "false []",
		`{"EnableNFTables":true}`:                                               "true []",
		`{"masqexclude":["10.0.0.7/8","fc00::/7","10.9.0.0/8","192.0.2.1/32"]}`: "<nil> [10.0.0.0/8 fc00::/7 192.0.2.1/32]",
	} {
		c, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16",` + json[1:]))
		if json == "{}" {
			c, err = ParseConfig([]byte(`{"Network":"10.5.0.0/16"}`))
		}
		if err != nil {
			t.Errorf("%s: %v", json, err)
			continue
		}
		said := "<nil>"
		if c.NFTables != nil {
			said = fmt.Sprint(*c.NFTables)
		}
		if got := fmt.Sprint(said, " ", c.MasqExclude); got != want {
			t.Errorf("%s is %s, want %s", json, got, want)
		}
	}
}

func TestParseConfigRejects(t *testing.T) {
	for _, test := range []struct{ name, json, key string }{
		{"not JSON", `Network: 10.5.0.0/16`, ""},
		{"empty", ``, ""},
		{"cut", `{"Network":"10.5.0.0/16"`, ""},
		{"array", `[]`, ""},
		{"string", `"10.5.0.0/16"`, ""},
		{"something after it", `{"Network":"10.5.0.0/16"} x`, ""},
		{"no Network", `{}`, "Network"},
		{"null for all", `null`, "Network"},
		{"Network null", `{"Network":null}`, "Network"},
		{"Network empty", `{"Network":""}`, "Network"},
		{"Network a number", `{"Network":10}`, "Network"},
		{"Network without length", `{"Network":"10.5.0.0"}`, "Network"},
		{"Network of IPv6", `{"Network":"fc00::/48"}`, "Network"},
		{"Network IPv4-mapped", `{"Network":"::ffff:10.5.0.0/112"}`, "Network"},
		{"Network too long", `{"Network":"10.5.0.0/30"}`, "Network"},
		{"Network loopback", `{"Network":"127.5.0.0/16"}`, "Network"},
		{"Network all of loopback", `{"Network":"127.0.0.0/8"}`, "Network"},
		{"Network multicast", `{"Network":"239.0.0.0/8"}`, "Network"},
		{"Network around loopback", `{"Network":"0.0.0.0/0"}`, "Network"},
		{"Network around loopback, to its last subnet", `{"Network":"64.0.0.0/2","SubnetMax":"127.0.0.0"}`, "Network"},
		{"Network around multicast, from its last subnet on", `{"Network":"192.0.0.0/2","SubnetMin":"239.255.255.0"}`, "Network"},
		{"IPv6Network multicast", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"ff00::/16"}`, "IPv6Network"},
		{"EnableNFTables a string", `{"Network":"10.5.0.0/16","EnableNFTables":"yes"}`, "EnableNFTables"},
		{"MasqExclude a string", `{"Network":"10.5.0.0/16","MasqExclude":"10.0.0.0/8"}`, "MasqExclude"},
		{"MasqExclude of numbers", `{"Network":"10.5.0.0/16","MasqExclude":["10.0.0.0/8",10]}`, "MasqExclude[1]"},
		{"MasqExclude with null", `{"Network":"10.5.0.0/16","MasqExclude":[null]}`, "MasqExclude[0]"},
		{"MasqExclude of an address", `{"Network":"10.5.0.0/16","MasqExclude":["10.0.0.1"]}`, "MasqExclude[0]"},
		{"MasqExclude too long", `{"Network":"10.5.0.0/16","MasqExclude":["10.0.0.0/33"]}`, "MasqExclude[0]"},
		{"MasqExclude IPv4-mapped", `{"Network":"10.5.0.0/16","MasqExclude":["::ffff:10.5.0.0/112"]}`, "MasqExclude[0]"},
		{"SubnetLen 31", `{"Network":"10.5.0.0/16","SubnetLen":31}`, "SubnetLen"},
		{"SubnetLen 33", `{"Network":"10.5.0.0/16","SubnetLen":33}`, "SubnetLen"},
		{"SubnetLen huge", `{"Network":"10.5.0.0/16","SubnetLen":4294967295}`, "SubnetLen"},
		{"SubnetLen negative", `{"Network":"10.5.0.0/16","SubnetLen":-1}`, "SubnetLen"},
		{"SubnetLen a string", `{"Network":"10.5.0.0/16","SubnetLen":"24"}`, "SubnetLen"},
		{"SubnetLen below Network+2", `{"Network":"10.5.0.0/16","SubnetLen":17}`, "SubnetLen"},
		{"SubnetLen of a long Network", `{"Network":"10.5.0.0/24","SubnetLen":24}`, "SubnetLen"},
		{"SubnetMin empty", `{"Network":"10.5.0.0/16","SubnetMin":""}`, "SubnetMin"},
		{"SubnetMin null", `{"Network":"10.5.0.0/16","SubnetMin":null}`, "SubnetMin"},
		{"SubnetMin with a length", `{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0/24"}`, "SubnetMin"},
		{"SubnetMin outside", `{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}`, "SubnetMin"},
		{"SubnetMin unaligned", `{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.8"}`, "SubnetMin"},
		{"SubnetMin of IPv6", `{"Network":"10.5.0.0/16","SubnetMin":"fc00::"}`, "SubnetMin"},
		{"SubnetMax null", `{"Network":"10.5.0.0/16","SubnetMax":null}`, "SubnetMax"},
		{"SubnetMax outside", `{"Network":"10.5.0.0/16","SubnetMax":"10.6.0.0"}`, "SubnetMax"},
		{"SubnetMax unaligned", `{"Network":"10.5.0.0/16","SubnetMax":"10.5.255.255"}`, "SubnetMax"},
		{"Min above Max", `{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}`, "SubnetMin"},
		{"default Min above Max", `{"Network":"10.5.0.0/16","SubnetMax":"10.5.0.0"}`, "SubnetMin"},
		{"both families off", `{"EnableIPv4":false}`, "EnableIPv4"},
		{"EnableIPv4 a string", `{"EnableIPv4":"yes","Network":"10.5.0.0/16"}`, "EnableIPv4"},
		{"EnableIPv6 a number", `{"EnableIPv6":1,"Network":"10.5.0.0/16"}`, "EnableIPv6"},
		{"no IPv6Network", `{"Network":"10.5.0.0/16","EnableIPv6":true}`, "IPv6Network"},
		{"IPv6Network of IPv4", `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"10.6.0.0/16"}`, "IPv6Network"},
		{"IPv6Network too long", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/125"}`, "IPv6Network"},
		{"IPv6SubnetLen 127", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":127}`, "IPv6SubnetLen"},
		{"IPv6SubnetLen below Network+2", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":49}`, "IPv6SubnetLen"},
		{"IPv6SubnetMin unaligned", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00::1"}`, "IPv6SubnetMin"},
		{"IPv6SubnetMin with a zone", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fe80::/48","IPv6SubnetMin":"fe80::%eth0"}`, "IPv6SubnetMin"},
		{"IPv6SubnetMin IPv4-mapped", `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"::/48","IPv6SubnetMin":"::ffff:10.0.0.0"}`, "IPv6SubnetMin"},
		{"Backend a string", `{"Network":"10.5.0.0/16","Backend":"vxlan"}`, "Backend"},
		{"Backend an array", `{"Network":"10.5.0.0/16","Backend":[]}`, "Backend"},
		{"Backend.Type a number", `{"Network":"10.5.0.0/16","Backend":{"Type":1}}`, "Backend.Type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := ParseConfig([]byte(test.json))
			var ce *ConfigError
			if !errors.As(err, &ce) {
				t.Fatalf("ParseConfig = %+v, %v; want a ConfigError", c, err)
			}
			if ce.Key != test.key {
				t.Errorf("error %q blames %q, want %q", err, ce.Key, test.key)
			}
			if test.key != "" && !strings.Contains(err.Error(), test.key) {
				t.Errorf("error %q does not name %q", err, test.key)
			}
		})
	}
}

func TestFits(t *testing.T) {
	c, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.0"}`))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{
		"10.5.1.0-24": true, "10.5.9.0-24": true, "10.5.0.0-24": false, "10.5.10.0-24": false,
		"10.5.1.0-25": false, "10.6.1.0-24": false, "fc00::-64": false, "10.5.1.0-24&fc00::-64": false,
	} {
		s, err := ip.ParseKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Fits(s); got != want {
			t.Errorf("Fits(%s) = %t", key, got)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(`{"Network":"10.5.0.0/16","SubnetLen":24,"SubnetMin":"10.5.1.0","SubnetMax":"10.5.9.0","Backend":{"Type":"vxlan"}}`)
	f.Add(`{"Network":"0.0.0.0/0","EnableIPv6":true,"IPv6Network":"::/0","IPv6SubnetLen":126}`)
	f.Add(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00::","IPv6SubnetMax":"fc00:0:0:1::"}`)
	f.Add(`{"Network":"255.255.255.0/24","SubnetMax":"255.255.255.128"}`)
	f.Add("{}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConfig([]byte(text))
		if err != nil {
			var ce *ConfigError
			if !errors.As(err, &ce) || err.Error() == "" {
				t.Fatalf("error %#v is no ConfigError", err)
			}
			return
		}
		if !c.V4.Network.IsValid() && !c.V6.Network.IsValid() {
			t.Fatal("no family is on")
		}
		for _, r := range []Range{c.V4, c.V6} {
			if !r.Network.IsValid() {
				continue
			}
			for _, a := range []netip.Addr{r.Min, r.Max} {
				p := netip.PrefixFrom(a, r.SubnetLen)
				if p != p.Masked() || !r.Network.Contains(a) || r.SubnetLen <= r.Network.Bits() {
					t.Fatalf("bound %s of %+v", a, r)
				}
				if s := ip.SubnetOf(p); s.IsValid() {
					if got, err := ip.ParseKey(s.Key()); err != nil || got != s {
						t.Fatalf("bound %s cannot be a key: %v", p, err)
					}
				}
			}
			if r.Max.Less(r.Min) || ip.CountSubnets(r.Min, r.Max, r.SubnetLen) < 1 {
				t.Fatalf("no subnet in %+v", r)
			}
		}
	})
}

// A host keeps what it has if it lies in Network, whatever the length; bounds count if
// someone has set them.
func TestKeeps(t *testing.T) {
	for _, test := range []struct {
		config string
		subnet string
		want   bool
	}{
		{`{"Network":"10.5.0.0/24"}`, "10.5.0.64/26", true},
		{`{"Network":"10.5.0.0/24"}`, "10.5.0.128/25", true},
		{`{"Network":"10.5.0.0/24"}`, "10.5.0.0/26", true},
		{`{"Network":"10.5.0.0/24"}`, "10.5.0.0/24", false},
		{`{"Network":"10.5.0.0/24"}`, "10.5.0.0/23", false},
		{`{"Network":"10.5.0.0/24"}`, "10.5.1.0/26", false},
		{`{"Network":"10.5.0.0/16","SubnetLen":21}`, "10.5.1.0/24", true},
		{`{"Network":"10.5.0.0/16","SubnetLen":21}`, "10.5.255.0/24", true},
		{`{"Network":"10.5.0.0/16","SubnetMin":"10.5.8.0"}`, "10.5.7.0/24", false},
		{`{"Network":"10.5.0.0/16","SubnetMin":"10.5.8.0"}`, "10.5.7.128/25", false},
		{`{"Network":"10.5.0.0/16","SubnetMin":"10.5.8.0"}`, "10.5.0.0/20", true},
		{`{"Network":"10.5.0.0/16","SubnetMin":"10.5.8.0"}`, "10.5.255.128/25", true},
		{`{"Network":"10.5.0.0/16","SubnetMax":"10.5.8.0"}`, "10.5.8.192/26", true},
		{`{"Network":"10.5.0.0/16","SubnetMax":"10.5.8.0"}`, "10.5.9.0/24", false},
		{`{"Network":"10.5.0.0/16","SubnetMax":"10.5.8.0"}`, "10.5.0.0/24", true},
	} {
		if got := mustConfig(t, test.config).Keeps(ip.SubnetOf(netip.MustParsePrefix(test.subnet))); got != test.want {
			t.Errorf("under %s a host keeps %s: %t", test.config, test.subnet, got)
		}
	}
}
