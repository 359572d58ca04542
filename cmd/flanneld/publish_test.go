package main

import (
	"strings"
	"testing"
	"time"

	"flanneld/subnet"
)

func TestStatusText(t *testing.T) {
	const (
		taken = ", this subnet now belongs to the host with the public address 192.0.2.3 and no other one could be had yet"
		down  = ", etcd cannot be used since "
	)
	for _, test := range []struct {
		name   string
		holder string
		down   time.Time
		want   []string
		not    []string
	}{
		{name: "in order", not: []string{"belongs", "etcd"}},
		{name: "subnet taken", holder: "the host with the public address 192.0.2.3", want: []string{taken}, not: []string{"etcd"}},
		{name: "etcd down", down: time.Now(), want: []string{down}, not: []string{"belongs"}},
		{name: "both", holder: "the host with the public address 192.0.2.3", down: time.Now(), want: []string{taken, down}},
	} {
		f := facts{storeDown: test.down, holding: subnet.Holding{Config: &subnet.Config{}, Own: &subnet.Lease{}, Holder: test.holder}}
		text := f.text("")
		for _, part := range test.want {
			if !strings.Contains(text, part) {
				t.Errorf("%s: %q does not say %q", test.name, text, part)
			}
		}
		for _, part := range test.not {
			if strings.Contains(text, part) {
				t.Errorf("%s: %q speaks of %q", test.name, text, part)
			}
		}
	}
}
