package backend

import (
	"encoding/json"
	"errors"
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
