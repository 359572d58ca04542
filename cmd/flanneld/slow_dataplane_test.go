package main_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/lab"
)

// Programs that set up firewalls hold the lock of iptables for long. While our rules wait
// for it, routes to new peers are there as soon as on a host that does not wait for
// anything.
func TestRoutesDoNotWaitForTheLockOfIPTables(t *testing.T) {
	n := newConfigured(t, hostGW, nil)
	waits, control := n.addNode(lab.HostOptions{}, "-ip-masq", "-masq-mode=iptables"), n.addNode(lab.HostOptions{})
	waits.setIPTables("iptables-legacy")
	for _, h := range n.nodes {
		h.start()
		h.waitReady()
	}
	lock := must(os.OpenFile(filepath.Join(waits.Dir, "xtables.lock"), os.O_RDWR|os.O_CREATE, 0o600))(t)
	defer lock.Close()
	check(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	end := time.Now().Add(20 * time.Second)
	var spoiled time.Time
	rules := 0
	count, late := n.lateRoutes(waits, control, func() bool {
		if time.Now().After(end) {
			return false
		}
		if time.Since(spoiled) > 4*time.Second { // what is wanted is not tried ever more rarely
			spoiled = time.Now()
			rules++
			waits.run("env", "XTABLES_LOCKFILE="+filepath.Join(waits.Dir, "other.lock"), "iptables-legacy", "-t", "nat", "-F", "FLANNEL-POSTRTG")
		}
		return true
	})
	t.Logf("of %d routes these were late: %s; the rules were taken away %d times", count, late, rules)
	if len(late) > 2 { // a busy machine may have one of its own
		t.Error("routes wait for the lock")
	}
	if got := waits.xtRulesOf("nat"); strings.Contains(got, "MASQUERADE") {
		t.Errorf("the rules did not wait for the lock:\n%s", got)
	}
	check(t, unix.Flock(int(lock.Fd()), unix.LOCK_UN))
	n.wait(35*time.Second, "the rules to come back", func() string {
		if !strings.Contains(waits.xtRulesOf("nat"), "MASQUERADE") {
			return "they are not there"
		}
		return ""
	})
}

// xtRulesOf are the rules of a table of iptables-legacy, which is read without its lock.
func (h *node) xtRulesOf(table string) string {
	h.n.t.Helper()
	return h.run("env", "XTABLES_LOCKFILE="+filepath.Join(h.Dir, "other.lock"), "iptables-legacy-save", "-t", table)
}

// lateRoutes writes leases for as long as it should go on. It returns how many these were,
// and how much later than on the other host routes were there, where that is much.
func (n *network) lateRoutes(h, other *node, goOn func() bool) (count int, late []time.Duration) {
	n.t.Helper()
	const much = 700 * time.Millisecond
	var put [2]chan netip.Prefix
	var arrived [2]chan time.Time
	for i, h := range []*node{h, other} {
		routes, stop, err := h.WatchRoutes()
		check(n.t, err)
		defer stop()
		put[i], arrived[i] = make(chan netip.Prefix, 1), make(chan time.Time)
		defer close(put[i])
		go func() {
			for subnet := range put[i] {
				for r := range routes {
					if r == subnet.String() {
						break
					}
				}
				arrived[i] <- time.Now()
			}
		}()
	}
	for i := 0; goOn(); i++ {
		peer := stranger(fmt.Sprintf("10.5.%d.0/24", 1+i%250), fmt.Sprintf("192.168.0.%d", 100+i/250))
		if h.subnet() == peer.subnet || other.subnet() == peer.subnet {
			continue
		}
		count++
		n.putPeer(peer)
		put[0] <- peer.subnet
		put[1] <- peer.subnet
		if by := (<-arrived[0]).Sub(<-arrived[1]); by > much {
			late = append(late, by.Round(time.Millisecond))
		}
		time.Sleep(20 * time.Millisecond)
	}
	return count, late
}

// While EC2 takes eight seconds for each answer, what a host needs in its kernel is there
// as soon as where EC2 answers at once, and only READY waits.
func TestRulesDoNotWaitForEC2(t *testing.T) {
	t.Parallel()
	c := newCloud(t, etcdV3)
	c.configure(c.both())
	quick, slow := c.addInstance(c.first, "-ip-masq"), c.addInstance(c.first, "-ip-masq")
	rulesAfter := func(h *node) time.Duration {
		begin := time.Now()
		h.start()
		c.wait(cloudTime, "rules on "+h.Name, func() string {
			if !strings.Contains(h.packetRules(), "flannel-ipv4") {
				return "there are none"
			}
			return ""
		})
		return time.Since(begin)
	}
	control := rulesAfter(quick)
	quick.waitReady()
	c.SetDelay(8 * time.Second)
	waits := rulesAfter(slow)
	t.Logf("rules after %s, and after %s where EC2 answers at once", waits, control)
	if waits > 2*control+time.Second {
		t.Error("the rules wait for EC2")
	}
	begin := time.Now()
	check(t, slow.daemon.WaitReady(c.ctx))
	took := time.Since(begin) + waits
	t.Logf("ready after %s", took)
	if took < 16*time.Second {
		t.Error("ready before EC2 has answered")
	}
	if took > 24*time.Second { // a look and writes, each at the same time
		t.Error("READY waits for more calls than it needs")
	}
	c.SetDelay(0)
	c.waitRoutes(cloudTime, c.main, c.nodes)
}

// A program of iptables that hangs, when it is asked which variant it is, keeps nothing else
// waiting: others are told the host's new address as soon as it has one.
func TestLeaseDoesNotWaitForIPTables(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan, nil)
	h := n.addNode(lab.HostOptions{}, "-ip-masq", "-masq-mode=iptables")
	n.addNode(lab.HostOptions{})
	h.setIPTables("iptables-legacy")
	for _, h := range n.nodes {
		h.start()
		h.waitReady()
	}
	program := filepath.Join(h.Dir, "bin", "iptables")
	check(t, os.Remove(program))
	check(t, os.WriteFile(program, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o700))
	h.readdress("eth0", "192.168.0.88/24")
	h.waitAddress(slow(5*time.Second), "192.168.0.88")
}
