package main_test

import (
	"fmt"
	"testing"
	"time"

	"flanneld/pkg/ip"
)

// IPv6 is turned on in a VPC while daemons run, and off again, which one of them learns when it is
// started: its routes come and go, those of IPv4 are left alone, and no packet of IPv4 is lost.
func TestAWSIPv6IsTurnedOnAndOff(t *testing.T) {
	t.Parallel()
	c := newCloudOf(t, etcdV2, dualStack)
	c.families = ipv4Only
	c.configure(c.both())
	for _, h := range []*node{c.addInstance(c.first), c.addInstance(c.second)} {
		h.start()
	}
	c.connected()
	c.waitBoth(soon)
	c.ForgetCalls()
	four := c.witnessRing(ip.V4)
	late := c.nodes[1]
	var routes []string
	for _, turn := range []struct {
		families families
		action   string
	}{{dualStack, "CreateRoute"}, {ipv4Only, "DeleteRoute"}, {dualStack, "CreateRoute"}} {
		c.families = turn.families
		if turn.families == ipv4Only {
			late.daemon.Kill()
		}
		c.configure(c.both())
		if turn.families == ipv4Only {
			c.nodes[0].waitFamilies(turn.families)
			late.start()
			late.waitReady()
		}
		for _, h := range c.nodes {
			h.waitFamilies(turn.families)
		}
		c.waitBoth(soon)
		if turn.families == dualStack {
			routes = nil
			for _, h := range c.nodes {
				h.addPod()
				for _, table := range c.both() {
					routes = append(routes, fmt.Sprintf("%s in %s", h.peer().also.subnet, table))
				}
			}
			awaitPing(c.nodes[0], c.nodes[1], ip.V6)
			awaitPing(c.nodes[1], c.nodes[0], ip.V6)
		}
		var want []string
		for _, r := range routes {
			want = append(want, turn.action+" of "+r)
		}
		c.wantWrites(want...)
		c.ForgetCalls()
	}
	four()
}

// waitBoth waits until both tables have just the routes of all hosts.
func (c *cloud) waitBoth(within time.Duration) {
	c.t.Helper()
	c.waitRoutes(within, c.main, c.nodes)
	c.waitRoutes(within, c.other, c.nodes)
}

// A network of both families is in a VPC without IPv6: hosts say so, and have IPv4. When the VPC and
// they get IPv6 it is followed, without a restart and with IPv4 as it was.
func TestAWSVPCWithoutIPv6(t *testing.T) {
	t.Parallel()
	c := newCloud(t, etcdV3)
	c.families = dualStack
	c.configure(c.both())
	a, b := c.addInstance(c.first), c.addInstance(c.second)
	for _, h := range c.nodes {
		h.start()
		h.waitReady()
		h.waitLog("going on without IPv6 until it can be had: the external interface of IPv6: ")
		h.waitFamilies(ipv4Only)
		h.addPod()
	}
	c.waitBoth(soon)
	awaitPing(a, b, ip.V4)
	awaitPing(b, a, ip.V4)
	c.ForgetCalls()
	four := c.witnessRing(ip.V4)
	c.addIPv6()
	var want []string
	for _, h := range c.nodes {
		check(t, c.nic(h).AssignIPv6())
		h.waitFamilies(dualStack)
		h.addPod()
		for _, table := range c.both() {
			want = append(want, fmt.Sprintf("CreateRoute of %s in %s", h.peer().also.subnet, table))
		}
	}
	c.waitBoth(soon)
	c.connected()
	four()
	c.wantWrites(want...)
}
