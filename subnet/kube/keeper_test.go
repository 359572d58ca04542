package kube

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// keeping is a keeper that runs.
type keeping struct {
	mu      sync.Mutex
	holding subnet.Holding
	waiting string
	down    error
}

// keep runs the keeper of a Node, whose host has a public address.
func keep(t *testing.T, r *room, s *Store, name, public string) *keeping {
	t.Helper()
	h := &keeping{}
	locked := func(do func()) {
		h.mu.Lock()
		defer h.mu.Unlock()
		do()
	}
	k := &subnet.Keeper{
		Store: s, Margin: time.Hour,
		Prepare: func(_ context.Context, _ *subnet.Config, seen subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			a := *peer(name, "", public).Says
			a.Machine = r.node(name)
			if over := seen.Own.Overwrite; over.V4.IsValid() {
				a.PublicIP = over
			}
			return a, nil, nil
		},
		Changed:   func(is subnet.Holding) { locked(func() { h.holding = is }) },
		Waiting:   func(text string) { locked(func() { h.waiting = text }) },
		StoreDown: func(err error) { locked(func() { h.down = err }) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = k.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return h
}

// until waits until something is so, and returns how long that took.
func (h *keeping) until(t *testing.T, what string, is func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for {
		h.mu.Lock()
		done, waiting, own, down := is(), h.waiting, h.holding.Own, h.down
		h.mu.Unlock()
		switch {
		case done:
			return time.Since(begin)
		case time.Since(begin) > patience:
			t.Fatalf("waited in vain until %s: it waits for %q, and holds %+v; down: %v", what, waiting, own, down)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A host waits for each thing that it needs, has a subnet once all is there, and keeps its
// Node as it should be.
func TestKeeper(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	r := newRoom(t, server)
	s := r.open("w1")
	var listed atomic.Int32
	s.onList = func() { listed.Add(1) }
	h := keep(t, r, s, "w1", "192.0.2.1")
	waits := func(text string) {
		t.Helper()
		h.until(t, "it waits for "+text, func() bool { return strings.Contains(h.waiting, text) })
	}
	holds := func(cidr string) time.Duration {
		t.Helper()
		return h.until(t, "it holds "+cidr, func() bool {
			return h.holding.Own != nil && h.holding.Own.Subnet == sub(cidr) && h.holding.Holder == ""
		})
	}
	published := func(public string) {
		t.Helper()
		took := h.until(t, "the Node says "+public, func() bool {
			is, err := r.Node(t.Context(), r.node("w1"))
			return err == nil && is.Annotations[r.names[publicIP]] == public && is.Annotations[r.names[managed]] == "true"
		})
		t.Logf("the Node says %s after %s", public, took.Round(time.Millisecond))
	}
	waits(r.conf)
	r.setConfig(`{"Network":"10.5.0.0/16","SubnetLen":16,"Backend":{"Type":"vxlan"}}`)
	waits("there is no Node " + r.node("w1"))
	r.put(subnettest.Node{Name: "w1"})
	waits("has no podCIDR")
	listings := listed.Load()
	time.Sleep(3 * time.Second)
	if now := listed.Load(); now != listings {
		t.Errorf("while it waits it lists all Nodes: %d times, and then %d", listings, now)
	}
	is := must(r.Node(t.Context(), r.node("w1")))(t)
	if len(is.Annotations) > 0 {
		t.Errorf("it says %v already", is.Annotations)
	}
	r.put(subnettest.Node{Name: "w1", Subnet: sub("10.5.1.0/24")})
	t.Logf("it has its subnet after %s", holds("10.5.1.0/24").Round(time.Millisecond))
	published("192.0.2.1")

	r.note("w1", map[key]any{managed: nil, backendType: nil, backendData: nil, publicIP: nil})
	published("192.0.2.1")
	time.Sleep(retryMost)
	r.note("w1", map[key]any{publicIP: "192.0.2.99"})
	published("192.0.2.1")
	r.note("w1", map[key]any{publicIPOverwrite: "203.0.113.7"})
	published("203.0.113.7")

	// Deleted, and made again as it was; then with another podCIDR.
	r.remove("w1")
	time.Sleep(time.Second)
	holds("10.5.1.0/24")
	r.put(subnettest.Node{Name: "w1", Subnet: sub("10.5.1.0/24")})
	published("192.0.2.1")
	r.put(subnettest.Node{Name: "w1", Subnet: sub("10.5.7.0/24")})
	holds("10.5.7.0/24")
	published("192.0.2.1")

	// An outage is told, and over.
	server.Kill()
	r.proxy.Cut()
	h.until(t, "the outage is told", func() bool { return h.down != nil })
	holds("10.5.7.0/24")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	check(t, server.Start(ctx))
	r.put(peer("w2", "10.5.2.0/24", "192.0.2.2"))
	took := h.until(t, "the others are followed again", func() bool {
		return h.down == nil && h.holding.Snapshot.Find(sub("10.5.2.0/24")) != nil
	})
	t.Logf("after the outage it follows others after %s", took.Round(time.Millisecond))
}

// retryMost is how long a daemon may take to write its Node again that others keep changing.
const retryMost = 3 * time.Second
