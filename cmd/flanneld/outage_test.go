package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/lab"
)

// outage runs a fault of etcd for so long, under pings between all pods, and
// checks that nobody is bothered: no ping is lost, no daemon ends, logs and
// processors stay quiet, and soon after the end a new host joins.
func (n *network) outage(length time.Duration, begin, end func()) {
	n.t.Helper()
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
			if most := 1 + int(length/(10*time.Second)); lines > most {
				n.t.Errorf("%s logged %d lines in %s, want at most %d", h.Name, lines, length, most)
			}
			cpu := (h.cpu() - used[i]).Seconds() / length.Seconds() * 100
			if cpu > 2 && !raceEnabled {
				n.t.Errorf("%s used %.1f %% of a processor", h.Name, cpu)
			}
		}
		end()
		newcomer := n.addNode(lab.HostOptions{}, n.nodes[0].args...)
		newcomer.start()
		newcomer.waitReady()
		newcomer.addPod()
		for _, h := range n.nodes {
			h.waitRoutes(slow(5*time.Second), h.routesToOthers()...)
		}
	})
	n.pingAll()
}

// witnessAll is witness in a ring of all hosts, the other way round, too.
func (n *network) witnessAll(f func()) {
	n.t.Helper()
	var pingers []*lab.Pinger
	for i, from := range n.nodes {
		to := n.nodes[(i+1)%len(n.nodes)]
		p, err := from.pod.StartPinger(to.pod.Addr, pingPeriod)
		check(n.t, err)
		pingers = append(pingers, p)
	}
	f()
	for _, p := range pingers {
		if report := p.Stop(); report.Lost > 0 || report.Sent == 0 {
			n.t.Errorf("%v", report)
		}
	}
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

func TestEtcdStopped(t *testing.T) {
	n := newNetwork(t, 2, hostGW)
	start := func() { check(t, n.etcd.Start(n.ctx)) }
	n.outage(15*time.Second, func() { n.etcd.Kill() }, start)
	n.outage(2*time.Minute, func() { n.etcd.Kill() }, start)
}

func TestEtcdUnreachable(t *testing.T) {
	for name, fault := range map[string]struct{ begin, end func(*proxy) }{
		"slow":   {func(p *proxy) { p.slow(2 * time.Second) }, func(p *proxy) { p.slow(0) }},
		"silent": {func(p *proxy) { p.let(false) }, func(p *proxy) { p.let(true) }},
		"reset": {
			func(p *proxy) { p.slow(2 * time.Second); p.reset() },
			func(p *proxy) { p.reset(); p.slow(0) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newLab(t)
			n.startEtcd(lab.EtcdOptions{})
			n.put("config", hostGW)
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
func TestHistoryLost(t *testing.T) {
	n := newNetwork(t, 2, hostGW)
	h := n.nodes[0]
	own := n.get(h.key()).Value
	n.put("subnets/10.5.200.0-24", `{"PublicIP":"192.168.0.200","BackendType":"host-gw"}`)
	n.put("subnets/10.5.201.0-24", `{"PublicIP":"192.168.0.201","BackendType":"host-gw"}`)
	h.waitRoutes(soon, sorted(routeTo(n.nodes[1]), "10.5.200.0/24 via 192.168.0.200", "10.5.201.0/24 via 192.168.0.201")...)
	// Frozen, it keeps its connection, and misses the events all the same.
	check(t, h.daemon.Freeze())
	n.put("subnets/10.5.200.0-24", `{"PublicIP":"192.168.0.210","BackendType":"host-gw"}`)
	n.delete("subnets/10.5.201.0-24")
	n.etcd.Kill()
	check(t, n.etcd.Start(n.ctx)) // with an empty history
	for i := range 1100 {
		_, err := n.keys().Set(n.ctx, "/other/key", fmt.Sprint(i), nil)
		check(t, err)
	}
	check(t, h.daemon.Thaw())
	h.waitRoutes(20*time.Second, sorted(routeTo(n.nodes[1]), "10.5.200.0/24 via 192.168.0.210")...)
	if now := n.get(h.key()); now == nil || now.Value != own {
		t.Errorf("our own lease is %v", now)
	}
}

// All hosts claim their own subnets again, and no route is even touched.
func TestEtcdReplacedByEmptyOne(t *testing.T) {
	n := newNetwork(t, 5, hostGW)
	before := make(map[*node]string)
	for _, h := range n.nodes {
		h.waitRoutes(soon, h.routesToOthers()...)
		before[h] = h.key()
	}
	routes, stop, err := n.nodes[0].WatchRoutes()
	check(t, err)
	defer stop()
	n.witnessAll(func() {
		check(t, n.etcd.Wipe(n.ctx))
		for _, h := range n.nodes {
			n.wait(soon, "the lease of "+h.Name, func() string {
				k := n.get(before[h])
				if k == nil || !strings.Contains(k.Value, fmt.Sprintf("%q", h.Addr.String())) {
					return fmt.Sprintf("it is %v", k)
				}
				return ""
			})
		}
		n.pause(12 * time.Second) // longer than a vanished lease lingers
	})
	for _, h := range n.nodes {
		if h.key() != before[h] {
			t.Errorf("%s had %s and has %s", h.Name, before[h], h.key())
		}
		h.waitRoutes(0, h.routesToOthers()...)
	}
	select {
	case r := <-routes:
		t.Errorf("the route to %s was changed", r)
	default:
	}
}

func TestManyStartAtOnce(t *testing.T) {
	const hosts = 40
	n := newLab(t)
	n.startEtcd(lab.EtcdOptions{})
	// Just as many subnets as hosts.
	n.put("config", fmt.Sprintf(`{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.%d.0","Backend":{"Type":"host-gw"}}`, hosts))
	for range hosts {
		n.addNode(lab.HostOptions{})
	}
	begin := time.Now()
	for _, h := range n.nodes {
		h.start()
	}
	for _, h := range n.nodes {
		h.waitReady()
	}
	took := time.Since(begin)
	t.Logf("all ready after %s", took)
	if took > slow(5*time.Second) {
		t.Errorf("%d hosts took %s", hosts, took)
	}
	seen := make(map[string]string)
	for _, h := range n.nodes {
		if other, ok := seen[h.key()]; ok {
			t.Errorf("%s and %s both have %s", h.Name, other, h.key())
		}
		seen[h.key()] = h.Name
		h.waitRoutes(soon, h.routesToOthers()...)
	}

	t.Log("one too many")
	late := n.addNode(lab.HostOptions{})
	late.start()
	late.waitLog(fmt.Sprintf("no free subnet: all %d of length /24 from 10.5.1.0 to 10.5.%d.0 in Network 10.5.0.0/16 are taken", hosts, hosts))
	freed := n.nodes[7]
	freed.daemon.Kill()
	begin = time.Now()
	n.delete(freed.key())
	late.waitReady()
	if took := time.Since(begin); took > slow(2*time.Second) {
		t.Errorf("the freed subnet was taken after %s", took)
	}
	if late.key() != freed.key() {
		t.Errorf("got %s, free was %s", late.key(), freed.key())
	}
}

// A key whose time to live runs out is claimed again like one that is deleted.
func TestOwnKeyExpires(t *testing.T) {
	n := newNetwork(t, 2, hostGW)
	h, peer := n.nodes[0], n.nodes[1]
	subnet, key := h.subnet(), h.key()
	n.witness(peer, h, func() {
		n.witness(h, peer, func() {
			revision := n.get(key).ModifiedIndex
			_, err := n.keys().Set(n.ctx, keyPrefix+"/"+key, n.get(key).Value, &client.SetOptions{TTL: time.Second})
			check(t, err)
			n.wait(soon, "a full time to live", func() string {
				k := n.get(key)
				if k == nil || k.ModifiedIndex <= revision+1 || k.TTL < 86000 {
					return fmt.Sprintf("it is %+v", k)
				}
				return ""
			})
		})
	})
	if h.subnet() != subnet {
		t.Errorf("subnet %s, before %s", h.subnet(), subnet)
	}
}
