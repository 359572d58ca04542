package network

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/backend/awsvpc"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// cloud is a dataplane with routes in tables: all that could be this daemon's are said to
// be ours.
type cloud struct {
	mu     sync.Mutex
	have   state.Observed
	wanted state.Set // as it was told before the last dump
	gone   []string  // what was deleted
}

func (c *cloud) Dump(_ context.Context, want state.Set) (state.Observed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = maps.Clone(want)
	return maps.Clone(c.have), nil
}

func (c *cloud) Apply(_ context.Context, ops []state.Op) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, op := range ops {
		if op.Verb == state.Delete {
			delete(c.have, op.Key())
			c.gone = append(c.gone, op.Key().Prefix.String())
		} else {
			c.have[op.Key()] = state.Entry{Object: op.Want, Owner: state.Ours}
		}
	}
	return make([]error, len(ops))
}

func (*cloud) Watch(ctx context.Context, ready func(), _ func(dataplane.Event)) error {
	ready()
	<-ctx.Done()
	return ctx.Err()
}

// deleted returns what was deleted since the last call, in order.
func (c *cloud) deleted() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := c.gone
	c.gone = nil
	slices.Sort(gone)
	return gone
}

func cloudLease(cidr string) *subnet.Lease {
	return &subnet.Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix(cidr)), Attrs: subnet.Attrs{PublicIP: ip.Addrs{V4: peerAddr(2)}}}
}

// Of what is in a table, only that goes which is inside of a network of this daemon's,
// and of which there is no lease: neither one that is in force, for it is its holder's
// then, nor one that can't be read.
func TestCloudRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const table = "rtb-1"
		b, err := awsvpc.Type.New(json.RawMessage(`{"RouteTableID": "` + table + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		w := Desired{
			Backend: b, Config: testConfig, Host: testHost, Own: cloudLease("10.1.5.0/24"),
			Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.3.0.0/16")},
			Peers:    []*subnet.Lease{cloudLease("10.1.6.0/24")}, Unreadable: []ip.Subnet{cloudLease("10.1.7.0/24").Subnet},
		}
		c := &cloud{have: make(state.Observed)}
		for dst, owner := range map[string]state.Owner{
			"10.1.5.0/24": state.Ours, // this host's
			"10.1.6.0/24": state.Ours, // has a lease
			"10.1.7.0/24": state.Ours, // has a lease that can't be read
			"10.1.8.0/24": state.Ours,
			"10.3.1.0/24": state.Ours, // of an earlier network
			"10.1.0.0/16": state.Ours, // the network itself, which is no host's
			"10.1.9.9/32": state.Ours, // an address, for whatever purpose
			"10.9.0.0/24": state.Ours, // elsewhere
			"10.1.9.0/24": state.Foreign,
		} {
			r := state.CloudRoute{Table: table, Dst: netip.MustParsePrefix(dst), Host: peerAddr(9)}
			c.have[r.Key()] = state.Entry{Object: r, Owner: owner, Text: "a route"}
		}
		ctx, cancel := context.WithCancel(t.Context())
		r := NewReconciler(func(Status) {}, Plane{Dataplane: c})
		var g sync.WaitGroup
		g.Go(func() { _ = r.Run(ctx) })
		defer g.Wait()
		defer cancel()
		step := func(w Desired, want ...string) {
			t.Helper()
			r.SetDesired(w)
			time.Sleep(resync + time.Second)
			synctest.Wait()
			if got := c.deleted(); !slices.Equal(got, want) {
				t.Errorf("deleted %q, want %q", got, want)
			}
		}
		step(w, "10.1.8.0/24", "10.3.1.0/24")
		own := state.CloudRoute{Table: table, Dst: w.Own.Subnet.V4, Host: testHost.V4.Addr}
		if c.have[own.Key()].Object != own {
			t.Errorf("this host's route is %v", c.have[own.Key()].Object)
		}
		peer := state.CloudRoute{Table: table, Dst: w.Peers[0].Subnet.V4}
		if c.wanted[own.Key()] != own || c.wanted[peer.Key()] != peer {
			t.Errorf("the target was told of %v", c.wanted)
		}
		w.Unreadable = nil
		step(w, "10.1.7.0/24")
		w.Peers = nil
		step(w, "10.1.6.0/24")
		if c.wanted[peer.Key()] != nil {
			t.Errorf("the target was told of %v", c.wanted)
		}
	})
}
