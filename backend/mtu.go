package backend

import (
	"encoding/json"
	"fmt"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

const (
	// LeastMTU is that of the smallest device on which the kernel has IPv4.
	LeastMTU = 68
	// LeastMTU6 is the same for IPv6.
	LeastMTU6 = 1280
	// mostMTU is the size of the largest IPv4 packet.
	mostMTU = 65535
)

// PathMTU is the key MTU of a Backend object: how large a packet may be on the way to the
// peers, with what the backend adds to it.
type PathMTU struct {
	MTU int // 0 is the external interface's
}

// Check returns why the MTU cannot serve a backend that adds so many bytes to a packet.
func (p PathMTU) Check(overhead int) error {
	if least := LeastMTU + overhead; p.MTU != 0 && (p.MTU < least || p.MTU > mostMTU) {
		return &subnet.ConfigError{
			Key:    "Backend.MTU",
			Value:  fmt.Sprint(p.MTU),
			Reason: fmt.Sprintf("is not between %d and %d, or 0 for the interface's", least, mostMTU),
		}
	}
	return nil
}

// Of returns how large a packet may be on the way from a host. It never exceeds what the
// external interface carries, whatever becomes of that.
func (p PathMTU) Of(h Host) int { return p.within(h.MTU()) }

// By is Of for an underlay.
func (p PathMTU) By(u Underlay) int { return p.within(u.MTU) }

func (p PathMTU) within(mtu int) int {
	if p.MTU > 0 {
		return min(p.MTU, mtu)
	}
	return mtu
}

// CheckMTU returns why a host's external interface, or the configuration's MTU, is too small
// for the backend of a configuration.
func CheckMTU(c *subnet.Config, b Backend, h Host) error {
	least, f := LeastMTU, ip.V4
	if h.V6.Iface != "" {
		least, f = LeastMTU6, ip.V6
	}
	mtu := b.MTU(h)
	if mtu >= least {
		return nil
	}
	var p PathMTU
	if json.Unmarshal(c.Backend, &p) == nil && p.MTU > 0 && p.MTU < h.MTU() {
		return &subnet.ConfigError{
			Key:    "Backend.MTU",
			Value:  fmt.Sprint(p.MTU),
			Reason: fmt.Sprintf("leaves %d bytes for pods' packets, and %s needs %d: it has to be %d or more", mtu, f, least, p.MTU+least-mtu),
		}
	}
	return fmt.Errorf("the interface %s has the MTU %d, and the backend takes %d bytes of it: pods would get an MTU of %d, and %s needs %d",
		h.Narrowest().Iface, h.MTU(), h.MTU()-mtu, mtu, f, least)
}

// ParsePathMTU reads the Backend object of a backend that has no other key and adds
// nothing to a packet.
func ParsePathMTU(section json.RawMessage) (PathMTU, error) {
	var p PathMTU
	if err := Section(section, &p); err != nil {
		return p, err
	}
	return p, p.Check(0)
}
