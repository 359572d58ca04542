package subnet

import (
	"net/netip"
	"strings"
	"testing"

	"flanneld/pkg/ip"
)

var (
	v4   = ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24"))
	v6   = ip.SubnetOf(netip.MustParsePrefix("fc00:5:1::/64"))
	dual = ip.Subnet{V4: v4.V4, V6: v6.V6}
)

func addrs(texts ...string) ip.Addrs {
	var a ip.Addrs
	for _, text := range texts {
		if p := netip.MustParseAddr(text); p.Is4() {
			a.V4 = p
		} else {
			a.V6 = p
		}
	}
	return a
}

func TestSameMachine(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"alpha 1f", "alpha 1f", true},
		{"alpha 1f", "omega 1f", true},
		{"alpha 1f", "the omega 1f", true},
		{"alpha 1f", " 1f", true}, // without a name
		{"alpha 1f", "alpha 2e", false},
		{"alpha 1f", "alpha 11f", false},
		{"alpha 1f", "alpha", false},
		{"alpha 1f", "1f", false}, // a name
		{"alpha", "alpha", true},
		{"alpha", "omega", false},
		{"alpha ", "alpha ", true},
		{"alpha ", "omega ", false}, // without an ID
		{"alpha 1f", "", false},
		{" ", "", false},
		{"", "", true},
	} {
		for _, same := range []bool{SameMachine(test.a, test.b), SameMachine(test.b, test.a)} {
			if same != test.same {
				t.Errorf("%q and %q: %t, want %t", test.a, test.b, same, test.same)
			}
		}
	}
}

// These are what flannel's versions read and write.
func TestAttrsValue(t *testing.T) {
	for _, test := range []struct {
		name   string
		subnet ip.Subnet
		attrs  Attrs
		value  string
	}{
		{"udp", v4, Attrs{PublicIP: addrs("192.0.2.1")}, `{"PublicIP":"192.0.2.1","PublicIPv6":null}`},
		{
			"host-gw", v4,
			Attrs{PublicIP: addrs("192.0.2.1"), BackendType: "host-gw"},
			`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw"}`,
		},
		{
			"vxlan", v4,
			Attrs{PublicIP: addrs("192.0.2.1"), BackendType: "vxlan", BackendData: `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`},
			`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}`,
		},
		{
			"extension", v4,
			Attrs{PublicIP: addrs("192.0.2.1"), BackendType: "extension", BackendData: `"<a> & b"`},
			`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"extension","BackendData":"<a> & b"}`,
		},
		{
			"IPv6", v6,
			Attrs{PublicIP: addrs("2001:db8::1"), BackendType: "vxlan", BackendV6Data: `{"VNI":1}`},
			`{"PublicIP":null,"PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendV6Data":{"VNI":1}}`,
		},
		{
			"both", dual,
			Attrs{PublicIP: addrs("192.0.2.1", "2001:db8::1"), BackendType: "vxlan", BackendData: `{}`, BackendV6Data: `{}`},
			`{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{},"BackendV6Data":{}}`,
		},
	} {
		got, err := test.attrs.Value()
		if err != nil || got != test.value {
			t.Errorf("%s: Value() = %s, %v; want %s", test.name, got, err, test.value)
		}
		back, err := ParseAttrs(test.subnet, test.value)
		if err != nil || back != test.attrs {
			t.Errorf("%s: ParseAttrs = %+v, %v; want %+v", test.name, back, err, test.attrs)
		}
	}
}

func TestParseAttrs(t *testing.T) {
	for _, test := range []struct {
		name   string
		subnet ip.Subnet
		value  string
		want   Attrs
	}{
		{"without PublicIPv6", v4, `{"PublicIP":"192.0.2.1"}`, Attrs{PublicIP: addrs("192.0.2.1")}},
		{"unknown field", v4, `{"PublicIP":"192.0.2.1","Color":"red"}`, Attrs{PublicIP: addrs("192.0.2.1")}},
		{"null data", v4, `{"PublicIP":"192.0.2.1","BackendData":null}`, Attrs{PublicIP: addrs("192.0.2.1")}},
		{"data with spaces", v4, `{"PublicIP":"192.0.2.1","BackendData": {"VNI": 1} }`, Attrs{PublicIP: addrs("192.0.2.1"), BackendData: `{"VNI":1}`}},
		{"address of a family without subnet", v4, `{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1"}`, Attrs{PublicIP: addrs("192.0.2.1")}},
		{"old IPv6-only lease", v6, `{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::1"}`, Attrs{PublicIP: addrs("2001:db8::1")}},
	} {
		got, err := ParseAttrs(test.subnet, test.value)
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v; want %+v", test.name, got, err, test.want)
		}
	}
}

func TestParseAttrsRejects(t *testing.T) {
	for _, test := range []struct {
		name   string
		subnet ip.Subnet
		value  string
		want   string // in the error
	}{
		{"empty", v4, ``, "JSON"},
		{"no JSON", v4, `garbage`, "JSON"},
		{"cut", v4, `{"PublicIP":"192.0.2.1"`, "JSON"},
		{"number", v4, `17`, "number"},
		{"array", v4, `[]`, "array"},
		{"null", v4, `null`, "PublicIP"},
		{"empty object", v4, `{}`, "PublicIP"},
		{"no address", v4, `{"PublicIP":""}`, "PublicIP"},
		{"garbage address", v4, `{"PublicIP":"here"}`, "here"},
		{"number for an address", v4, `{"PublicIP":1}`, "PublicIP"},
		{"IPv6 as PublicIP", v4, `{"PublicIP":"2001:db8::1"}`, "PublicIP"},
		{"IPv4-mapped PublicIP", v4, `{"PublicIP":"::ffff:192.0.2.1"}`, "PublicIP"},
		{"unspecified", v4, `{"PublicIP":"0.0.0.0"}`, "PublicIP"},
		{"loopback", v4, `{"PublicIP":"127.0.0.1"}`, "PublicIP"},
		{"multicast", v4, `{"PublicIP":"224.0.0.1"}`, "PublicIP"},
		{"broadcast", v4, `{"PublicIP":"255.255.255.255"}`, "PublicIP"},
		{"PublicIPv6 of a link", dual, `{"PublicIP":"192.0.2.1","PublicIPv6":"fe80::1"}`, "PublicIPv6 \"fe80::1\" is known on its link alone"},
		{"no PublicIPv6", dual, `{"PublicIP":"192.0.2.1","PublicIPv6":null}`, "PublicIPv6"},
		{"IPv4 as PublicIPv6", v6, `{"PublicIPv6":"192.0.2.1"}`, "PublicIPv6"},
		{"number for the type", v4, `{"PublicIP":"192.0.2.1","BackendType":1}`, "BackendType"},
		{"1 MiB", v4, strings.Repeat("x", 1<<20), "1048576 bytes"},
	} {
		got, err := ParseAttrs(test.subnet, test.value)
		if err == nil {
			t.Errorf("%s: %+v, want an error", test.name, got)
			continue
		}
		if !strings.Contains(err.Error(), test.want) || len(err.Error()) > 500 {
			t.Errorf("%s: error %q does not mention %q, or is too long", test.name, err, test.want)
		}
	}
}

// What is read quickly means what any reader of JSON takes it for.
func TestQuickAttrs(t *testing.T) {
	for _, value := range []string{
		`{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:01"}}`, // flannel 0.4
		`{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":10,"VtepMAC":"02:00:00:00:00:01"}}`,
		`{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1},"BackendV6Data":{"A":true,"B":false},"Machine":"a 1","Challenger":"b 2"}`,
		`{"PublicIP":null,"PublicIPv6":"2001:db8::1","BackendV6Data":{}}`,
	} {
		if _, ok := quickAttrs(value); !ok {
			t.Errorf("%s takes the long way", value)
		}
		check := func(altered string) {
			got, ok := quickAttrs(altered)
			if want, err := readAttrs(altered); ok && (err != nil || got != want) {
				t.Errorf("%s is read as %+v; want %+v, %v", altered, got, want, err)
			}
		}
		check(value)
		for i := range value {
			check(value[:i])
			check(value[:i] + value[i+1:])
			for _, c := range "{}[]\",:\\01-.e tn\x00\x7fé\xff" {
				check(value[:i] + string(c) + value[i:])
				check(value[:i] + string(c) + value[i+1:])
			}
			for j := i; j < len(value); j++ { // what comes twice
				check(value[:j] + value[i:])
			}
		}
	}
}

func FuzzParseAttrs(f *testing.F) {
	f.Add(byte(1), `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}`)
	f.Add(byte(2), `{"PublicIP":null,"PublicIPv6":"fe80::1%eth0"}`)
	f.Add(byte(3), `{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"extension","BackendData":"<&>","BackendV6Data":[1, 2]}`)
	f.Add(byte(1), `{"PublicIP":"192.0.2.1","BackendData":1e400}`)
	f.Fuzz(func(t *testing.T, families byte, value string) {
		s := []ip.Subnet{v4, v6, dual}[families%3]
		a, err := ParseAttrs(s, value)
		if err != nil {
			return
		}
		if a.PublicIP.V4.IsValid() != s.V4.IsValid() || a.PublicIP.V6.IsValid() != s.V6.IsValid() {
			t.Fatalf("public addresses %v for %s", a.PublicIP, s)
		}
		written, err := a.Value()
		if err != nil {
			t.Fatalf("writing %+v: %v", a, err)
		}
		back, err := ParseAttrs(s, written)
		if err != nil || back != a {
			t.Fatalf("%+v was written as %s and read as %+v, %v", a, written, back, err)
		}
	})
}
