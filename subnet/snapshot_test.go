package subnet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flanneld/pkg/ip"
)

func entry(n, host int, revision uint64) Entry {
	return Entry{
		Key:      fmt.Sprintf("10.5.%d.0-24", n),
		Value:    fmt.Sprintf(`{"PublicIP":"192.0.2.%d"}`, host),
		Revision: revision,
	}
}

func garbage(n int, revision uint64) Entry {
	return Entry{Key: fmt.Sprintf("10.5.%d.0-24", n), Value: "garbage", Revision: revision}
}

// summary is a snapshot in short.
func summary(s Snapshot) []string {
	var lines []string
	for _, l := range s.Leases {
		lines = append(lines, fmt.Sprintf("%s %s @%d", l.Subnet, l.PublicIP.V4, l.Revision))
	}
	for _, p := range s.Problems {
		lines = append(lines, fmt.Sprintf("problem %s @%d", p.Key, p.Revision))
	}
	return lines
}

func checkSummary(t *testing.T, s Snapshot, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, summary(s)); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
}

func TestAssembler(t *testing.T) {
	var a Assembler
	checkSummary(t, a.Snapshot(0))
	a.Remove("10.5.1.0-24")
	a.Put(entry(10, 1, 1))
	a.Put(entry(2, 2, 2))
	a.Put(entry(5, 3, 3))
	old := a.Snapshot(3)
	want := []string{"10.5.2.0/24 192.0.2.2 @2", "10.5.5.0/24 192.0.2.3 @3", "10.5.10.0/24 192.0.2.1 @1"}
	checkSummary(t, old, want...)

	a.Put(entry(5, 4, 4))
	checkSummary(t, a.Snapshot(4), "10.5.2.0/24 192.0.2.2 @2", "10.5.5.0/24 192.0.2.4 @4", "10.5.10.0/24 192.0.2.1 @1")
	a.Remove("10.5.2.0-24")
	checkSummary(t, a.Snapshot(5), "10.5.5.0/24 192.0.2.4 @4", "10.5.10.0/24 192.0.2.1 @1")
	a.Put(entry(1, 5, 6))
	checkSummary(t, old, want...) // read-only
	if s := a.Snapshot(6); s.Revision != 6 || s.Find(old.Leases[2].Subnet) != old.Leases[2] || s.Find(old.Leases[0].Subnet) != nil {
		t.Errorf("%+v", s)
	}
}

func TestAssemblerKeepsLastGoodState(t *testing.T) {
	var a Assembler
	a.Put(entry(1, 1, 1))
	a.Put(garbage(1, 2))
	a.Put(garbage(2, 3))
	a.Put(Entry{Key: "nonsense", Value: entry(1, 1, 0).Value, Revision: 4})
	want := []string{"10.5.1.0/24 192.0.2.1 @1", "problem 10.5.1.0-24 @2", "problem 10.5.2.0-24 @3", "problem nonsense @4"}
	s := a.Snapshot(4)
	checkSummary(t, s, want...)
	for i, subnet := range []ip.Subnet{v4, ip.SubnetOf(netip.MustParsePrefix("10.5.2.0/24")), {}} {
		if p := s.Problems[i]; p.Subnet != subnet || p.Reason == "" {
			t.Errorf("problem %+v, want that of %s", p, subnet)
		}
	}
	a.Reset([]Entry{garbage(1, 2), garbage(2, 3), {Key: "nonsense", Revision: 4}})
	checkSummary(t, a.Snapshot(4), want...)

	a.Put(entry(2, 2, 5)) // repaired
	a.Remove("nonsense")
	checkSummary(t, a.Snapshot(6), "10.5.1.0/24 192.0.2.1 @1", "10.5.2.0/24 192.0.2.2 @5", "problem 10.5.1.0-24 @2")
	a.Remove("10.5.1.0-24")
	checkSummary(t, a.Snapshot(7), "10.5.2.0/24 192.0.2.2 @5")
	a.Put(garbage(1, 8)) // what was removed does not come back
	checkSummary(t, a.Snapshot(8), "10.5.2.0/24 192.0.2.2 @5", "problem 10.5.1.0-24 @8")
	a.Reset(nil)
	checkSummary(t, a.Snapshot(9))
}

func TestAssemblerSharesLeases(t *testing.T) {
	var a Assembler
	a.Reset([]Entry{entry(1, 1, 1), entry(2, 2, 2)})
	before := a.Snapshot(2)
	renewed := entry(2, 2, 3)
	renewed.Expires = time.Now().Add(time.Hour)
	a.Reset([]Entry{renewed, entry(1, 1, 1), entry(3, 3, 4)})
	after := a.Snapshot(4)
	checkSummary(t, after, "10.5.1.0/24 192.0.2.1 @1", "10.5.2.0/24 192.0.2.2 @3", "10.5.3.0/24 192.0.2.3 @4")
	if after.Leases[0] != before.Leases[0] {
		t.Error("an unchanged lease lost its identity")
	}
	if !before.Leases[1].Expires.IsZero() || !after.Leases[1].Expires.Equal(renewed.Expires) {
		t.Error("a renewal must make a new lease and leave the old one alone")
	}
}

// However a state was reached, by listings or by changes, the snapshot is that
// of a simple model.
func TestAssemblerAgainstModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var a Assembler
	now := make(map[string]Entry)  // what the store holds
	good := make(map[string]Entry) // what each of its keys last held that can be read
	for revision := uint64(1); revision < 3000; revision++ {
		n := rnd.IntN(20)
		e := entry(n, 1+rnd.IntN(5), revision)
		switch rnd.IntN(6) {
		case 0:
			delete(now, e.Key)
			delete(good, e.Key)
			a.Remove(e.Key)
		case 1:
			e = garbage(n, revision)
			now[e.Key] = e
			a.Put(e)
		case 2:
			now[e.Key], good[e.Key] = e, e
			var entries []Entry
			for _, x := range now {
				entries = append(entries, x)
			}
			a.Reset(entries)
		default:
			now[e.Key], good[e.Key] = e, e
			a.Put(e)
		}
		var want Snapshot
		for _, x := range good {
			s, _ := ip.ParseKey(x.Key)
			attrs, _ := ParseAttrs(s, x.Value)
			want.Leases = append(want.Leases, &Lease{Subnet: s, Attrs: attrs, Revision: x.Revision})
		}
		slices.SortFunc(want.Leases, func(x, y *Lease) int { return x.Subnet.Compare(y.Subnet) })
		for _, x := range now {
			if x.Value == "garbage" {
				want.Problems = append(want.Problems, Problem{Key: x.Key, Revision: x.Revision})
			}
		}
		sortProblems(want.Problems)
		if diff := cmp.Diff(summary(want), summary(a.Snapshot(revision))); diff != "" {
			t.Fatalf("at revision %d (-want +got):\n%s", revision, diff)
		}
	}
}
