package notice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// times runs f each period, and returns when it returned true, as seconds.
func times(period, during time.Duration, f func() bool) (logged []int) {
	begin := time.Now()
	for ; time.Since(begin) < during; time.Sleep(period) {
		if f() {
			logged = append(logged, int(time.Since(begin).Seconds()))
		}
	}
	return logged
}

// every returns n multiples of period, from 0 on.
func every(period, n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i * period
	}
	return all
}

func TestState(t *testing.T) {
	for name, c := range map[string]struct {
		period, during time.Duration
		state          func(l *Log) func() bool
		want           []int
	}{
		"what lasts": {time.Second, 2 * time.Hour, func(l *Log) func() bool {
			return func() bool { return l.State("x", "bad") }
		}, []int{0, 600, 1800, 4200}},
		"what is seen by a look every now and then": {5 * time.Minute, 2 * time.Hour, func(l *Log) func() bool {
			return func() bool { return l.State("x", "bad") }
		}, []int{0, 600, 1800, 4200}},
		"two that take turns": {time.Second, time.Hour, func(l *Log) func() bool {
			i := 0
			return func() bool { i++; return l.State("x", fmt.Sprint("bad ", i%2)) }
		}, []int{0, 1, 600, 601, 1800, 1801}},
		"what comes and goes": {time.Second, 45 * time.Minute, func(l *Log) func() bool {
			return func() bool {
				logged := l.State("x", "bad")
				if over := l.Over("x"); over != logged {
					panic("the end is logged, and not the beginning, or the reverse")
				}
				return logged
			}
		}, []int{0, 1, 2, 600, 1200, 1800, 2400}},
		"what is different each time": {10 * time.Second, 25 * time.Minute, func(l *Log) func() bool {
			i := 0
			return func() bool { i++; return l.State("x", fmt.Sprint("bad ", i)) }
		}, append(every(10, 60), 600, 1200)},
		"a port of ours": {time.Second, 30 * time.Minute, func(l *Log) func() bool {
			i := 0
			return func() bool { i++; return l.State("x", fmt.Sprintf("read tcp 192.0.2.1:%d->192.0.2.2:2379: reset", i)) }
		}, []int{0, 600}},
		"what is rare": {20 * time.Minute, 61 * time.Minute, func(l *Log) func() bool {
			return func() bool { return l.State("x", "bad") }
		}, []int{0, 1200, 2400, 3600}},
		"events": {time.Second, 25 * time.Minute, func(l *Log) func() bool {
			return func() bool { return l.Event("again") }
		}, []int{0, 1, 2, 600, 1200}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := times(c.period, c.during, c.state(new(Log))); !slices.Equal(got, c.want) {
					t.Errorf("logged after %v seconds, want %v", got, c.want)
				}
			})
		})
	}
}

func TestMemoryBounded(t *testing.T) {
	var l Log
	for i := range 3 * most {
		l.Event(fmt.Sprint(i))
		l.State(fmt.Sprint(i), "x")
	}
	if len(l.messages) > most || len(l.topics) > most {
		t.Errorf("%d messages and %d topics are remembered", len(l.messages), len(l.topics))
	}
}

func TestSum(t *testing.T) {
	var many []string
	for i := range 140 {
		many = append(many, fmt.Sprintf("route 10.5.%d.0/24 via 192.168.0.%d: in the way", i, i))
	}
	want := []string{"a", "route 10.5.0.0/24 via 192.168.0.0: in the way; route 10.5.1.0/24 via 192.168.0.1: in the way; route 10.5.2.0/24 via 192.168.0.2: in the way; and 137 more", "b"}
	if got := Sum(slices.Concat([]string{"a"}, many, []string{"b"})); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	long := strings.Repeat("route 10.5.9.0/24; ", 22)
	want = []string{long + "1", long + "2", long + "3; and 1 more"}
	if got := Sum([]string{long + "1", long + "2", long + "3", long + "4"}); !slices.Equal(got, want) {
		t.Errorf("of long texts comes %q, want %q", got, want)
	}
	if got := Sum(nil); len(got) > 0 {
		t.Errorf("of nothing comes %q", got)
	}
}

// Many things that happen again and again are the same, whichever of them are named.
func TestManyAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var all []string
		lines := func() []string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}
		g := Gather{Logf: func(format string, a ...any) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, fmt.Sprintf(format, a...))
		}}
		for i := range 100 {
			time.Sleep(2 * time.Second)
			g.Add(fmt.Sprintf("route 10.5.%d.0/24; route 10.5.%d.0/24; and %d more: added", i, i+1, 130+i%7))
		}
		if logged := lines(); len(logged) != alike {
			t.Errorf("%d lines: %q", len(logged), logged)
		}
		time.Sleep(2 * moment)
		g.Add("route 10.6.1.0/24: added") // is news all the same
		if logged := lines(); len(logged) != alike+1 {
			t.Errorf("%d lines with another one: %q", len(logged), logged)
		}
		// What was not logged is, once, with how often it was, and the latest of it.
		time.Sleep(pauseFirst)
		want := "route 10.5.99.0/24; route 10.5.100.0/24; and 131 more: added (97 times within 10m0s)"
		if logged := lines(); len(logged) != alike+2 || logged[alike+1] != want {
			t.Errorf("logged later: %q, want %q", logged[alike:], want)
		}
		time.Sleep(time.Hour)
		g.Stop()
		if logged := lines(); len(logged) != alike+2 {
			t.Errorf("logged in the end: %q", logged)
		}
	})
}

// A few things that happen again and again are the same, whichever of them do so together.
func TestFewAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := 0
		g := Gather{Logf: func(string, ...any) { lines++ }}
		things := []string{"device flannel0", "address 10.5.1.0/32", "tunnel of flannel0", "route 10.5.0.0/16"}
		for i := range 120 {
			time.Sleep(2 * moment)
			var some []string
			for k, thing := range things {
				if (i%15+1)>>k&1 == 1 {
					some = append(some, thing)
				}
			}
			g.Add(strings.Join(some, "; ") + ": restored")
		}
		if lines > alike*len(things) {
			t.Errorf("%d lines about %d things", lines, len(things))
		}
		time.Sleep(2 * moment)
		before := lines
		g.Add("device flannel0; route 10.6.0.0/16: restored") // one of them is news
		if lines != before+1 {
			t.Errorf("%d more lines", lines-before)
		}
		g.Stop()
	})
}

// However often something came and went, what is logged last is how it is.
func TestLastWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last string
		g := Gather{Logf: func(format string, a ...any) { last = fmt.Sprintf(format, a...) }}
		for range 7 {
			for _, text := range []string{"route 10.5.1.0/24: deleted", "route 10.5.1.0/24: added"} {
				time.Sleep(2 * time.Second)
				g.Add(text)
			}
		}
		g.Add("route 10.5.1.0/24: deleted")
		time.Sleep(pauseFirst)
		synctest.Wait()
		if want := "route 10.5.1.0/24: deleted"; !strings.HasPrefix(last[strings.LastIndex(last, "route"):], want) {
			t.Errorf("the last word is %q", last)
		}
		g.Stop()
	})
}

// What is tried again says so once, rests between, and ends with its context or when it is done.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log Log
		var logged []string
		logf := func(format string, a ...any) { logged = append(logged, fmt.Sprintf(format, a...)) }
		began, tries := time.Now(), 0
		try := func() error {
			if tries++; tries%4 == 0 {
				return nil
			}
			return errors.New("it is gone")
		}
		if err := log.Again(t.Context(), time.Second, logf, "watching", try); err != nil || tries != 4 || time.Since(began) != 3*time.Second {
			t.Errorf("it ended after %d tries and %s: %v", tries, time.Since(began), err)
		}
		if len(logged) != 1 || logged[0] != "watching, trying again: it is gone" {
			t.Errorf("logged %q", logged)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		if err := log.Again(ctx, time.Second, logf, "watching", try); !errors.Is(err, context.DeadlineExceeded) || tries != 6 {
			t.Errorf("it ended after %d tries more: %v", tries-4, err)
		}
	})
}
