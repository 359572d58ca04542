package subnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// newCluster returns a store that chooses subnets, and holds a configuration.
func newCluster() *subnettest.Cluster {
	c := subnettest.NewCluster()
	c.SetConfig(config)
	return c
}

// node is one that says what a host with a public address does.
func node(name, cidr, public string) subnettest.Node {
	n := subnettest.Node{Name: name}
	if cidr != "" {
		n.Subnet = sub(cidr)
	}
	if public != "" {
		a := attrs(public)
		n.Says = &a
	}
	return n
}

// join runs the keeper of a host of a cluster, which has the public address that the store
// asks for, or the given one.
func join(t *testing.T, c *subnettest.Cluster, name, public string, options ...option) (*host, *subnettest.Assigned) {
	t.Helper()
	store := c.Host(name)
	as := func(k *subnet.Keeper) {
		k.Prepare = func(_ context.Context, _ *subnet.Config, s subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			a := attrs(public)
			a.Machine = name
			for _, other := range []ip.Addrs{s.Own.Requested, s.Own.Overwrite} {
				if other.V4.IsValid() {
					a.PublicIP = other
				}
			}
			return a, nil, nil
		}
	}
	return start(t, store, public, append([]option{as}, options...)...), store
}

// says fails the test unless a Node says a public address.
func says(t *testing.T, c *subnettest.Cluster, name, public string) {
	t.Helper()
	a := c.Says(name)
	switch {
	case a == nil && public != "":
		t.Fatalf("%s says nothing, want %s", name, public)
	case a != nil && a.PublicIP.V4.String() != public:
		t.Fatalf("%s says %s, want %q", name, a.PublicIP, public)
	}
}

func TestAssigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.Put(node("w2", "10.5.2.0/24", "192.0.2.2"))
		h, _ := join(t, c, "w1", "192.0.2.1")
		h.want(t, "none")
		if text := h.waitsFor(); !strings.Contains(text, "there is no Node w1") {
			t.Errorf("waits for %q", text)
		}
		time.Sleep(time.Hour)
		c.Put(node("w1", "", ""))
		time.Sleep(time.Hour)
		h.want(t, "none")
		if text := h.waitsFor(); !strings.Contains(text, "w1 has no podCIDR") {
			t.Errorf("waits for %q", text)
		}
		says(t, c, "w1", "")
		c.Put(node("w1", "10.5.1.0/24", ""))
		synctest.Wait() // it does not wait for the next look
		h.want(t, "10.5.1.0/24")
		says(t, c, "w1", "192.0.2.1")
		if l := h.held().Snapshot.Find(sub("10.5.2.0/24")); l == nil || l.Machine != "w2" {
			t.Errorf("the other host is known as %+v", l)
		}
		changes := h.changes
		time.Sleep(48 * time.Hour)
		if h.changes != changes || !h.held().Own.Reserved() {
			t.Error("the lease was renewed")
		}
	})
}

// A subnet of any length will do, anywhere in Network.
func TestAssignedAnySubnet(t *testing.T) {
	for cidr, fits := range map[string]bool{"10.5.0.0/16": true, "10.5.0.0/28": true, "10.5.255.0/24": true, "10.0.0.0/8": false, "10.6.0.0/24": false} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster()
			c.SetConfig(`{"Network":"10.5.0.0/16","SubnetLen":25,"SubnetMin":"10.5.9.0"}`)
			c.Put(node("w1", cidr, ""))
			h, _ := join(t, c, "w1", "192.0.2.1")
			time.Sleep(time.Minute)
			if fits {
				h.want(t, cidr)
				return
			}
			h.want(t, "none")
			says(t, c, "w1", "")
			c.SetConfig(`{"Network":"10.0.0.0/8"}`)
			time.Sleep(2 * time.Second)
			h.want(t, cidr)
		})
	}
}

func TestAssignedAnnotationsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.Put(node("w1", "10.5.1.0/24", ""))
		h, _ := join(t, c, "w1", "192.0.2.1")
		text := logText(t)
		for range 3 {
			c.Put(node("w1", "10.5.1.0/24", ""))
			synctest.Wait()
			says(t, c, "w1", "192.0.2.1")
			time.Sleep(time.Minute)
		}
		c.Put(node("w1", "10.5.1.0/24", "192.0.2.99"))
		synctest.Wait()
		says(t, c, "w1", "192.0.2.1")
		time.Sleep(time.Minute)
		garbled := node("w1", "10.5.1.0/24", "192.0.2.99")
		garbled.Garbled = true
		c.Put(garbled)
		synctest.Wait()
		says(t, c, "w1", "192.0.2.1")
		h.want(t, "10.5.1.0/24")
		if got := text(); !strings.Contains(got, "the Node w1 says nothing of this host any more") || !strings.Contains(got, "what the Node w1 says of this host was changed") {
			t.Errorf("logged %s", got)
		}
	})
}

// Two daemons for one Node do not fight as fast as they can.
func TestAssignedTwoDaemons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.Put(node("w1", "10.5.1.0/24", ""))
		_, a := join(t, c, "w1", "192.0.2.1")
		_, b := join(t, c, "w1", "192.0.2.99")
		time.Sleep(time.Minute)
		if n := a.Calls(subnettest.Update) + b.Calls(subnettest.Update); n > 60 {
			t.Errorf("%d writes in a minute", n)
		}
	})
}

func TestAssignedNodeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.Put(node("w1", "10.5.1.0/24", ""))
		h, store := join(t, c, "w1", "192.0.2.1")
		text := logText(t)
		c.Remove("w1")
		time.Sleep(time.Hour)
		h.want(t, "10.5.1.0/24")
		if got := text(); strings.Count(got, "there is no Node w1; until there is one again, this host goes on with 10.5.1.0/24") != 1 {
			t.Errorf("logged %s", got)
		}
		c.Put(node("w2", "10.5.2.0/24", "192.0.2.2"))
		synctest.Wait()
		if len(h.held().Snapshot.Leases) != 1 {
			t.Error("the others are not followed meanwhile")
		}
		c.Put(node("w1", "", ""))
		time.Sleep(time.Minute)
		says(t, c, "w1", "")
		c.Put(node("w1", "10.5.1.0/24", ""))
		synctest.Wait()
		says(t, c, "w1", "192.0.2.1")
		if n := store.Calls(subnettest.List); n > 1 {
			t.Errorf("listed %d times", n)
		}
	})
}

func TestAssignedAnotherSubnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.Put(node("w1", "10.5.1.0/24", ""))
		h, _ := join(t, c, "w1", "192.0.2.1")
		text := logText(t)
		c.Put(node("w1", "10.5.7.0/24", ""))
		synctest.Wait()
		h.want(t, "10.5.7.0/24")
		says(t, c, "w1", "192.0.2.1")
		if got := text(); !strings.Contains(got, "this host's subnet changed from 10.5.1.0/24 to 10.5.7.0/24") {
			t.Errorf("logged %s", got)
		}

		// One that does not fit is not followed.
		c.Put(node("w1", "10.6.7.0/24", ""))
		time.Sleep(time.Minute)
		h.want(t, "10.5.7.0/24")
		says(t, c, "w1", "")
		c.Put(node("w1", "10.5.7.0/24", ""))
		time.Sleep(4 * time.Second)
		h.want(t, "10.5.7.0/24")
		says(t, c, "w1", "192.0.2.1")
	})
}

// A Node without IPv6 in a network of both families gets other podCIDRs: the host lives by the new one
// of IPv4, and by that of IPv6 once it can.
func TestAssignedAnotherSubnetWithoutAFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.SetConfig(dual)
		of := func(v4, v6 string) subnettest.Node {
			n := node("w1", v4, "")
			n.Subnet = sub(v4 + "," + v6)
			return n
		}
		c.Put(of("10.5.1.0/24", "fc00:0:0:1::/64"))
		var there atomic.Bool
		h, _ := join(t, c, "w1", "", ofBoth(me, me6), without6(&there), func(k *subnet.Keeper) {
			say := k.Prepare
			k.Prepare = func(ctx context.Context, c *subnet.Config, s subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
				a, avoid, err := say(ctx, c, s)
				a.Machine = "w1"
				return a, avoid, err
			}
		})
		time.Sleep(10 * time.Second)
		h.want(t, "10.5.1.0/24")
		c.Put(of("10.5.7.0/24", "fc00:0:0:7::/64"))
		time.Sleep(10 * time.Second)
		h.want(t, "10.5.7.0/24")
		there.Store(true)
		time.Sleep(10 * time.Second)
		h.want(t, "10.5.7.0/24,fc00:0:0:7::/64")
	})
}

func TestAssignedSameSubnetTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.Put(node("w1", "", ""))
		c.Put(node("w2", "10.5.1.0/24", "192.0.2.2"))
		c.Put(node("w3", "10.5.1.0/24", ""))
		young, _ := join(t, c, "w3", "192.0.2.3")
		time.Sleep(time.Minute)
		young.want(t, "none")
		if text := young.waitsFor(); !strings.Contains(text, "Node w3") || !strings.Contains(text, "Node w2") {
			t.Errorf("waits for %q", text)
		}
		says(t, c, "w3", "")
		c.Remove("w2")
		time.Sleep(2 * time.Second)
		young.want(t, "10.5.1.0/24")

		// Now an older one gets it. Who has it is told, and nothing is given up.
		old, _ := join(t, c, "w1", "192.0.2.1")
		c.Put(node("w1", "10.5.1.0/24", ""))
		time.Sleep(time.Minute)
		old.want(t, "10.5.1.0/24")
		young.want(t, "10.5.1.0/24")
		if holder := young.held().Holder; holder != "the Node w1" {
			t.Errorf("the holder is %q", holder)
		}
		c.Put(node("w3", "10.5.3.0/24", ""))
		time.Sleep(4 * time.Second)
		young.want(t, "10.5.3.0/24")
		if holder := young.held().Holder; holder != "" {
			t.Errorf("the holder is %q", holder)
		}
	})
}

// A host whose subnet overlaps that of another one, and is not in force, says nothing until it
// is: no other would send to it.
func TestAssignedOverlapLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		for i, cidr := range []string{"10.5.2.0/24", "10.5.4.0/24", "10.5.6.0/24"} {
			c.Put(node(fmt.Sprint("w", i+2), cidr, fmt.Sprint("192.0.2.", i+2)))
		}
		c.Put(node("w1", "10.5.2.0/23", ""))
		h, _ := join(t, c, "w1", "192.0.2.1")
		time.Sleep(time.Minute)
		h.want(t, "none")
		says(t, c, "w1", "")
		if text := h.waitsFor(); !strings.Contains(text, "10.5.2.0/23, the podCIDR of this host's Node w1, overlaps 10.5.2.0/24, that of the Node w2") {
			t.Errorf("waits for %q", text)
		}
		c.Remove("w2")
		time.Sleep(2 * time.Second)
		h.want(t, "10.5.2.0/23")
		says(t, c, "w1", "192.0.2.1")

		// One that could not be used by anyone does not count.
		c.Put(node("w2", "10.5.2.0/24", "10.5.2.7"))
		time.Sleep(time.Minute)
		h.want(t, "10.5.2.0/23")
		if holder := h.held().Holder; holder != "" {
			t.Errorf("the holder is %q", holder)
		}
		c.Remove("w2")

		// One that comes later, and goes before: what this host has stays its own, and who has it
		// is told, until that is over.
		c.Put(node("w2", "10.5.2.0/24", "192.0.2.2"))
		time.Sleep(time.Minute)
		h.want(t, "10.5.2.0/23")
		if holder := h.held().Holder; holder != "the Node w2, whose podCIDR 10.5.2.0/24 goes before" {
			t.Errorf("the holder is %q", holder)
		}
		if text := h.waitsFor(); !strings.Contains(text, "overlaps 10.5.2.0/24, that of the Node w2") {
			t.Errorf("waits for %q", text)
		}
		says(t, c, "w1", "192.0.2.1")
		c.Remove("w2")
		time.Sleep(4 * time.Second)
		h.want(t, "10.5.2.0/23")
		if holder := h.held().Holder; holder != "" {
			t.Errorf("the holder is %q", holder)
		}
	})
}

func TestAssignedAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		n := node("w1", "10.5.1.0/24", "")
		c.Put(n)
		join(t, c, "w1", "192.0.2.1")
		says(t, c, "w1", "192.0.2.1")
		for _, change := range []struct{ requested, overwrite, want string }{
			{"192.0.2.7", "", "192.0.2.7"}, {"192.0.2.7", "203.0.113.9", "203.0.113.9"}, {"", "203.0.113.8", "203.0.113.8"}, {"", "", "192.0.2.1"},
		} {
			n := node("w1", "10.5.1.0/24", "")
			n.Says = c.Says("w1")
			if change.requested != "" {
				n.Requested.V4 = netip.MustParseAddr(change.requested)
			}
			if change.overwrite != "" {
				n.Overwrite.V4 = netip.MustParseAddr(change.overwrite)
			}
			c.Put(n)
			synctest.Wait()
			says(t, c, "w1", change.want)
			time.Sleep(time.Minute)
		}
	})
}

func TestAssignedConfigFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.UnsetConfig()
		c.Put(node("w1", "10.5.1.0/24", ""))
		h, _ := join(t, c, "w1", "192.0.2.1")
		time.Sleep(time.Minute)
		h.want(t, "none")
		c.SetConfig(config)
		time.Sleep(2 * time.Second)
		h.want(t, "10.5.1.0/24")
		c.SetConfig(`{"Network":"10.4.0.0/15"}`)
		synctest.Wait()
		if got := h.held().Config.Network().String(); got != "10.4.0.0/15" {
			t.Errorf("Network is %s", got)
		}
		c.SetConfig(`{"Network":"10.6.0.0/16"}`)
		synctest.Wait()
		if got := h.held(); !strings.Contains(got.Unfollowed, "does not hold 10.5.1.0/24") {
			t.Errorf("unfollowed: %q", got.Unfollowed)
		}
		c.UnsetConfig()
		synctest.Wait()
		h.want(t, "10.5.1.0/24")
	})
}

func TestAssignedOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.Put(node("w1", "10.5.1.0/24", ""))
		var down error
		h, store := join(t, c, "w1", "192.0.2.1", func(k *subnet.Keeper) { k.StoreDown = func(err error) { down = err } })
		text := logText(t)
		store.Fail(errDown)
		store.DropWatches(errDown)
		time.Sleep(time.Hour)
		synctest.Wait()
		h.want(t, "10.5.1.0/24")
		if down == nil || !strings.Contains(text(), "the store is down") {
			t.Errorf("down: %v; logged %s", down, text())
		}
		c.Put(node("w1", "10.5.1.0/24", ""))
		store.Heal()
		time.Sleep(4 * time.Second)
		synctest.Wait()
		says(t, c, "w1", "192.0.2.1")
		if down != nil || !strings.Contains(text(), "the cluster reachable again after 1h0m") {
			t.Errorf("down: %v; logged %s", down, text())
		}
	})
}

// The store is away at the start: what was saved will do, and what was asked for in the store
// is a part of it.
func TestAssignedSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.SetConfig(`{"Network":"10.5.0.0/16","SubnetLen":17}`)
		n := node("w1", "10.5.1.0/24", "")
		n.Overwrite.V4 = netip.MustParseAddr("203.0.113.9")
		c.Put(n)
		c.Put(node("w2", "10.5.2.0/24", "192.0.2.2"))
		h, _ := join(t, c, "w1", "192.0.2.1")
		file := filepath.Join(t.TempDir(), "saved.json")
		time.Sleep(time.Second)
		if err := h.held().Save(file, "kube"); err != nil {
			t.Fatal(err)
		}
		h.stop()
		before := h.held()
		time.Sleep(time.Hour)
		saved := func(k *subnet.Keeper) {
			k.Saved = func() (subnet.Saved, error) { return subnet.LoadSaved(file, "kube") }
		}
		down := func(k *subnet.Keeper) { k.Store.(*subnettest.Assigned).Fail(errDown) }
		h, store := join(t, c, "w1", "192.0.2.1", saved, down)
		time.Sleep(6 * time.Second)
		h.want(t, "10.5.1.0/24")
		got := h.held()
		if !got.Partial || got.Own.Attrs != before.Own.Attrs || !got.Own.Reserved() || got.Snapshot.Find(sub("10.5.2.0/24")) == nil {
			t.Errorf("started with %+v, want %+v", got, before)
		}

		// The store is back, but the Node is not there: all is kept.
		c.Remove("w1")
		store.Heal()
		time.Sleep(time.Minute)
		h.want(t, "10.5.1.0/24")
		c.Put(n)
		time.Sleep(2 * time.Second)
		h.want(t, "10.5.1.0/24")
		says(t, c, "w1", "203.0.113.9")
		if h.held().Partial {
			t.Error("it does not go by the store")
		}
	})
}

// A configuration that is changed while the store is away, and that this host lacks something for,
// is in force as soon as that is there, though the store is not.
func TestAssignedConfigFollowedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.Put(node("w1", "10.5.1.0/24", ""))
		h, _ := join(t, c, "w1", "192.0.2.1")
		file := filepath.Join(t.TempDir(), "saved.json")
		time.Sleep(time.Second)
		if err := h.held().Save(file, "kube"); err != nil {
			t.Fatal(err)
		}
		h.stop()
		var lacks atomic.Bool
		refresh := make(chan struct{}, 1)
		h, _ = join(t, c, "w1", "", func(k *subnet.Keeper) {
			k.Store.(*subnettest.Assigned).Fail(errDown)
			k.Saved = func() (subnet.Saved, error) { return subnet.LoadSaved(file, "kube") }
			k.Refresh = refresh
			k.Prepare = func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
				a := attrs("192.0.2.1")
				a.Machine = "w1"
				if lacks.Load() {
					return a, nil, errors.New("there is no such interface")
				}
				return a, nil, nil
			}
		})
		time.Sleep(10 * time.Second)
		network := func(want string, unfollowed bool) {
			t.Helper()
			synctest.Wait()
			h.want(t, "10.5.1.0/24")
			if got := h.held(); got.Config.Network().String() != want || (got.Unfollowed != "") != unfollowed || !got.Partial {
				t.Errorf("Network is %s, unfollowed %q, want %s", got.Config.Network(), got.Unfollowed, want)
			}
		}
		lacks.Store(true)
		c.SetConfig(`{"Network":"10.4.0.0/15"}`)
		time.Sleep(time.Minute)
		network("10.5.0.0/16", true)
		lacks.Store(false)
		time.Sleep(10 * time.Second)
		network("10.4.0.0/15", false)

		lacks.Store(true)
		c.SetConfig(`{"Network":"10.0.0.0/13"}`)
		network("10.4.0.0/15", true)
		lacks.Store(false)
		refresh <- struct{}{}
		network("10.0.0.0/13", false)
	})
}

// An address that is asked for is said also if a listing brought the wish, before the watch did:
// after an outage in which this host's own address changed, say.
func TestAssignedAddressListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.Put(node("w1", "10.5.1.0/24", ""))
		refresh, public := make(chan struct{}, 1), "192.0.2.1"
		h, store := join(t, c, "w1", "", func(k *subnet.Keeper) {
			k.Refresh = refresh
			k.Prepare = func(_ context.Context, _ *subnet.Config, s subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
				a := attrs(public)
				a.Machine = "w1"
				if s.Own.Overwrite.V4.IsValid() {
					a.PublicIP = s.Own.Overwrite
				}
				return a, nil, nil
			}
		})
		h.want(t, "10.5.1.0/24")
		store.Fail(errDown)
		store.DropWatches(errDown)
		time.Sleep(time.Second)
		public = "192.0.2.5"
		refresh <- struct{}{}
		time.Sleep(time.Minute)
		n := node("w1", "10.5.1.0/24", "192.0.2.1")
		n.Overwrite.V4 = netip.MustParseAddr("203.0.113.9")
		c.Put(n)
		store.Heal()
		store.Fail(errDown, subnettest.Watch)
		time.Sleep(10 * time.Second)
		store.Heal()
		time.Sleep(time.Minute)
		says(t, c, "w1", "203.0.113.9")
	})
}

// One that is asked for while this host cannot live by its subnet is said as soon as it can.
func TestAssignedAddressWithoutSubnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.Put(node("w1", "10.5.1.0/24", ""))
		h, _ := join(t, c, "w1", "192.0.2.1")
		c.Put(node("w1", "10.6.7.0/24", ""))
		time.Sleep(time.Minute)
		n := node("w1", "10.6.7.0/24", "")
		n.Overwrite.V4 = netip.MustParseAddr("203.0.113.9")
		c.Put(n)
		time.Sleep(time.Minute)
		n.Subnet = sub("10.5.1.0/24")
		c.Put(n)
		time.Sleep(time.Minute)
		h.want(t, "10.5.1.0/24")
		says(t, c, "w1", "203.0.113.9")
	})
}
