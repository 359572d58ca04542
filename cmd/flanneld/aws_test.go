package main_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab/fakeaws"
)

// Pods on instances of two subnets reach each other, also where the hosts are known by
// addresses that none of their interfaces has.
func TestAWS(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		store    store
		public   string
		families families
	}{{etcdV2, "", ipv4Only}, {etcdV3, "203.0.113.", ipv4Only}, {etcdV3, "", dualStack}, {etcdV2, "", ipv6Only}} {
		t.Run(v.store.name+string(v.families), func(t *testing.T) {
			t.Parallel()
			c := newCloudOf(t, v.store, v.families)
			c.configure(c.both())
			for i, s := range []*fakeaws.Subnet{c.first, c.second, c.second} {
				h := c.addInstance(s)
				if v.public != "" {
					h.args = append(h.args, fmt.Sprintf("-public-ip=%s%d", v.public, i+1))
				}
				h.start()
			}
			c.connected()
			c.waitRoutes(soon, c.main, c.nodes)
			c.waitRoutes(soon, c.other, c.nodes)
			for i, from := range c.nodes {
				if c.nic(from).SourceDestCheck() {
					t.Errorf("%s: the source/destination check is on", from.Name)
				}
				if mtu := from.daemon.Env()["FLANNEL_MTU"]; mtu != "9001" {
					t.Errorf("%s: FLANNEL_MTU=%s", from.Name, mtu)
				}
				for _, f := range v.families.list() {
					public, key := from.Of(f).String(), map[ip.Family]string{ip.V4: "PublicIP", ip.V6: "PublicIPv6"}[f]
					if v.public != "" {
						public = fmt.Sprintf("%s%d", v.public, i+1)
					}
					if l := c.get(from.key()); l == nil || !strings.Contains(l.value, fmt.Sprintf(`%q:%q`, key, public)) {
						t.Errorf("the lease of %s is %s", public, l)
					}
					for _, to := range c.nodes {
						if from != to {
							must(from.pod.In(f).Transfer(c.ctx, to.pod.In(f), 1<<20))(t)
						}
					}
				}
			}
		})
	}
}

// Without RouteTableID a host keeps the table that its own packets go by. What leads
// nowhere and has no lease goes from there at the start, and nothing else.
func TestAWSOwnTable(t *testing.T) {
	t.Parallel()
	c := newCloud(t, etcdV3)
	c.configure(nil)
	gone := must(c.RunInstance(c.first, fakeaws.InstanceOptions{}))(t)
	stays := must(c.RunInstance(c.first, fakeaws.InstanceOptions{}))(t)
	live := stranger("10.5.200.0/24", "10.0.1.250")
	blackhole := func(dst string) string { return dst + " to " + gone.Interface().ID + ", blackhole" }
	kept := []string{blackhole(live.subnet.String()), blackhole("10.77.0.0/24"), "10.5.202.0/24 to igw-00000000000000001", "10.5.203.0/24 to " + stays.Interface().ID}
	c.putPeer(live)
	for dst, to := range map[string]string{
		live.subnet.String(): gone.Interface().ID,
		"10.5.201.0/24":      gone.Interface().ID, // has no lease
		"10.77.0.0/24":       gone.Interface().ID, // is not in the network
		"10.5.202.0/24":      "igw-00000000000000001",
		"10.5.203.0/24":      stays.Interface().ID,
	} {
		check(t, c.main.CreateRoute(dst, to))
	}
	gone.Terminate()
	for _, s := range []*fakeaws.Subnet{c.first, c.first, c.second} {
		c.addInstance(s).start()
	}
	for _, h := range c.nodes {
		h.waitReady()
		h.addPod()
	}
	a, b, other := c.nodes[0], c.nodes[1], c.nodes[2]
	c.waitPing(a, b)
	c.waitPing(b, a)
	c.noPing(a, other) // for this one is in a table by which a's packets do not go
	c.waitRoutes(soon, c.main, []*node{a, b}, kept...)
	c.waitRoutes(soon, c.other, []*node{other})
	c.wantDeleted("10.5.201.0/24")
}

// wantDeleted checks which routes were deleted by a call.
func (c *cloud) wantDeleted(want ...string) {
	c.t.Helper()
	var got []string
	for _, call := range c.Calls("DeleteRoute") {
		if call.Code == "" {
			got = append(got, destination(call))
		}
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("deleted were %q, want %q", got, want)
	}
}

// Daemons come and go without a call that changes anything; and an instance in the
// place of another one takes its route over. The configuration is one of flannel's.
func TestAWSRestart(t *testing.T) {
	t.Parallel()
	c := newCloudOf(t, etcdV2, dualStack)
	c.configure(c.main.ID)
	h, peer := c.addInstance(c.first), c.addInstance(c.first)
	h.start()
	peer.start()
	c.connected()
	subnet := h.subnet()
	c.ForgetCalls()
	for name, stop := range map[string]func(){
		"kill -9": func() { h.daemon.Kill() },
		"SIGTERM": func() { must(h.daemon.Stop(soon))(t) },
	} {
		t.Log(name)
		c.witness(peer, h, func() {
			c.witness(h, peer, func() {
				stop()
				h.start()
				h.waitReady()
				c.pause(time.Second)
			})
		})
		if h.subnet() != subnet {
			t.Errorf("after %s the subnet is %s, before it was %s", name, h.subnet(), subnet)
		}
	}
	c.wantWrites()
	if len(c.Calls("DescribeRouteTables")) < 2 {
		t.Errorf("the calls are %v", c.Calls())
	}

	t.Log("another instance in its place")
	var nowhere, replaced []string
	for _, p := range h.peer().views() {
		nowhere = append(nowhere, c.routeTo(h, p)+", blackhole")
		replaced = append(replaced, fmt.Sprintf("ReplaceRoute of %s in %s", p.subnet, c.main.ID))
	}
	next := must(c.instances[h].Replace())(t)
	c.noPing(peer, h)
	c.waitRoutes(0, c.main, []*node{peer}, nowhere...)
	h.Close()
	c.ForgetCalls()
	c.becomes(h, next)
	begin := time.Now()
	h.start()
	h.waitReady()
	h.addPod()
	c.connected()
	t.Logf("the pods reach each other %s after the start", time.Since(begin))
	if h.subnet() != subnet {
		t.Errorf("the subnet is %s, it was %s", h.subnet(), subnet)
	}
	c.waitRoutes(0, c.main, c.nodes)
	c.wantWrites(append(replaced, "ModifyNetworkInterfaceAttribute of "+c.nic(h).ID)...)
}

// A host whose metadata does not answer yet says so, and is not ready before.
func TestAWSSlowMetadata(t *testing.T) {
	t.Parallel()
	c := newCloud(t, etcdV3)
	c.configure(c.both())
	h := c.addInstance(c.first)
	options := fakeaws.MetadataOptions{TokensRequired: true, Delay: time.Hour}
	c.instances[h].SetMetadata(options)
	h.start()
	h.waitLog("the instance metadata service (IMDS) does not answer")
	c.pause(12 * time.Second)
	if s := h.daemon.Status(); !strings.HasPrefix(s, "not ready: subnet ") || h.daemon.EnvText() != "" {
		t.Errorf("the status is %q, subnet.env is %q", s, h.daemon.EnvText())
	}
	select {
	case <-h.daemon.Notify.Ready():
		t.Error("it is ready all the same")
	default:
	}
	if lines := strings.Count(h.daemon.Log(), "(IMDS)"); lines > 3 {
		t.Errorf("%d lines are about it", lines)
	}
	must(h.daemon.Stop(soon))(t)
	h.start()
	h.waitLog("the instance metadata service (IMDS) does not answer")
	options.Delay = 0
	c.instances[h].SetMetadata(options)
	begin := time.Now()
	check(t, h.daemon.WaitReady(c.ctx))
	t.Logf("ready %s after the metadata answers", time.Since(begin))
	c.waitRoutes(soon, c.main, c.nodes)
	c.waitRoutes(soon, c.other, c.nodes)
}

// What takes a host out of the network leaves the cloud alone, and says so.
func TestAWSLeave(t *testing.T) {
	t.Parallel()
	c := newConnectedOf(t, etcdV3, dualStack, 1, 1)
	for _, h := range c.nodes {
		h.waitSaved(strings.ReplaceAll(h.subnet().String(), "/", "-"))
		must(h.daemon.Stop(soon))(t)
	}
	c.ForgetCalls()
	for i, action := range []string{"-cleanup", "-release"} {
		h := c.nodes[i]
		views := h.peer().views()
		code, out := h.act(action)
		for _, table := range c.both() {
			for _, p := range views {
				want := fmt.Sprintf("left the route to %s in route table %s: ", p.subnet, table)
				if code != 0 || !strings.Contains(out, want) {
					t.Errorf("%s: status %d, %s; it lacks %q", action, code, out, want)
				}
			}
		}
	}
	if calls := c.Calls(); len(calls) > 0 {
		t.Errorf("the calls are %v", calls)
	}
}
