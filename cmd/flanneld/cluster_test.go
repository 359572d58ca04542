package main_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flanneld/pkg/lab"
)

// cluster is an etcd of three members, each behind a proxy.
type cluster struct {
	*network
	hosts   []*lab.Host // of the members
	members []*lab.Etcd
	proxies []*proxy
	client  *clientv3.Client
	down    []int   // the members that a test stopped
	ca      *lab.CA // if there are certificates
}

// security is what there is to be had before etcd answers.
type security uint8

const (
	open         security = iota
	passwords             // which are exchanged for tokens
	certificates          // of members and hosts
)

// tokenLife is how long what a password is exchanged for is good.
const tokenLife = 2 * time.Second

// newCluster returns a lab with such an etcd, and two hosts with daemons.
func newCluster(t *testing.T, s security) *cluster {
	t.Helper()
	n := newLab(t, vxlan)
	c := &cluster{network: n, hosts: []*lab.Host{n.server}}
	for i := range 2 {
		h, err := n.lab.AddHost(fmt.Sprintf("server%d", i+2), n.sw, lab.HostOptions{})
		check(t, err)
		c.hosts = append(c.hosts, h)
	}
	opts := lab.EtcdOptions{Version: n.store.version}
	var args []string
	scheme := "http"
	switch s {
	case open:
	case passwords:
		opts.Args = append(opts.Args, fmt.Sprintf("--auth-token-ttl=%d", tokenLife/time.Second))
		args = []string{"-etcd-username=flannel", "-etcd-password=open-sesame-4711"}
	case certificates:
		scheme = "https"
		var err error
		c.ca, err = lab.NewCA(t.TempDir(), "ca")
		check(t, err)
		opts.Server = c.certify(lab.Valid)
		opts.ClientCA = c.ca.Cert
		opts.Client, err = c.ca.Client("lab", lab.Valid)
		check(t, err)
		files, err := c.ca.Client("hosts", lab.Valid)
		check(t, err)
		args = []string{"-etcd-cafile=" + c.ca.Cert, "-etcd-certfile=" + files.Cert, "-etcd-keyfile=" + files.Key}
	}
	var err error
	c.members, err = n.lab.StartCluster(n.ctx, c.hosts, opts)
	check(t, err)
	n.etcd = c.members[0]
	if s == passwords {
		check(t, n.etcd.EnableAuth(n.ctx, "root-password-1234"))
		check(t, n.etcd.AddUser(n.ctx, "flannel", "open-sesame-4711", keyPrefix+"/*"))
	}
	n.admin = n.store.admin(t, n.etcd)
	c.client = n.admin.(adminV3).Client
	n.put("config", n.config(nil))
	var urls []string
	for _, h := range c.hosts {
		p, url := n.startProxyOn(h, 2000)
		c.proxies = append(c.proxies, p)
		urls = append(urls, strings.Replace(url, "http", scheme, 1))
	}
	args = append(args, "-etcd-endpoints="+strings.Join(urls, ","))
	for range 2 {
		n.addNode(lab.HostOptions{}, args...).start()
	}
	n.readyWithPods()
	return c
}

// certify writes the certificate of the members, who take a new one without being
// told.
func (c *cluster) certify(lifetime time.Duration) lab.CertFiles {
	c.t.Helper()
	var addrs []netip.Addr
	for _, h := range c.hosts {
		addrs = append(addrs, h.Addr)
	}
	files, err := c.ca.Server("etcd", lifetime, addrs...)
	check(c.t, err)
	return files
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

// kill stops members for good, or until back.
func (c *cluster) kill(members ...int) {
	for _, i := range members {
		c.members[i].Kill()
	}
	c.down = members
}

// back starts the killed members again and waits until all are there.
func (c *cluster) back() {
	c.t.Helper()
	started := make(chan error)
	for _, i := range c.down {
		go func() { started <- c.members[i].Start(c.ctx) }()
	}
	for range c.down {
		check(c.t, <-started)
	}
}

// reset breaks all connections of daemons.
func (c *cluster) reset() {
	for _, p := range c.proxies {
		p.reset()
	}
}

// let says whether anything passes between daemons and etcd. Connections that
// missed something are broken.
func (c *cluster) let(pass bool) {
	if pass {
		c.reset()
	}
	for _, p := range c.proxies {
		p.let(pass)
	}
}

// slow delays each answer.
func (c *cluster) slow(delay time.Duration) {
	for _, p := range c.proxies {
		p.slow(delay)
	}
}

// Whatever happens to some or all of etcd's members, or on the way to them, no
// packet is lost, and soon afterwards all is as before.
func TestClusterFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		security   security
		length     time.Duration
		begin, end func(*cluster)
		log        []string // any of which daemons must have said about it
	}{
		"a member killed": {
			length: 10 * time.Second,
			begin:  func(c *cluster) { c.kill((c.leader() + 1) % 3) },
			end:    func(*cluster) {},
		},
		"the leader killed": {
			length: 10 * time.Second,
			begin:  func(c *cluster) { c.kill(c.leader()) },
			end:    (*cluster).back,
		},
		"the majority killed": {
			length: 60 * time.Second,
			begin:  func(c *cluster) { c.kill(1, 2) },
			end:    (*cluster).back,
		},
		"cut off": {
			length: 60 * time.Second,
			begin:  func(c *cluster) { c.let(false) },
			end:    func(c *cluster) { c.let(true) },
		},
		"compacted while cut off": {
			length: 15 * time.Second,
			begin: func(c *cluster) {
				c.let(false)
				c.putPeer(stranger("10.5.250.0/24", "192.168.0.250"))
				c.delete(stranger("10.5.250.0/24", "192.168.0.250").key())
				check(c.t, c.admin.forget(c.ctx))
				for _, m := range c.members {
					_, err := c.client.Defragment(c.ctx, m.Endpoint())
					check(c.t, err)
				}
			},
			end: func(c *cluster) { c.let(true) },
		},
		"replaced by an empty one": {
			length: 20 * time.Second, // longer than a vanished lease lingers
			begin:  func(c *cluster) { check(c.t, c.members[0].Wipe(c.ctx)) },
			end:    func(c *cluster) { c.put("config", c.config(nil)) },
		},
		"slow": {
			length: 15 * time.Second,
			begin:  func(c *cluster) { c.slow(2 * time.Second) },
			end:    func(c *cluster) { c.slow(0) },
		},
		"a token expired": {
			security: passwords,
			length:   10 * tokenLife,
			begin: func(c *cluster) {
				go func() {
					for range len(c.members) + 1 { // there is one of each member
						c.reset()
						time.Sleep(2 * tokenLife)
					}
				}()
			},
			end: (*cluster).reset,
		},
		"the servers' certificate expired": {
			security: certificates,
			length:   25 * time.Second, // the second line is about a new connection
			begin:    func(c *cluster) { c.certify(lab.Expired); c.reset() },
			end:      func(c *cluster) { c.certify(lab.Valid) },
			log:      []string{"certificate has expired"},
		},
		"the hosts' certificate expired": {
			security: certificates,
			length:   25 * time.Second, // the second line is about a new connection
			begin: func(c *cluster) {
				_, err := c.ca.Client("hosts", lab.Expired)
				check(c.t, err)
				c.reset()
			},
			end: func(c *cluster) {
				_, err := c.ca.Client("hosts", lab.Valid)
				check(c.t, err)
			},
			// The reset may come before the server's alert, and the kernel drops that then.
			log: []string{"expired", "it may refuse this host's client certificate"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, fault.security)
			before := make(map[*node]string)
			for _, h := range c.nodes {
				before[h] = h.key()
			}
			c.outage(fault.length, func() { fault.begin(c) }, func() { fault.end(c) })
			for h, key := range before {
				if h.key() != key {
					t.Errorf("%s had %s and has %s", h.Name, key, h.key())
				}
				said := func(text string) bool { return strings.Contains(h.daemon.Log(), text) }
				if fault.log != nil && !slices.ContainsFunc(fault.log, said) {
					t.Errorf("%s said none of %q", h.Name, fault.log)
				}
			}
		})
	}
}
