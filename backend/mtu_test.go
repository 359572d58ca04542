package backend

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPathMTU(t *testing.T) {
	h := Host{V4: Underlay{Iface: "eth0", MTU: 1500}}
	for section, want := range map[string]int{``: 1500, `{}`: 1500, `{"MTU":0}`: 1500, `{"mtu":1400}`: 1400, `{"MTU":68}`: 68, `{"MTU":9000}`: 1500, `{"MTU":65535}`: 1500} {
		p, err := ParsePathMTU(json.RawMessage(section))
		if err != nil || p.Of(h) != want {
			t.Errorf("%s: %d, %v; want %d", section, p.Of(h), err, want)
		}
	}
	for section, want := range map[string]string{
		`{"MTU":67}`:     "Backend.MTU 67 is not between 68 and 65535",
		`{"MTU":-1}`:     "Backend.MTU -1 is not between 68 and 65535",
		`{"MTU":65536}`:  "Backend.MTU 65536 is not between 68 and 65535",
		`{"MTU":"1400"}`: "Backend.MTU (a JSON string) is not a whole number",
	} {
		if _, err := ParsePathMTU(json.RawMessage(section)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", section, err, want)
		}
	}
}
