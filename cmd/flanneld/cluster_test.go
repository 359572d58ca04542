package main_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flanneld/pkg/lab"
)

// cluster is an etcd of three members, each behind a proxy.
type cluster struct {
	*network
	members []*lab.Etcd
	proxies []*proxy
	client  *clientv3.Client
}

// newCluster returns a lab with such an etcd, and two hosts with daemons.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	n := newLab(t, vxlan)
	servers := []*lab.Host{n.server}
	for i := range 2 {
		h, err := n.lab.AddHost(fmt.Sprintf("server%d", i+2), n.sw, lab.HostOptions{})
		check(t, err)
		servers = append(servers, h)
	}
	members, err := n.lab.StartCluster(n.ctx, servers, lab.EtcdOptions{Version: n.store.version})
	check(t, err)
	n.etcd = members[0]
	n.admin = n.store.admin(t, n.etcd)
	n.put("config", n.config(nil))
	c := &cluster{network: n, members: members, client: n.admin.(adminV3).Client}
	var urls []string
	for _, s := range servers {
		p, url := n.startProxyOn(s, 2000)
		c.proxies, urls = append(c.proxies, p), append(urls, url)
	}
	for range 2 {
		n.addNode(lab.HostOptions{}, "-etcd-endpoints="+strings.Join(urls, ",")).start()
	}
	n.readyWithPods()
	return c
}

// leader is the number of the member that leads.
func (c *cluster) leader() int {
	c.t.Helper()
	for i, m := range c.members {
		ctx, cancel := context.WithTimeout(c.ctx, soon)
		s, err := c.client.Status(ctx, m.Endpoint())
		cancel()
		check(c.t, err)
		if s.Leader == s.Header.MemberId {
			return i
		}
	}
	c.t.Fatal("nobody leads")
	return 0
}

// back starts members again and waits until all are there.
func (c *cluster) back(members ...int) {
	c.t.Helper()
	started := make(chan error)
	for _, i := range members {
		go func() { started <- c.members[i].Start(c.ctx) }()
	}
	for range members {
		check(c.t, <-started)
	}
}

// Whatever happens to some or all of etcd's members, no packet is lost, and soon
// afterwards all is as before.
func TestClusterFaults(t *testing.T) {
	all := func(c *cluster, f func(*proxy)) {
		for _, p := range c.proxies {
			f(p)
		}
	}
	var leader int
	for name, fault := range map[string]struct {
		length     time.Duration
		begin, end func(*cluster)
	}{
		"a member killed": {
			10 * time.Second,
			func(c *cluster) { c.members[(c.leader()+1)%3].Kill() },
			func(*cluster) {},
		},
		"the leader killed": {
			10 * time.Second,
			func(c *cluster) { leader = c.leader(); c.members[leader].Kill() },
			func(c *cluster) { c.back(leader) },
		},
		"the majority killed": {
			60 * time.Second,
			func(c *cluster) { c.members[1].Kill(); c.members[2].Kill() },
			func(c *cluster) { c.back(1, 2) },
		},
		"cut off": {
			60 * time.Second,
			func(c *cluster) { all(c, func(p *proxy) { p.let(false) }) },
			func(c *cluster) { all(c, func(p *proxy) { p.reset(); p.let(true) }) },
		},
		"compacted while cut off": {
			15 * time.Second,
			func(c *cluster) {
				all(c, func(p *proxy) { p.let(false) })
				c.putPeer(stranger("10.5.250.0/24", "192.168.0.250"))
				c.delete(stranger("10.5.250.0/24", "192.168.0.250").key())
				check(c.t, c.admin.forget(c.ctx))
				for _, m := range c.members {
					_, err := c.client.Defragment(c.ctx, m.Endpoint())
					check(c.t, err)
				}
			},
			func(c *cluster) { all(c, func(p *proxy) { p.reset(); p.let(true) }) },
		},
		"slow": {
			15 * time.Second,
			func(c *cluster) { all(c, func(p *proxy) { p.slow(2 * time.Second) }) },
			func(c *cluster) { all(c, func(p *proxy) { p.slow(0) }) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.outage(fault.length, func() { fault.begin(c) }, func() { fault.end(c) })
		})
	}
}
