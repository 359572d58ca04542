package main_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// witness pings from pod to pod every 2 ms while f runs; not one ping may be
// lost, but those that need a daemon that does not run.
func (n *network) witness(from, to *node, f func()) {
	n.t.Helper()
	stop := n.startWitness(from, to)
	f()
	stop()
}

// witnessAll is witness in a ring of all hosts, the other way round, too.
func (n *network) witnessAll(f func()) {
	n.t.Helper()
	var stops []func()
	for i, from := range n.nodes {
		stops = append(stops, n.startWitness(from, n.nodes[(i+1)%len(n.nodes)]))
	}
	f()
	for _, stop := range stops {
		stop()
	}
}

// startWitness has pings of each family bear witness until stop is called.
func (n *network) startWitness(from, to *node) (stop func()) {
	n.t.Helper()
	var stops []func()
	for _, f := range n.families.list() {
		stops = append(stops, n.startWitnessIn(f, from, to))
	}
	return func() {
		n.t.Helper()
		for _, stop := range stops {
			stop()
		}
	}
}

func (n *network) startWitnessIn(f ip.Family, from, to *node) (stop func()) {
	n.t.Helper()
	p, err := from.pod.StartPinger(to.pod.In(f).Addr, pingPeriod)
	check(n.t, err)
	before := backlogDrops(n.t)
	return func() {
		n.t.Helper()
		report := p.Stop()
		var excused, lost int
		for _, at := range report.LostAt {
			if n.backend.itself && (from.down(at) || to.down(at)) {
				excused++
			} else {
				lost++
			}
		}
		what := fmt.Sprintf("pod of %s to pod of %s by %s: %v", from.Name, to.Name, f, report)
		switch {
		case lost > 0 || report.Sent == 0:
			n.t.Errorf("%s; %d of them while daemons ran; on the whole machine, processors that were behind dropped %d packets",
				what, lost, backlogDrops(n.t)-before)
		case excused > 0:
			n.t.Logf("%s; no daemon ran meanwhile", what)
		}
	}
}

// backlogDrops is how many packets the kernel has dropped so far because more came
// in than a processor could look at. All namespaces have that queue in common.
func backlogDrops(t testing.TB) (all uint64) {
	t.Helper()
	for line := range strings.Lines(string(must(os.ReadFile("/proc/net/softnet_stat"))(t))) {
		if fields := strings.Fields(line); len(fields) > 1 {
			all += must(strconv.ParseUint(fields[1], 16, 64))(t)
		}
	}
	return all
}

// stream has a TCP connection of pods carry data before, while and after f runs.
func (h *node) stream(to *node, f func()) {
	h.n.t.Helper()
	s := h.pod.StartStream(h.n.ctx, to.pod)
	more := func(bytes int64) {
		h.n.t.Helper()
		before := s.Sent()
		h.n.wait(time.Minute, "a transfer to go on", func() string {
			if sent := s.Sent() - before; sent < bytes {
				return fmt.Sprintf("%d bytes were sent", sent)
			}
			return ""
		})
	}
	more(10 << 20)
	f()
	more(32 << 20)
	check(h.n.t, s.Finish())
}

// down tells whether a ping sent then may not have been answered before the
// daemon ended, or found none that was ready.
func (h *node) down(then time.Time) bool {
	onItsWay := slow(20 * time.Millisecond)
	for i, d := range h.past {
		ended := d.ToldToEnd()
		if ended.IsZero() || then.Before(ended.Add(-onItsWay)) {
			continue
		}
		if i+1 == len(h.past) || then.Before(readyAt(h.past[i+1])) {
			return true
		}
	}
	return false
}

// readyAt is when a daemon was ready, which is at the end of time if it never
// was.
func readyAt(d *lab.Daemon) time.Time {
	if at := d.Notify.ReadyAt(); !at.IsZero() {
		return at
	}
	return time.Now().Add(time.Hour)
}
