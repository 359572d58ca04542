package subnettest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/once"
	"flanneld/subnet"
)

// AssignedHarness is a store that chooses subnets, without hosts, and a way around it. What
// its functions do is done when they return.
type AssignedHarness struct {
	// Name is how the store calls a host that the tests call by a shorter name; nil for the
	// same.
	Name func(string) string
	// Open returns the store of a host.
	Open func(name string) subnet.Assigner
	// Put makes a host, or changes it. One that gets another subnet is made anew, maybe so
	// that no watch sees it gone.
	Put func(Node)
	// Remove takes a host away.
	Remove func(name string)
	// Touch changes of a host what matters to nobody.
	Touch func(name string)
	// SetConfig writes the configuration, UnsetConfig takes it away.
	SetConfig   func(string)
	UnsetConfig func()
}

// AssignedHarness is the cluster for AssignedSuite.
func (c *Cluster) AssignedHarness() AssignedHarness {
	return AssignedHarness{
		Open: func(name string) subnet.Assigner { return c.Host(name) },
		Put:  c.Put, Remove: c.Remove, SetConfig: c.SetConfig, UnsetConfig: c.UnsetConfig,
		Touch: func(string) {},
	}
}

// AssignedSuite tests the promises of subnet.Assigner on stores that open makes.
func AssignedSuite(t *testing.T, open func(t *testing.T) AssignedHarness) {
	for name, test := range map[string]func(*testing.T, AssignedHarness){
		"Config":         testAssignedConfig,
		"Assignment":     testAssignment,
		"Publish":        testPublish,
		"PublishNothing": testPublishNothing,
		"Withdraw":       testWithdraw,
		"Cancelled":      testAssignedCancelled,
		"Watch":          testAssignedWatch,
		"WatchOwn":       testAssignedWatchOwn,
		"WatchGarbled":   testAssignedGarbled,
		"WatchRecreated": testAssignedRecreated,
		"WatchRivals":    testAssignedRivals,
		"WatchBreak":     testAssignedBreak,
		"WatchConfig":    testAssignedWatchConfig,
		"WatchTwice":     testAssignedTwice,
		"WatchOwnWrites": testAssignedOwnWrites,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			if h.Name == nil {
				h.Name = func(name string) string { return name }
			}
			test(t, h)
		})
	}
}

func saying(name string, s ip.Subnet, a subnet.Attrs) Node {
	return Node{Name: name, Subnet: s, Says: &a}
}

// of is what a lease of a host says.
func (h AssignedHarness) of(name string, a subnet.Attrs) subnet.Attrs {
	a.Machine = h.Name(name)
	return a
}

func watchAssigned(t *testing.T, s subnet.Assigner) *watcher { return watch(t, Harness{Store: s}) }

func listAssigned(t *testing.T, s subnet.Assigner) subnet.Snapshot {
	t.Helper()
	return list(t, Harness{Store: s})
}

func testAssignedConfig(t *testing.T, h AssignedHarness) {
	s := h.Open("own")
	if _, err := s.Config(t.Context()); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("with no configuration: %v, want ErrNoConfig", err)
	}
	for _, want := range []string{"{ \"Network\":\"10.5.0.0/16\" }\n", "not JSON + %41 & é", ""} {
		h.SetConfig(want)
		if got, err := s.Config(t.Context()); err != nil || string(got) != want {
			t.Errorf("configuration = %q, %v; want %q", got, err, want)
		}
	}
}

func testAssignment(t *testing.T, h AssignedHarness) {
	public := func(text string) ip.Addrs { return ip.Addrs{V4: netip.MustParseAddr(text)} }
	said := attrs1
	for _, n := range []Node{
		{},
		{Name: "own"},
		{Name: "own", Subnet: subnet1},
		{Name: "own", Subnet: subnet1, Requested: public("192.0.2.7")},
		{Name: "own", Subnet: subnet1, Overwrite: public("203.0.113.7"), Says: &said},
	} {
		if n.Name != "" {
			h.Put(n)
		}
		a := listAssigned(t, h.Open("own")).Own
		switch {
		case a == nil || a.Host != h.Name("own"):
			t.Fatalf("with %+v the assignment is %+v", n, a)
		case a.Subnet != n.Subnet, (a.Missing == "") != n.Subnet.IsValid(), a.Requested != n.Requested, a.Overwrite != n.Overwrite:
			t.Errorf("with %+v the assignment is %+v", n, a)
		case a.Missing != "" && !strings.Contains(a.Missing, h.Name("own")):
			t.Errorf("what is missing does not name the host: %q", a.Missing)
		}
	}
}

func testPublish(t *testing.T, h AssignedHarness) {
	ctx := t.Context()
	h.Put(Node{Name: "own", Subnet: subnet1})
	h.Put(saying("other", subnet2, attrs2))
	s := h.Open("own")
	checkSubnets(t, listAssigned(t, s), subnet2)
	l, err := s.Create(ctx, subnet1, h.of("own", attrs1), 0)
	check(t, err)
	checkLease(t, l, subnet1, h.of("own", attrs1))
	if !l.Reserved() {
		t.Error("it expires")
	}
	for _, who := range []string{"own", "other", "third"} {
		seen := listAssigned(t, h.Open(who))
		checkSubnets(t, seen, subnet1, subnet2)
		checkLease(t, seen.Find(subnet1), subnet1, h.of("own", attrs1))
		checkLease(t, seen.Find(subnet2), subnet2, h.of("other", attrs2))
	}
	again, err := s.Create(ctx, subnet1, h.of("own", attrs1), 0)
	check(t, err)
	if again.Revision != l.Revision {
		t.Error("what is there already was written again")
	}
	changed, err := s.Update(ctx, subnet1, l.Revision, h.of("own", attrs2), 0)
	check(t, err)
	checkLease(t, changed, subnet1, h.of("own", attrs2))
	if changed.Revision <= l.Revision {
		t.Errorf("the revision went from %d to %d", l.Revision, changed.Revision)
	}
	checkLease(t, listAssigned(t, h.Open("third")).Find(subnet1), subnet1, h.of("own", attrs2))
}

func testPublishNothing(t *testing.T, h AssignedHarness) {
	refused := func(what string) {
		t.Helper()
		s := h.Open("own")
		listAssigned(t, s)
		if _, err := s.Create(t.Context(), subnet1, h.of("own", attrs1), 0); !errors.Is(err, subnet.ErrChanged) {
			t.Errorf("publishing %s: %v, want ErrChanged", what, err)
		}
	}
	refused("without a host")
	h.Put(Node{Name: "own"})
	refused("without a subnet")
	h.Put(Node{Name: "own", Subnet: subnet2})
	refused("with another subnet")

	// It has another one by now, which the store has not heard of.
	s := h.Open("own")
	listAssigned(t, s)
	h.Put(Node{Name: "own", Subnet: subnet1})
	if _, err := s.Create(t.Context(), subnet2, h.of("own", attrs1), 0); !errors.Is(err, subnet.ErrChanged) {
		t.Errorf("publishing for a host that was made anew: %v, want ErrChanged", err)
	}
	checkSubnets(t, listAssigned(t, h.Open("own")))
}

func testWithdraw(t *testing.T, h AssignedHarness) {
	h.Put(Node{Name: "own", Subnet: subnet1})
	s := h.Open("own")
	listAssigned(t, s)
	l, err := s.Create(t.Context(), subnet1, h.of("own", attrs1), 0)
	check(t, err)
	check(t, s.Delete(t.Context(), subnet1, l.Revision))
	seen := listAssigned(t, h.Open("own"))
	checkSubnets(t, seen)
	if seen.Own.Subnet != subnet1 {
		t.Errorf("the assignment is %+v", seen.Own)
	}
	if err := s.Delete(t.Context(), subnet1, l.Revision); !errors.Is(err, subnet.ErrChanged) {
		t.Errorf("withdrawing it again: %v, want ErrChanged", err)
	}
}

func testAssignedCancelled(t *testing.T, h AssignedHarness) {
	s := h.Open("own")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, configErr := s.Config(ctx)
	_, listErr := s.List(ctx)
	_, createErr := s.Create(ctx, subnet1, attrs1, 0)
	_, updateErr := s.Update(ctx, subnet1, 1, attrs1, 0)
	for name, err := range map[string]error{
		"Config": configErr, "List": listErr, "Create": createErr, "Update": updateErr,
		"Delete": s.Delete(ctx, subnet1, 1), "Watch": s.Watch(ctx, func(subnet.Snapshot) {}),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", name, err)
		}
	}
	w := watchAssigned(t, s)
	w.next(t)
	started := time.Now()
	w.stop(t)
	if took := time.Since(started); took > time.Second {
		t.Errorf("Watch took %s to end", took)
	}
}

func testAssignedWatch(t *testing.T, h AssignedHarness) {
	h.Put(saying("b", subnet2, attrs2))
	w := watchAssigned(t, h.Open("own"))
	first := w.next(t)
	checkSubnets(t, first, subnet2)

	h.Put(Node{Name: "a", Subnet: subnet1}) // which says nothing yet
	h.Put(saying("a", subnet1, attrs1))
	w.until(t, "a", func(s subnet.Snapshot) bool { return s.Find(subnet1) != nil })
	checkSubnets(t, w.latest, subnet1, subnet2)
	checkLease(t, w.latest.Find(subnet1), subnet1, h.of("a", attrs1))
	if !w.latest.Find(subnet1).Reserved() {
		t.Error("a lease expires")
	}
	before := w.latest.Find(subnet1)

	// What does not matter changes nothing: the next snapshot is that of the next change.
	for range 5 {
		h.Touch("a")
		h.Touch("b")
	}
	h.Put(saying("c", subnet3, attrs2))
	checkSubnets(t, w.next(t), subnet1, subnet2, subnet3)
	if w.latest.Find(subnet1) != before || w.latest.Find(subnet2) != first.Find(subnet2) {
		t.Error("leases that did not change are not shared between snapshots")
	}

	h.Put(saying("a", subnet1, attrs2))
	changed := w.next(t).Find(subnet1)
	checkLease(t, changed, subnet1, h.of("a", attrs2))
	if changed.Revision <= before.Revision || w.latest.Find(subnet2) != first.Find(subnet2) {
		t.Error("the revisions are wrong")
	}
	h.Put(Node{Name: "a", Subnet: subnet1})
	checkSubnets(t, w.next(t), subnet2, subnet3)
	h.Remove("b")
	checkSubnets(t, w.next(t), subnet3)
}

func testAssignedWatchOwn(t *testing.T, h AssignedHarness) {
	w := watchAssigned(t, h.Open("own"))
	if a := w.next(t).Own; a == nil || a.Missing == "" {
		t.Fatalf("without a host the assignment is %+v", a)
	}
	missing := w.latest.Own.Missing
	h.Put(Node{Name: "own"})
	w.until(t, "the host", func(s subnet.Snapshot) bool { return s.Own.Missing != missing })
	h.Put(Node{Name: "own", Subnet: subnet1})
	w.until(t, "the subnet", func(s subnet.Snapshot) bool { return s.Own.Subnet == subnet1 })
	before := w.latest.Own
	h.Put(saying("other", subnet2, attrs2))
	w.until(t, "the other host", func(s subnet.Snapshot) bool { return s.Find(subnet2) != nil })
	if w.latest.Own != before && *w.latest.Own != *before {
		t.Errorf("the assignment was %+v, and is %+v", before, w.latest.Own)
	}
	h.Put(Node{Name: "own", Subnet: subnet1, Overwrite: attrs2.PublicIP})
	w.until(t, "the address", func(s subnet.Snapshot) bool { return s.Own.Overwrite == attrs2.PublicIP })
	h.Put(Node{Name: "own", Subnet: subnet3})
	w.until(t, "another subnet", func(s subnet.Snapshot) bool { return s.Own.Subnet == subnet3 })
	h.Remove("own")
	w.until(t, "that it is gone", func(s subnet.Snapshot) bool { return s.Own.Missing == missing && !s.Own.Subnet.IsValid() })
}

func testAssignedGarbled(t *testing.T, h AssignedHarness) {
	h.Put(saying("a", subnet1, attrs1))
	w := watchAssigned(t, h.Open("own"))
	checkSubnets(t, w.next(t), subnet1)
	garbled := saying("a", subnet1, attrs2)
	garbled.Garbled = true
	h.Put(garbled)
	w.until(t, "a problem", func(s subnet.Snapshot) bool { return len(s.Problems) > 0 })
	checkLease(t, w.latest.Find(subnet1), subnet1, h.of("a", attrs1)) // as it was
	if p := w.latest.Problems[0]; p.Subnet != subnet1 || p.Withdraw || !strings.Contains(p.Reason, h.Name("a")) {
		t.Errorf("the problem is %+v", p)
	}
	unknown := saying("b", subnet2, attrs2)
	unknown.Garbled = true
	h.Put(unknown)
	w.until(t, "another problem", func(s subnet.Snapshot) bool { return len(s.Problems) > 1 })
	h.Put(saying("c", subnet3, attrs2))
	w.until(t, "the one beside it", func(s subnet.Snapshot) bool { return s.Find(subnet3) != nil })
	checkSubnets(t, w.latest, subnet1, subnet3)
	h.Put(saying("a", subnet1, attrs2))
	h.Remove("b")
	w.until(t, "that all is well", func(s subnet.Snapshot) bool { return len(s.Problems) == 0 })
	checkLease(t, w.latest.Find(subnet1), subnet1, h.of("a", attrs2))
}

// A host that was made anew has one subnet at any time.
func testAssignedRecreated(t *testing.T, h AssignedHarness) {
	h.Put(saying("a", subnet1, attrs1))
	w := watchAssigned(t, h.Open("own"))
	w.next(t)
	h.Put(saying("a", subnet2, attrs1))
	w.until(t, "the other subnet", func(s subnet.Snapshot) bool {
		if len(s.Leases) > 1 {
			t.Errorf("it has %d leases", len(s.Leases))
		}
		return s.Find(subnet2) != nil
	})
	checkSubnets(t, w.latest, subnet2)
}

func testAssignedRivals(t *testing.T, h AssignedHarness) {
	h.Put(saying("a", subnet1, attrs1)) // the older one
	h.Put(saying("b", subnet1, attrs2))
	named := func(s subnet.Snapshot) bool {
		return slices.ContainsFunc(s.Problems, func(p subnet.Problem) bool {
			return strings.HasSuffix(p.Key, "/"+h.Name("b")) && p.Withdraw && strings.Contains(p.Reason, h.Name("a")) && strings.Contains(p.Reason, h.Name("b"))
		})
	}
	w := watchAssigned(t, h.Open("own"))
	if s := w.next(t); !named(s) {
		t.Errorf("the problems are %+v", s.Problems)
	}
	checkLease(t, w.latest.Find(subnet1), subnet1, h.of("a", attrs1))
	h.Put(Node{Name: "a", Subnet: subnet1})
	w.until(t, "that b has it", func(s subnet.Snapshot) bool { return s.Find(subnet1) != nil && s.Find(subnet1).Machine == h.Name("b") })
	if len(w.latest.Problems) > 0 {
		t.Errorf("the problems are %+v", w.latest.Problems)
	}
	h.Put(saying("a", subnet1, attrs1))
	w.until(t, "that a has it", func(s subnet.Snapshot) bool {
		return s.Find(subnet1) != nil && s.Find(subnet1).Machine == h.Name("a") && named(s)
	})
	h.Remove("b")
	w.until(t, "that all is well", func(s subnet.Snapshot) bool { return len(s.Problems) == 0 })
	checkLease(t, w.latest.Find(subnet1), subnet1, h.of("a", attrs1))

	// Our own host counts although it says nothing yet: it is about to.
	h.Put(saying("z", subnet2, attrs2))
	old := listAssigned(t, h.Open("b"))
	checkSubnets(t, old, subnet1, subnet2)
	h.Put(Node{Name: "y", Subnet: subnet3})
	h.Put(saying("z2", subnet3, attrs2))
	if s := listAssigned(t, h.Open("y")); s.Find(subnet3) != nil || s.Own.Subnet != subnet3 {
		t.Errorf("the older host sees %+v", s.Find(subnet3))
	}
	if s := listAssigned(t, h.Open("z2")); s.Find(subnet3) == nil {
		t.Error("the younger one, which says it, is not there for itself")
	}
}

func testAssignedBreak(t *testing.T, h AssignedHarness) {
	h.Put(saying("a", subnet1, attrs1))
	h.Put(saying("b", subnet2, attrs2))
	s := h.Open("own")
	w := watchAssigned(t, s)
	b := w.next(t).Find(subnet2)
	for range 2 {
		w.stop(t)
		h.Remove("a")
		h.Put(saying("c", subnet3, attrs1))
		w = watchAssigned(t, s)
		w.until(t, "what happened in the break", func(s subnet.Snapshot) bool { return s.Find(subnet1) == nil && s.Find(subnet3) != nil })
		if w.latest.Find(subnet2) != b {
			t.Error("a lease that did not change is another one")
		}
		w.stop(t)
		w = watchAssigned(t, s)
		checkSubnets(t, w.next(t), subnet2, subnet3) // nothing happened
		h.Put(saying("a", subnet1, attrs1))
		h.Remove("c")
		w.until(t, "the change", func(s subnet.Snapshot) bool { return s.Find(subnet1) != nil && s.Find(subnet3) == nil })
	}
}

func testAssignedWatchConfig(t *testing.T, h AssignedHarness) {
	s := h.Open("own")
	ctx, cancel := context.WithCancel(t.Context())
	var ended error
	var watching sync.WaitGroup
	yielded := once.NewSlot[subnet.StoredConfig]()
	watching.Go(func() { ended = s.WatchConfig(ctx, yielded.Put) })
	defer func() {
		cancel()
		watching.Wait()
		if !errors.Is(ended, context.Canceled) {
			t.Errorf("it ends with %v", ended)
		}
	}()
	is := func(want subnet.StoredConfig) {
		t.Helper()
		late := time.NewTimer(patience)
		defer late.Stop()
		for {
			select {
			case got := <-yielded:
				if got == want {
					return
				}
			case <-late.C:
				t.Fatalf("waited in vain for the configuration %+v", want)
			}
		}
	}
	is(subnet.StoredConfig{Missing: true})
	for _, text := range []string{"{ \"Network\":\"10.5.0.0/16\" }\n", "not JSON + %41 & é", "{}"} {
		h.SetConfig(text)
		is(subnet.StoredConfig{Text: text})
	}
	h.UnsetConfig()
	is(subnet.StoredConfig{Missing: true})
}

func testAssignedTwice(t *testing.T, h AssignedHarness) {
	s := h.Open("own")
	a, b := watchAssigned(t, s), watchAssigned(t, s)
	a.next(t)
	b.next(t)
	h.Put(saying("a", subnet1, attrs1))
	for _, w := range []*watcher{a, b} {
		w.until(t, "the lease", func(s subnet.Snapshot) bool { return s.Find(subnet1) != nil })
	}
}

// No snapshot shows less of our own lease than what was published before it came.
func testAssignedOwnWrites(t *testing.T, h AssignedHarness) {
	h.Put(Node{Name: "own", Subnet: subnet1})
	h.Put(saying("other", subnet2, attrs2))
	s := h.Open("own")
	w := watchAssigned(t, s)
	w.next(t)
	for n := range 50 {
		a := h.of("own", attrs1)
		a.PublicIP.V4 = netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + n)})
		l, err := s.Create(t.Context(), subnet1, a, 0)
		check(t, err)
		if n%5 == 0 {
			h.Put(saying("other", subnet2, a)) // another one's event comes in between
		}
		checkLease(t, listAssigned(t, s).Find(subnet1), subnet1, a)
		w.until(t, "the lease", func(s subnet.Snapshot) bool {
			found := s.Find(subnet1)
			if s.Revision >= l.Revision && (found == nil || found.Attrs != a) {
				t.Errorf("a snapshot of revision %d, after %d was written, has %+v", s.Revision, l.Revision, found)
			}
			return found != nil && found.Attrs == a
		})
	}
}
