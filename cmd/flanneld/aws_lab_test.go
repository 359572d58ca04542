package main_test

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/pkg/lab/fakeaws"
)

// awsBackend is for hosts in a cloud alone: the tests of all backends have switches.
var awsBackend = backend{name: "aws-vpc", config: `{"Type":"aws-vpc"}`, lease: allocBackend.lease}

// cloud is a lab whose hosts are instances in a VPC of two subnets. The first goes by
// the VPC's main route table, the second by one of its own.
type cloud struct {
	*network
	*fakeaws.Cloud
	router        *fakeaws.Router
	vpc           *fakeaws.VPC
	first, second *fakeaws.Subnet
	main, other   *fakeaws.RouteTable // of these subnets
	instances     map[*node]*fakeaws.Instance
	hosts         int // so far
}

// newCloud returns a cloud with etcd on an instance, and no configuration. When the
// test ends, no daemon may have told any secret of it.
func newCloud(t *testing.T, s store) *cloud {
	t.Helper()
	return newCloudOf(t, s, ipv4Only)
}

// newCloudOf returns a cloud for a network of these families. There is IPv6 if one of them is.
func newCloudOf(t *testing.T, s store, f families) *cloud {
	t.Helper()
	c := &cloud{
		network:   newEmptyLab(t, variant{backend: awsBackend, store: s, families: f}),
		Cloud:     fakeaws.New(fakeaws.Options{Region: "us-west-2"}),
		instances: make(map[*node]*fakeaws.Instance),
	}
	c.router = must(fakeaws.NewRouter(c.lab, c.Cloud))(t)
	t.Cleanup(func() { check(t, c.router.Close()) })
	t.Cleanup(c.findSecrets)
	c.vpc = must(c.AddVPC("10.0.0.0/16"))(t)
	c.first = must(c.vpc.AddSubnet("10.0.1.0/24", "a"))(t)
	c.second = must(c.vpc.AddSubnet("10.0.2.0/24", "b"))(t)
	if f != ipv4Only {
		c.addIPv6()
	}
	c.main, c.other = c.vpc.Main, c.vpc.AddRouteTable()
	check(t, c.other.Associate(c.second))
	c.server = must(c.router.AddHost("server", must(c.RunInstance(c.first, fakeaws.InstanceOptions{}))(t)))(t)
	c.startEtcd(lab.EtcdOptions{})
	return c
}

// addIPv6 gives the VPC and its subnets IPv6.
func (c *cloud) addIPv6() {
	c.t.Helper()
	check(c.t, c.vpc.AssociateIPv6("2001:db8:10::/56"))
	check(c.t, c.first.AssociateIPv6("2001:db8:10:1::/64"))
	check(c.t, c.second.AssociateIPv6("2001:db8:10:2::/64"))
}

// newConnected returns a cloud of instances in these subnets, with daemons that keep
// both tables and pods that reach each other.
func newConnected(t *testing.T, s store, inFirst, inSecond int) *cloud {
	t.Helper()
	return newConnectedOf(t, s, ipv4Only, inFirst, inSecond)
}

// newConnectedOf does so for a network of these families.
func newConnectedOf(t *testing.T, s store, f families, inFirst, inSecond int) *cloud {
	t.Helper()
	c := newCloudOf(t, s, f)
	c.configure(c.both())
	for range inFirst {
		c.addInstance(c.first)
	}
	for range inSecond {
		c.addInstance(c.second)
	}
	for _, h := range c.nodes {
		h.start()
	}
	c.connected()
	return c
}

// both are the IDs of the tables.
func (c *cloud) both() []string { return []string{c.main.ID, c.other.ID} }

// configure writes the configuration with this RouteTableID, or without one.
func (c *cloud) configure(tables any) {
	c.t.Helper()
	section := settings{"Type": "aws-vpc"}
	if tables != nil {
		section["RouteTableID"] = tables
	}
	c.put("config", c.config(settings{"Backend": section}))
}

// addInstance adds a host, whose daemons know nothing of the cloud but where its API
// is: in real life its name tells that.
func (c *cloud) addInstance(s *fakeaws.Subnet, args ...string) *node {
	c.t.Helper()
	h := &node{n: c.network, args: args}
	h.env = append(c.router.Env(), "AWS_REGION=", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	i := must(c.RunInstance(s, fakeaws.InstanceOptions{Role: "node", Metadata: fakeaws.MetadataOptions{TokensRequired: true}}))(c.t)
	c.nodes = append(c.nodes, h)
	c.becomes(h, i)
	return h
}

// becomes makes a host out of an instance.
func (c *cloud) becomes(h *node, i *fakeaws.Instance) {
	c.t.Helper()
	c.hosts++
	h.Host = must(c.router.AddHost(fmt.Sprintf("host%d", c.hosts), i))(c.t)
	c.instances[h] = i
}

// nic is the network interface of a host.
func (c *cloud) nic(h *node) *fakeaws.Interface { return c.instances[h].Interface() }

// connected waits until all daemons are ready, and pods on all hosts reach each other.
func (c *cloud) connected() {
	c.t.Helper()
	for _, h := range c.nodes {
		h.waitReady()
		if h.pod == nil {
			h.addPod()
		}
	}
	for _, from := range c.nodes {
		for _, to := range c.nodes {
			if from != to {
				c.waitPing(from, to)
			}
		}
	}
}

func (c *cloud) waitPing(from, to *node) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 3*soon)
	defer cancel()
	for _, f := range c.families.list() {
		if err := from.pod.WaitPing(ctx, to.pod.In(f).Addr); err != nil {
			c.t.Fatalf("%v; status %q there, %q here", err, to.daemon.Status(), from.daemon.Status())
		}
	}
}

func (c *cloud) noPing(from, to *node) {
	c.t.Helper()
	if rtt, err := from.pod.Ping(c.ctx, to.pod.Addr, 300*time.Millisecond); err == nil {
		c.t.Errorf("the pod of %s reached that of %s in %s", from.Name, to.Name, rtt)
	}
}

// routes are those of a table that somebody made, as "DESTINATION to TARGET".
func (c *cloud) routes(table *fakeaws.RouteTable) []string {
	var all []string
	for _, r := range table.Routes() {
		if r.Origin != "CreateRoute" {
			continue
		}
		text := fmt.Sprintf("%s to %s%s", r.Dst, r.InterfaceID, r.GatewayID)
		if r.State != "active" {
			text += ", " + r.State
		}
		all = append(all, text)
	}
	return sorted(all...)
}

// routeTo is the route to a host in the family of what it is as a peer, as routes has it.
func (c *cloud) routeTo(h *node, p peer) string {
	return fmt.Sprintf("%s to %s", p.subnet, c.nic(h).ID)
}

// waitRoutes waits until a table has the routes to these hosts, and beside those just
// these others.
func (c *cloud) waitRoutes(within time.Duration, table *fakeaws.RouteTable, hosts []*node, others ...string) time.Duration {
	c.t.Helper()
	want := slices.Clone(others)
	for _, h := range hosts {
		for _, p := range h.peer().views() {
			want = append(want, c.routeTo(h, p))
		}
	}
	want = sorted(want...)
	return c.wait(within, fmt.Sprintf("%q in %s", want, table.ID), func() string {
		if got := c.routes(table); !slices.Equal(got, want) {
			return fmt.Sprintf("there is %q", got)
		}
		return ""
	})
}

// writes lists the calls that ask for a change, as "ACTION OF WHAT", with the error if
// there was one.
func (c *cloud) writes() []string {
	var all []string
	for _, call := range c.Calls("CreateRoute", "ReplaceRoute", "DeleteRoute", "ModifyNetworkInterfaceAttribute", "ModifyInstanceAttribute") {
		what := call.Action + " of " + call.Form.Get("NetworkInterfaceId")
		if table := call.Form.Get("RouteTableId"); table != "" {
			what = fmt.Sprintf("%s of %s in %s", call.Action, destination(call), table)
		}
		if call.Code != "" {
			what += ", " + call.Code
		}
		all = append(all, what)
	}
	return sorted(all...)
}

// destination is that of the route that a call is about.
func destination(call fakeaws.Call) string {
	return call.Form.Get("DestinationCidrBlock") + call.Form.Get("DestinationIpv6CidrBlock")
}

func (c *cloud) wantWrites(want ...string) {
	c.t.Helper()
	if got := c.writes(); !slices.Equal(got, sorted(want...)) {
		c.t.Errorf("the calls that change something are %q, want %q", got, want)
	}
}

// findSecrets looks for the cloud's secrets in all that daemons have written or told,
// and ends them.
func (c *cloud) findSecrets() {
	c.t.Helper()
	texts := make(map[string]string)
	for _, h := range c.nodes {
		for i, d := range h.past {
			d.Kill()
			texts[fmt.Sprintf("what daemon %d of %s told systemd", i, h.Name)] = strings.Join(d.Notify.Messages(), "\n")
		}
	}
	check(c.t, filepath.WalkDir(c.lab.Dir, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == "etcd.data":
			return filepath.SkipDir
		case d.Type().IsRegular():
			text, err := os.ReadFile(file)
			texts[file] = string(text)
			return err
		}
		return nil
	}))
	secrets := c.Secrets()
	if len(secrets) == 0 && !c.t.Failed() {
		c.t.Error("there were no credentials")
	}
	for _, s := range secrets {
		for where, text := range texts {
			if strings.Contains(text, s) || strings.Contains(text, url.QueryEscape(s)) {
				c.t.Errorf("%s has the secret %s", where, s)
			}
		}
	}
}
