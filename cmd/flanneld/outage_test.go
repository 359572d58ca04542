package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// outageLines is how many lines an outage may cost however long it lasts: how it begins,
// what it turns into, a claim of the lease, and its end.
const outageLines = 4

// outage runs a fault of etcd for so long, under pings between all pods, and
// checks that nobody is bothered: no ping is lost, no daemon ends, logs and
// processors stay quiet, and soon after the end a new host joins.
func (n *network) outage(length time.Duration, begin, end func()) {
	n.t.Helper()
	n.pause(slow(time.Second)) // what happened before is logged
	var logged []int
	var used []time.Duration
	for _, h := range n.nodes {
		logged = append(logged, strings.Count(h.daemon.Log(), "\n"))
		used = append(used, h.cpu())
	}
	n.witnessAll(func() {
		begin()
		n.pause(length)
		for i, h := range n.nodes {
			if code := h.daemon.ExitCode(); code != -1 {
				n.t.Errorf("%s ended with status %d", h.Name, code)
			}
			lines := strings.Count(h.daemon.Log(), "\n") - logged[i]
			if lines > outageLines {
				n.t.Errorf("%s logged %d lines in %s, want at most %d", h.Name, lines, length, outageLines)
			}
			cpu := (h.cpu() - used[i]).Seconds() / length.Seconds() * 100
			if cpu > 2 && !raceEnabled {
				n.t.Errorf("%s used %.1f %% of a processor", h.Name, cpu)
			}
		}
		end()
		newcomer := n.addNode(lab.HostOptions{}, n.nodes[0].args...)
		if n.kube != nil {
			newcomer.env = []string{"NODE_NAME=" + newcomer.Name}
			newcomer.createNode(newcomer.podCIDRs()...)
		}
		newcomer.start()
		newcomer.waitReady()
		newcomer.addPod()
		for _, h := range n.nodes {
			h.waitPeers(slow(5*time.Second), h.others()...)
		}
	})
	n.pingAll()
}

// pause is how long a fault lasts: time itself is what is tested.
func (n *network) pause(d time.Duration) {
	n.t.Helper()
	select {
	case <-time.After(d):
	case <-n.ctx.Done():
		n.t.Fatal(n.ctx.Err())
	}
}

func TestEtcdStopped(t *testing.T) { inParallel(t, slowVariants, testEtcdStopped) }

func testEtcdStopped(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	start := func() { check(t, n.etcd.Start(n.ctx)) }
	n.outage(15*time.Second, func() { n.etcd.Kill() }, start)
	n.outage(2*time.Minute, func() { n.etcd.Kill() }, start)
}

func TestEtcdUnreachable(t *testing.T) { inParallel(t, slowVariants, testEtcdUnreachable) }

func testEtcdUnreachable(t *testing.T, v variant) {
	for name, fault := range map[string]struct{ begin, end func(*proxy) }{
		"slow":   {func(p *proxy) { p.slow(2 * time.Second) }, func(p *proxy) { p.slow(0) }},
		"silent": {func(p *proxy) { p.let(false) }, func(p *proxy) { p.let(true) }},
		"reset": {
			func(p *proxy) { p.slow(2 * time.Second); p.reset() },
			func(p *proxy) { p.reset(); p.slow(0) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newConfigured(t, v, nil)
			p, url := n.startProxy(2000)
			for range 2 {
				n.addNode(lab.HostOptions{}, "-etcd-endpoints="+url).start()
			}
			n.readyWithPods()
			n.outage(15*time.Second, func() { fault.begin(p) }, func() { fault.end(p) })
		})
	}
}

// What happened while a host was cut off, and is forgotten by etcd since, is
// found by comparing everything.
func TestHistoryLost(t *testing.T) { inParallel(t, everyFamily, testHistoryLost) }

func testHistoryLost(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h := n.nodes[0]
	own := n.get(h.key()).value
	moves, goes := n.stranger("10.5.200.0/24", "192.168.0.200"), n.stranger("10.5.201.0/24", "192.168.0.201")
	n.putPeer(moves)
	n.putPeer(goes)
	h.waitPeers(soon, n.nodes[1].peer(), moves, goes)
	// Frozen, it keeps its connection, and misses the events all the same.
	check(t, h.daemon.Freeze())
	moved := n.stranger("10.5.200.0/24", "192.168.0.210")
	n.putPeer(moved)
	n.delete(goes.key())
	n.etcd.Kill()
	check(t, n.etcd.Start(n.ctx))
	check(t, n.admin.forget(n.ctx))
	check(t, h.daemon.Thaw())
	h.waitPeers(20*time.Second, n.nodes[1].peer(), moved)
	if now := n.get(h.key()); now == nil || now.value != own {
		t.Errorf("our own lease is %v", now)
	}
}

// All hosts claim their own subnets again, and no route is even touched.
func TestEtcdReplacedByEmptyOne(t *testing.T) {
	withWitness(t, everyFamily, testEtcdReplacedByEmptyOne)
}

func testEtcdReplacedByEmptyOne(t *testing.T, v variant) {
	n := newNetwork(t, 5, v, nil)
	before := make(map[*node]string)
	for _, h := range n.nodes {
		h.waitPeers(soon, h.others()...)
		before[h] = h.key()
	}
	routes, stop, err := n.nodes[0].WatchRoutes()
	check(t, err)
	defer stop()
	n.witnessAll(func() {
		check(t, n.etcd.Wipe(n.ctx))
		for _, h := range n.nodes {
			n.waitKey(soon, before[h], "the lease of "+h.Name, func(e *entry) bool {
				return e != nil && strings.Contains(e.value, fmt.Sprintf("%q", h.Addr.String()))
			})
		}
		n.pause(12 * time.Second) // longer than a vanished lease lingers
	})
	for _, h := range n.nodes {
		if h.key() != before[h] {
			t.Errorf("%s had %s and has %s", h.Name, before[h], h.key())
		}
		h.waitPeers(soon, h.others()...)
	}
	select {
	case r := <-routes:
		t.Errorf("the route to %s was changed", r)
	default:
	}
}

// A key whose time to live runs out is claimed again like one that is deleted.
func TestOwnKeyExpires(t *testing.T) { everyVariant(t, testOwnKeyExpires) }

func testOwnKeyExpires(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, peer := n.nodes[0], n.nodes[1]
	subnet, key := h.subnet(), h.key()
	n.witness(peer, h, func() {
		n.witness(h, peer, func() {
			revision := n.get(key).revision
			n.expire(key)
			n.waitKey(soon, key, "a full time to live", func(e *entry) bool {
				return e != nil && e.revision > revision+1 && e.ttl >= 86000*time.Second
			})
		})
	})
	if h.subnet() != subnet {
		t.Errorf("subnet %s, before %s", h.subnet(), subnet)
	}
}

func TestStatusDuringOutage(t *testing.T) { everyVariant(t, testStatusDuringOutage) }

func testStatusDuringOutage(t *testing.T, v variant) {
	n := newNetwork(t, 2, v, nil)
	h, other := n.nodes[0], n.nodes[1]
	n.etcd.Kill()
	n.wait(soon, "the status to say so", func() string {
		if s := h.daemon.Status(); !strings.Contains(s, ", etcd cannot be used since ") {
			return "status is " + s
		}
		return ""
	})
	start := time.Now()
	if code, err := other.daemon.Stop(soon); code != 0 || err != nil || time.Since(start) > slow(time.Second) {
		t.Errorf("stopped during the outage: exit status %d after %s, %v", code, time.Since(start), err)
	}
	check(t, n.etcd.Start(n.ctx))
	n.wait(soon, "the status to be as before", func() string {
		if s := h.daemon.Status(); strings.Contains(s, "etcd") {
			return "status is " + s
		}
		return ""
	})
}

// Of several endpoints, those that hang do not keep a host from starting.
func TestHungEndpoints(t *testing.T) { inParallel(t, slowVariants, testHungEndpoints) }

func testHungEndpoints(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	var urls []string
	for _, port := range []uint16{2001, 2002} {
		p, url := n.startProxy(port)
		p.let(false)
		urls = append(urls, url)
	}
	urls = append(urls, n.etcd.Endpoint())
	for range 3 { // each begins with an endpoint at random
		n.addNode(lab.HostOptions{}, "-etcd-endpoints="+strings.Join(urls, ",")).start()
	}
	for _, h := range n.nodes {
		n.wait(time.Minute, "READY of "+h.Name, func() string {
			select {
			case <-h.daemon.Notify.Ready():
				return ""
			default:
				return "it is not"
			}
		})
	}
}
