package vxlan

import (
	"encoding/json"
	"fmt"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

const (
	// defaultPort is the kernel's own default, as flannel uses it, and not the
	// 4789 of RFC 7348.
	defaultPort = 8472
	// maxVNI is less than the 1<<24-1 of RFC 7348, for the device is called after it.
	maxVNI = 9_999_999
	// maxVNI6 is the same for IPv6, whose device has a longer name.
	maxVNI6 = 9_999
)

// config is the Backend object of the configuration, as flannel has it, and
// TxChecksumOffload.
type config struct {
	VNI           int
	Port          int // 0 is the default
	GBP           bool
	Learning      bool
	DirectRouting bool
	backend.PathMTU
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
		value, max int
		also       string
	}{
		{"VNI", c.VNI, maxVNI, ": the device is called flannel.VNI, and its name can have 15 characters"},
		{"Port", c.Port, 65535, "; 0 is the default, 8472"},
	} {
		if k.value < 0 || k.value > k.max {
			return c, &subnet.ConfigError{
				Key:    "Backend." + k.name,
				Value:  fmt.Sprint(k.value),
				Reason: fmt.Sprintf("is not between 0 and %d%s", k.max, k.also),
			}
		}
	}
	if err := c.Check(state.VXLANOverhead(ip.V4)); err != nil {
		return c, err
	}
	if c.Port == 0 {
		c.Port = defaultPort
	}
	return c, nil
}
