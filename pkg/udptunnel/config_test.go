package udptunnel

import (
	"errors"
	"net/netip"
	"testing"

	"flanneld/pkg/tun"
)

func TestConfigChecked(t *testing.T) {
	good := Config{
		Local: netip.MustParseAddrPort("192.0.2.1:8285"), Own: subnets[0], Network: network,
		Addr: subnets[0].Addr(), MTU: 1472,
	}
	if _, err := good.checked(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"port":    func(c *Config) { c.Local = netip.MustParseAddrPort("192.0.2.1:0") },
		"local":   func(c *Config) { c.Local = netip.MustParseAddrPort("[fd00::1]:8285") },
		"address": func(c *Config) { c.Addr = netip.Addr{} },
		"own":     func(c *Config) { c.Own = netip.MustParsePrefix("10.61.0.0/24") },
		"no own":  func(c *Config) { c.Own = netip.Prefix{} },
		"MTU":     func(c *Config) { c.MTU = 67 },
	} {
		c := good
		change(&c)
		if _, err := c.checked(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Open(good); err == nil || errors.Is(err, tun.ErrHeld) {
		t.Errorf("opening no device gives %v", err)
	}
}
