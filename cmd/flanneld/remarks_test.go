package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"flanneld/backend"
	"flanneld/subnet"
)

// The keys that a backend names are those that it reads: a value of a type that no key has
// is refused.
func TestBackendKeys(t *testing.T) {
	for _, b := range backends {
		for _, key := range append([]string{"Absent"}, b.Keys...) {
			_, err := b.New(json.RawMessage(`{"` + key + `":{"no":"such"}}`))
			if known := key != "Absent"; (err != nil) != known {
				t.Errorf("%s: %s: %v", b.Name, key, err)
			}
		}
		for _, other := range backends {
			for _, key := range other.Keys {
				_, err := b.New(json.RawMessage(`{"` + key + `":{"no":"such"}}`))
				if known := slices.Contains(b.Keys, key); (err != nil) != known {
					t.Errorf("%s: %s is read: %v; is named: %v", b.Name, key, err, known)
				}
			}
		}
	}
}

// What a backend says that it goes by has all its keys, and means the same as a section.
func TestBackendValues(t *testing.T) {
	for _, b := range backends {
		c := &subnet.Config{BackendType: b.Name}
		section := make(map[string]json.RawMessage)
		for round := range 2 {
			text, err := json.Marshal(section)
			if err != nil {
				t.Fatal(err)
			}
			made, err := b.New(text)
			if err != nil {
				t.Fatal(err)
			}
			values, err := backends.Values(c, made)
			if err != nil || len(values) != len(b.Keys) {
				t.Fatalf("%s goes by %v, %v", b.Name, values, err)
			}
			for _, v := range values {
				if was := section[v.Key]; v.Value == nil || round > 0 && string(was) != string(v.Value) {
					t.Errorf("%s: %s was %s and is %s", b.Name, v.Key, was, v.Value)
				}
				section[v.Key] = v.Value
			}
		}
	}
}

func TestConfigRemarks(t *testing.T) {
	h := backend.Host{V4: backend.Underlay{Iface: "eth0", MTU: 1500}}
	for config, want := range map[string]string{
		`{"Network":"10.5.0.0/16"}`: "",
		`{"network":"10.5.0.0/16","subnetLEN":24,"BACKEND":{"type":"vxlan","vni":1,"gbp":false}}`:                                                                      "",
		`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":1,"Port":0,"GBP":false,"Learning":false,"DirectRouting":false,"MTU":1500,"TxChecksumOffload":true}}`: "",
		`{"Network":"10.5.0.0/16","Subnetlen ":24}`:                                     `"Subnetlen " is ignored: it is not a known key`,
		`{"Network":"10.6.0.0/16","network":"10.5.0.0/16"}`:                             `Network is there more than once: the last one counts`,
		`{"Network":"10.5.0.0/16","x":1,"X":2}`:                                         `x is ignored: it is not a known key`,
		`{"Network":"10.5.0.0/16","a\nb":1}`:                                            `"a\nb" is ignored: it is not a known key`,
		`{"Network":"10.5.0.0/16","IPv6Network":"fc00::/48"}`:                           `IPv6Network is ignored: it is for EnableIPv6, which is not true`,
		`{"Network":"10.5.0.0/16","VNI":7,"Backend":{"Type":"vxlan"}}`:                  `VNI is ignored: it is not a known key`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","VNI":7}}`:                    `Backend.VNI is ignored: it is a key of vxlan, and not of the backend udp`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw","Port":7}}`:               `Backend.Port is ignored: it is a key of udp and vxlan, and not of the backend host-gw`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","psk":"x"}}`:                `Backend.psk is ignored: it is a key of flannel's backends wireguard and ipsec, and not of the backend vxlan`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","What":[1]}}`:               `Backend.What is ignored: it is not a known key`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Network":"x"}}`:              `Backend.Network is ignored: it is not a known key`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":1,"port":2}}`:          `Backend.Port is there more than once: the last one counts`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw","MTU":1501}}`:             `Backend.MTU 1501 is more than the MTU 1500 of the interface eth0, which counts`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"},"Backend":{"Type":"udp"}}`: `Backend is there more than once: the last one counts`,
	} {
		c, err := subnet.ParseConfig([]byte(config))
		if err != nil {
			t.Errorf("%s: %v", config, err)
			continue
		}
		if got := strings.Join(backends.Remarks(c, h), "; "); got != want {
			t.Errorf("%s: %q, want %q", config, got, want)
		}
	}
}
