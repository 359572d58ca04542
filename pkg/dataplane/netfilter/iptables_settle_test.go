package netfilter

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/state"
)

// Nothing is written for a while after others have changed something. If they do not stop, it
// is written all the same in the end, sooner where it cannot meet what they are at.
func TestDebounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := debounce{quiet: quietFor}
		settled := func(want, guarded bool) {
			t.Helper()
			if now := time.Now(); d.settled(now, false) != want || d.settled(now, true) != guarded {
				t.Errorf("settled is %t, and %t if guarded", d.settled(now, false), d.settled(now, true))
			}
		}
		d.observe("", false, time.Now())
		settled(true, true) // of what was before nobody knows
		d.observe("a", false, time.Now())
		settled(true, true) // there was no table
		d.expect("b")
		d.observe("b", false, time.Now())
		settled(true, true) // it was us
		d.observe("c", false, time.Now())
		settled(false, false)
		time.Sleep(quietFor - 1)
		settled(false, false)
		if due := time.Until(d.due()); due != 1 {
			t.Errorf("it is due in %s", due)
		}
		time.Sleep(time.Nanosecond)
		settled(true, true)

		start := time.Now()
		for i := 0; time.Since(start) < quietLast*quietFor; i++ {
			d.observe(string(rune('d'+i%2)), false, time.Now())
			if waited := time.Since(start); waited < quietMost*quietFor {
				settled(false, false)
			} else {
				settled(false, true)
			}
			time.Sleep(quietFor / 4)
		}
		d.observe("z", false, time.Now())
		settled(true, true)
		// Someone who flushes the table again and again is not to be met.
		time.Sleep(quietFor)
		start = time.Now()
		for i := 0; time.Since(start) < quietLast*quietFor; i++ {
			d.observe(string(rune('d'+i%3)), i%3 == 0, time.Now())
			settled(false, false)
			time.Sleep(quietFor / 4)
		}
		d.observe("z", false, time.Now())
		settled(true, true)
	})
}

// Another program that wants the last place, too, gets it for longer and longer.
func TestMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m moves
		var pauses []time.Duration
		for range 12 {
			m.add(time.Now(), "iptables-nft", "-j THEIRS")
			pause := max(0, time.Until(m.next))
			pauses = append(pauses, pause)
			time.Sleep(pause + quietFor)
		}
		if pauses[0] != 0 || pauses[1] != 0 || pauses[2] != movePause || pauses[3] != 2*movePause || pauses[11] != moveMost {
			t.Errorf("it rests for %s", pauses)
		}
		time.Sleep(3 * moveMost)
		if m.add(time.Now(), "iptables-nft", "-j THEIRS"); time.Now().Before(m.next) {
			t.Errorf("long after that, it rests for %s", time.Until(m.next))
		}
	})
}

// A target that is watched writes nothing while others are at work, and takes what was there
// before for what there is; then it tells.
func TestIPTablesSettling(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		dataplanetest.NeedNetns(t)
		h := freshIPTables(t, way)
		h.do(t, "-A FORWARD -i lo -j ACCEPT")
		rules, want := New(true), way.wish()
		told := make(chan dataplane.Event, 100)
		watch(t, rules, func(e dataplane.Event) { told <- e })
		ops, _ := dataplanetest.Steps(want, nil)
		for i, err := range rules.Apply(t.Context(), ops) {
			if err != nil {
				t.Fatalf("%s, with nobody at work: %v", ops[i], err)
			}
		}
		start := time.Now()
		h.do(t, "-F\n-X")
		for _, err := range rules.Apply(t.Context(), ops) {
			if took := time.Since(start); took < quietFor && err != nil && !errors.Is(err, dataplane.ErrSettling) {
				t.Errorf("after %s: %v", took, err)
			}
		}
		if text := h.rules(t); strings.Contains(text, fwdChain) && time.Since(start) < quietFor {
			t.Errorf("there is\n%s", text)
		}
		have, err := rules.Dump(t.Context(), nil)
		if took := time.Since(start); err != nil || took < quietFor && len(have) != len(want) {
			t.Errorf("after %s there is %v, %v", took, have, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for gone := false; !gone; {
			select {
			case e := <-told:
				gone = e.Gone && e.Key.Kind == state.KindForward && wayOf(e.Key) == way
			case <-ctx.Done():
				t.Fatal("it is not told that they are gone")
			}
		}
		if took := time.Since(start); took < quietFor {
			t.Errorf("it is told after %s", took)
		}
		settle(t, rules, want)
		if took := time.Since(start); took > 10*quietFor {
			t.Errorf("right again after %s", took)
		}
	})
}

// Packets have to be let through where the policy or a rule refuses the rest, and nowhere
// else.
func TestRefusing(t *testing.T) {
	forEachVariant(t, func(t *testing.T, way wayKey) {
		for lines, want := range map[string]string{
			"":                                    "",
			"-A INPUT -j DROP\n-P INPUT DROP":     "",
			"-A FORWARD -s 192.0.2.1 -j DROP":     "",
			"-P FORWARD DROP":                     "the policy of FORWARD is DROP",
			"-A FORWARD -j REJECT":                "a rule of FORWARD is -j REJECT --reject-with icmp-port-unreachable",
			"-N A\n-A A -j DROP\n-A FORWARD -j A": "a rule of FORWARD is -j A",
		} {
			t.Run(lines, func(t *testing.T) {
				dataplanetest.NeedNetns(t)
				h := freshIPTables(t, way)
				settle(t, New(true), way.wish())
				h.do(t, lines)
				if got := New(true).Refusing(t.Context(), way.Family); got[way.RuleBackend] != h.in(want) || len(got) != min(1, len(want)) {
					t.Errorf("Refusing() = %q, want %q", got, want)
				}
			})
		}
	})
}
