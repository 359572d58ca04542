package network

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane"
)

// lines returns what test logs, without the headers of the lines.
func lines(t *testing.T, test func(*fixture)) []string {
	t.Helper()
	var log bytes.Buffer // klog writes under a lock
	klog.SetOutput(&log)
	defer klog.SetOutput(io.Discard)
	fakeClock(t, test)
	klog.Flush()
	var all []string
	for line := range strings.Lines(log.String()) {
		_, text, _ := strings.Cut(line, "] ")
		all = append(all, strings.TrimSuffix(text, "\n"))
	}
	return all
}

func TestEachChangeIsLoggedOnce(t *testing.T) {
	got := lines(t, func(r *fixture) {
		r.check(r.fake.AddRoute(static(route(3, 9))))
		r.fake.Refuse(route(1, 1).Key(), errRefused)
		r.start()
		r.SetDesired(desire(lease(1, 1), lease(2, 2), lease(3, 3)))
		r.pass(time.Hour)
		r.fake.Refuse(route(1, 1).Key(), nil)
		r.pass(time.Hour)
		r.check(r.fake.DelRoute(ours(route(2, 2))))
		r.pass(time.Hour)
		r.SetDesired(desire(lease(1, 2), lease(2, 2), lease(3, 3)))
		r.pass(time.Hour)
		r.SetDesired(desire(lease(2, 2), lease(3, 3)))
		r.pass(time.Hour)
	})
	want := []string{
		"route 10.0.0.2/32 via 192.168.1.2 dev eth0: added",
		"adding route 10.0.0.1/32 via 192.168.1.1 dev eth0: refused",
		"route 10.0.0.3/32 via 192.168.1.3 dev eth0: in its place is something that is not ours, to be removed by hand: 10.0.0.3/32 via 192.168.1.9 dev eth0 proto 4",
		"route 10.0.0.1/32 via 192.168.1.1 dev eth0: added",
		"route 10.0.0.1/32 via 192.168.1.1 dev eth0: in place now",
		"route 10.0.0.2/32 via 192.168.1.2 dev eth0: restored",
		"route 10.0.0.1/32 via 192.168.1.2 dev eth0: changed",
		"route 10.0.0.1/32 via 192.168.1.2 dev eth0: deleted",
	}
	rest := got
	for _, line := range want {
		at := -1
		for i, l := range rest {
			if l == line {
				at = i
			}
		}
		if at < 0 {
			t.Errorf("not logged, or not just once: %s", line)
			continue
		}
		rest = append(rest[:at:at], rest[at+1:]...)
	}
	for _, l := range rest {
		t.Errorf("logged, too: %s", l)
	}
}

func TestDumpsThatFailAreLoggedOnce(t *testing.T) {
	got := lines(t, func(r *fixture) {
		r.fake.InterruptDumps(60)
		r.start()
		r.SetDesired(desire())
		r.pass(time.Hour)
	})
	if len(got) != 1 || !strings.Contains(got[0], "interrupted") {
		t.Errorf("logged %q", got)
	}
}

// While it is not known what there is, the status says so, and not that all is well; a dump that
// fails once says nothing.
func TestStatusOfDumpsThatFail(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		unread := func() string {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.status.Unread
		}
		r.start()
		r.SetDesired(desire(lease(2, 2)))
		r.pass(time.Second)
		for dumps, want := range map[int]bool{1: false, 5: true} {
			r.fake.InterruptDumps(dumps)
			r.check(r.fake.DelRoute(ours(route(2, 2))))
			r.pass(3 * time.Second)
			if why := unread(); (why != "") != want {
				t.Errorf("during %d dumps that fail the status says %q", dumps, why)
			}
			r.pass(time.Minute)
			if why := unread(); why != "" {
				t.Errorf("after %d dumps that failed the status says %q", dumps, why)
			}
		}
	})
}

// A failure that has come and gone again and again is logged if it stays.
func TestFailureThatStaysIsLoggedAfterManyThatDidNot(t *testing.T) {
	const flaps = 9
	got := lines(t, func(r *fixture) {
		k := route(1, 1).Key()
		r.start()
		r.SetDesired(desire(lease(1, 1)))
		r.pass(time.Hour)
		for range flaps {
			r.fake.Refuse(k, errRefused)
			r.check(r.fake.DelRoute(ours(route(1, 1))))
			r.pass(5 * time.Second)
			r.fake.Refuse(k, nil)
			r.pass(time.Minute / 2)
		}
		r.fake.Refuse(k, errRefused)
		r.check(r.fake.DelRoute(ours(route(1, 1))))
		r.pass(time.Hour)
	})
	bad, good, last := 0, 0, ""
	for _, line := range got {
		switch {
		case strings.HasSuffix(line, ": refused"):
			bad++
			last = line
		case strings.HasSuffix(line, ": in place now"):
			good++
			last = line
		}
	}
	if !strings.HasSuffix(last, ": refused") {
		t.Errorf("the last that is said of it is %q", last)
	}
	if bad >= flaps || bad != good+1 {
		t.Errorf("the failure is logged %d times, its end %d times:\n%s", bad, good, strings.Join(got, "\n"))
	}
}

// So are those that fail now and then.
func TestDumpsThatFailAgainAndAgainAreLoggedRarely(t *testing.T) {
	got := lines(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire())
		r.pass(time.Second)
		for range 20 {
			r.fake.InterruptDumps(1)
			r.loops[0].notice(dataplane.Event{Lost: true})
			r.pass(10 * time.Minute / 20)
		}
	})
	bad := 0
	for _, line := range got {
		if strings.Contains(line, "interrupted") {
			bad++
		}
	}
	if bad < 1 || bad > 5 {
		t.Errorf("logged %d times: %q", bad, got)
	}
}

// So is a lease that can be made nothing of, without another change.
func TestUnusableLeaseThatStaysIsLoggedAfterManyThatDidNot(t *testing.T) {
	const flaps = 9
	garbled := vxlanLease(1, 1)
	garbled.BackendData = "{}"
	const marker = "it stays"
	got := lines(t, func(r *fixture) {
		r.start()
		for range flaps {
			r.SetDesired(vxlanDesired(garbled))
			r.pass(time.Second)
			r.SetDesired(vxlanDesired(vxlanLease(1, 1)))
			r.pass(time.Second)
		}
		r.SetDesired(vxlanDesired(garbled))
		r.pass(time.Minute)
		klog.Info(marker)
		r.pass(time.Hour)
	})
	bad, late := 0, -1 // since it stays
	for _, line := range got {
		switch {
		case line == marker:
			late = 0
		case strings.HasPrefix(line, peerSubnet(1).String()+": "):
			bad++
			if late >= 0 {
				late++
			}
		}
	}
	if late != 1 || bad >= flaps {
		t.Errorf("logged %d times, and %d since it stays:\n%s", bad, late, strings.Join(got, "\n"))
	}
}

// What someone takes away again and again is not logged each time, also if a pass finds it
// gone and cannot have it; what is new meanwhile is.
func TestConflictIsNotLoggedEachTime(t *testing.T) {
	got := lines(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(2, 2)))
		r.pass(time.Second)
		for range 2 * conflictAfter {
			r.check(r.fake.DelRoute(ours(route(2, 2))))
			r.pass(conflictPause)
		}
		r.fake.Refuse(route(2, 2).Key(), errRefused)
		r.check(r.fake.DelRoute(ours(route(2, 2))))
		r.pass(conflictPause + failureDebounce/2)
		r.fake.Refuse(route(2, 2).Key(), nil)
		r.pass(conflictPause)
		r.SetDesired(desire(lease(2, 2), lease(3, 3)))
		r.pass(conflictPause)
	})
	count := func(text string) (n int) {
		for _, l := range got {
			if strings.Contains(l, text) {
				n++
			}
		}
		return n
	}
	if n := count("10.0.0.2/32 via 192.168.1.2 dev eth0: added"); n != 1 {
		t.Errorf("it is added %d times: %q", n, got)
	}
	if count("keeps changing what is ours") == 0 || count("10.0.0.3/32 via 192.168.1.3 dev eth0: added") != 1 {
		t.Errorf("logged is %q", got)
	}
}

// What is wanted otherwise while someone takes it away again and again is logged.
func TestChangeInConflictIsLogged(t *testing.T) {
	got := lines(t, func(r *fixture) {
		r.start()
		r.SetDesired(desire(lease(2, 2)))
		r.pass(time.Second)
		for range 2 * conflictAfter {
			r.check(r.fake.DelRoute(ours(route(2, 2))))
			r.pass(conflictPause)
		}
		r.SetDesired(desire(lease(2, 9)))
		r.pass(conflictPause)
	})
	if n := strings.Count(strings.Join(got, "\n"), "10.0.0.2/32 via 192.168.1.9 dev eth0: changed"); n != 1 {
		t.Errorf("that it leads elsewhere now is logged %d times: %q", n, got)
	}
}
