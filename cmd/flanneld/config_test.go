package main_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

func TestConfigWritten(t *testing.T) { everyVariant(t, testConfigWritten) }

func testConfigWritten(t *testing.T, v variant) {
	n := newLab(t, v)
	n.startEtcd(lab.EtcdOptions{})
	h := n.addNode(lab.HostOptions{})
	h.start()
	h.waitLog("no network configuration at /coreos.com/network/config")
	n.wait(soon, "the status to say so", func() string {
		return lacks(h.daemon.Status(), "no network configuration at /coreos.com/network/config")
	})
	start := time.Now()
	n.put("config", n.config(nil))
	h.waitReady()
	if took := time.Since(start); took > slow(2*time.Second) {
		t.Errorf("ready %s after the configuration was written", took)
	}
}

// Each bad configuration is named, with key and value; the daemon waits for a
// good one.
func TestInvalidConfig(t *testing.T) { inParallel(t, everyVariant, testInvalidConfig) }

func testInvalidConfig(t *testing.T, v variant) {
	n := newLab(t, v)
	n.startEtcd(lab.EtcdOptions{})
	h := n.addNode(lab.HostOptions{})
	n.put("config", "{")
	h.start()
	for _, c := range []struct{ config, want string }{
		{`{`, `network configuration "{" not valid JSON`},
		{`[]`, `network configuration "[]" is a JSON array, want an object`},
		{`{"Network":"10.5.0.0"}`, `Network "10.5.0.0" is not an IPv4 network in CIDR notation`},
		{`{"Network":5}`, `Network "5" is not a string`},
		{`{"Backend":{"Type":"host-gw"}}`, `Network is missing`},
		{`{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}`, `SubnetMin "10.6.0.0" does not lie in Network 10.5.0.0/16`},
		{`{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}`, `SubnetMin 10.5.9.0 is above SubnetMax 10.5.8.0`},
		{`{"Network":"10.5.0.0/16","SubnetMax":"10.5.8.1"}`, `SubnetMax "10.5.8.1" is not the base of a /24 subnet`},
		{`{"Network":"10.5.0.0/16","SubnetLen":16}`, `SubnetLen 16 is below 18`},
		{`{"Network":"10.5.0.0/16","SubnetLen":31}`, `SubnetLen 31 is above 30`},
		{`{"Network":"10.5.0.0/16","SubnetLen":-1}`, `SubnetLen "-1" is not a prefix length`},
		{`{"Network":"10.5.0.0/32"}`, `Network 10.5.0.0/32 is too small`},
		{`{"Network":"10.5.0.0/30"}`, `Network 10.5.0.0/30 is too small`},
		{`{"Network":"127.0.0.0/8"}`, `Network 127.0.0.0/8 lies in 127.0.0.0/8: these are loopback addresses`},
		{`{"Network":"239.1.0.0/16"}`, `Network 239.1.0.0/16 lies in 224.0.0.0/4: these are multicast addresses`},
		{`{"Network":"0.0.0.0/0"}`, `Network 0.0.0.0/0 holds 127.0.0.0/8: these are loopback addresses`},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":10000000}}`, `Backend.VNI 10000000 is not between 0 and 9999999`},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":65536}}`, `Backend.Port 65536 is not between 1 and 65535`},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"aws-vpc","MTU":67}}`, `Backend.MTU 67 is not between 68 and 65535`},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"warp"}}`, `Backend.Type "warp" is not a known backend; there are alloc, aws-vpc, host-gw`},
		{`{"Network":"10.5.0.0/16","Backend":"host-gw"}`, `Backend "\"host-gw\"" is not an object`},
		{`{"Network":"10.5.0.0/16","Backend":{}}`, `Backend.Type "" is not a known backend`},
		{`{"Network":"10.5.0.0/16","EnableIPv6":true}`, `IPv6Network is missing`},
		{`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"10.6.0.0/16"}`, `IPv6Network "10.6.0.0/16" is not an IPv6 network in CIDR notation`},
		{`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"udp"}}`, `EnableIPv6 true asks the backend udp for what it cannot do`},
		{`{"Network":"10.5.0.0/16","EnableIPv4":false}`, `EnableIPv4 false with EnableIPv6 false leaves no address family`},
	} {
		n.put("config", c.config)
		h.waitLog(c.want)
		if _, err := os.Stat(h.daemon.SubnetFile); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("with the configuration %s there is a subnet file: %v", c.config, err)
		}
	}
	n.put("config", n.config(nil))
	h.waitReady()
}

func TestEtcdComesLate(t *testing.T) { inParallel(t, everyVariant, testEtcdComesLate) }

func testEtcdComesLate(t *testing.T, v variant) {
	n := newLab(t, v)
	h := n.addNode(lab.HostOptions{}, "-etcd-endpoints=http://"+n.server.Addr.String()+":2379")
	h.start()
	h.waitLog("http://" + n.server.Addr.String() + ":2379")
	n.startEtcd(lab.EtcdOptions{})
	n.put("config", n.config(nil))
	h.waitReady()
}
