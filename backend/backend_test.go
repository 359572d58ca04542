package backend

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"flanneld/subnet"
)

func row(name string, got *string) Type {
	return Type{Name: name, New: func(section json.RawMessage) (Backend, error) {
		*got = name + string(section)
		return nil, nil
	}}
}

func TestTable(t *testing.T) {
	var got string
	table := NewTable(row("vxlan", &got), row("alloc", &got), row("udp", &got))
	for _, name := range []string{"alloc", "udp", "vxlan"} {
		if _, err := table.New(&subnet.Config{BackendType: name, Backend: json.RawMessage(`{}`)}); err != nil || got != name+"{}" {
			t.Errorf("%s made %s, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "gre", "VXLAN"} {
		_, err := table.New(&subnet.Config{BackendType: name})
		var ce *subnet.ConfigError
		if !errors.As(err, &ce) || ce.Key != "Backend.Type" {
			t.Errorf("%q: error %v, want a ConfigError of Backend.Type", name, err)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "alloc, udp, vxlan") || !strings.Contains(text, `"`+name+`"`) {
			t.Errorf("error %q does not tell the name and the valid ones", text)
		}
	}
}

func TestTableTwice(t *testing.T) {
	defer func() {
		if text, _ := recover().(string); !strings.Contains(text, `"udp"`) {
			t.Errorf("panic %q does not tell the name", text)
		}
	}()
	var got string
	NewTable(row("udp", &got), row("alloc", &got), row("udp", &got))
}

// A backend that has IPv4 alone says so, and which ones have IPv6.
func TestIPv4Alone(t *testing.T) {
	made := func(json.RawMessage) (Backend, error) { return nil, nil }
	table := NewTable(Type{Name: "udp", New: made, IPv4Alone: true}, Type{Name: "vxlan", New: made}, Type{Name: "host-gw", New: made})
	both := &subnet.Config{V6: subnet.Range{Network: netip.MustParsePrefix("fc00::/48")}, BackendType: "udp"}
	_, err := table.New(both)
	if want := "network configuration: EnableIPv6 true asks the backend udp for what it cannot do: it carries IPv4 alone; Backend.Type can be one of host-gw, vxlan"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	for _, name := range []string{"vxlan", "udp"} {
		c := &subnet.Config{BackendType: name}
		if name == "vxlan" {
			c = &subnet.Config{V6: both.V6, BackendType: name}
		}
		if _, err := table.New(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
