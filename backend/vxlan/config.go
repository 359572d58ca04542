package vxlan

import (
	"encoding/json"
	"fmt"

	"flanneld/backend"
	"flanneld/subnet"
)

const (
	// defaultPort is the kernel's own default, as flannel uses it, and not the
	// 4789 of RFC 7348.
	defaultPort = 8472
	maxVNI      = 1<<24 - 1
	// overhead is what encapsulation in IPv4 adds to a packet: outer IP (20),
	// UDP (8) and VXLAN (8) headers and the inner Ethernet header (14).
	overhead = 50
	// leastMTU leaves the device the smallest packet that IPv4 needs to carry.
	leastMTU = 68 + overhead
)

// config is the Backend object of the configuration, as flannel has it, and
// TxChecksumOffload.
type config struct {
	VNI           int
	Port          int // 0 is the default
	GBP           bool
	Learning      bool
	DirectRouting bool
	MTU           int // of the way to the peers, encapsulation included; 0 is the interface's
	// TxChecksumOffload may be turned off where the kernel or the interface gets
	// checksums of encapsulated packets wrong.
	TxChecksumOffload bool
}

func parse(section json.RawMessage) (config, error) {
	c := config{VNI: 1, TxChecksumOffload: true}
	if err := backend.Section(section, &c); err != nil {
		return c, err
	}
	for _, k := range []struct {
		name       string
		value      int
		least, max int
		also       string
	}{
		{"VNI", c.VNI, 0, maxVNI, ""},
		{"Port", c.Port, 0, 65535, "; 0 is the default, 8472"},
		{"MTU", c.MTU, leastMTU, 65535, ", or 0 for the interface's"},
	} {
		if (k.value < k.least || k.value > k.max) && (k.value != 0 || k.name != "MTU") {
			return c, &subnet.ConfigError{
				Key:    "Backend." + k.name,
				Value:  fmt.Sprint(k.value),
				Reason: fmt.Sprintf("is not between %d and %d%s", k.least, k.max, k.also),
			}
		}
	}
	if c.Port == 0 {
		c.Port = defaultPort
	}
	return c, nil
}
