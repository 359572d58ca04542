package subnettest

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// Harness is one Store and a way around it.
type Harness struct {
	// Store of a network that holds nothing.
	Store subnet.Store
	// PutRaw writes any value under any path below the network's prefix, such
	// as "config" or "subnets/10.5.1.0-24"; for ever where ttl is 0. It returns
	// once it is done.
	PutRaw func(path, value string, ttl time.Duration)
	// DeleteRaw removes what is at a path below the network's prefix.
	DeleteRaw func(path string)
	// ShortTTL is the shortest TTL that the store can keep.
	ShortTTL time.Duration
}

// Suite tests the promises of subnet.Store on Stores that open makes.
func Suite(t *testing.T, open func(t *testing.T) Harness) {
	for name, test := range map[string]func(*testing.T, Harness){
		"Config":              testConfig,
		"Create":              testCreate,
		"CreateOverGarbage":   testCreateOverGarbage,
		"CreateConcurrently":  testCreateConcurrently,
		"Update":              testUpdate,
		"UpdateTTL":           testUpdateTTL,
		"Delete":              testDelete,
		"DualStack":           testDualStack,
		"Move":                testMove,
		"WatchMove":           testWatchMove,
		"Created":             testCreated,
		"List":                testList,
		"ListProblems":        testListProblems,
		"ListOtherPrefix":     testListOtherPrefix,
		"Cancelled":           testCancelled,
		"WatchChanges":        testWatchChanges,
		"WatchExpiry":         testWatchExpiry,
		"WatchRenewal":        testWatchRenewal,
		"WatchGarbage":        testWatchGarbage,
		"WatchGarbageInBreak": testWatchGarbageInBreak,
		"WatchBreak":          testWatchBreak,
		"WatchOtherPrefix":    testWatchOtherPrefix,
		"WatchConfig":         testWatchConfig,
		"WatchTwice":          testWatchTwice,
		"WatchCancel":         testWatchCancel,
		"WatchMany":           testWatchMany,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

var (
	subnet1 = ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24"))
	subnet2 = ip.SubnetOf(netip.MustParsePrefix("10.5.2.0/24"))
	subnet3 = ip.SubnetOf(netip.MustParsePrefix("10.5.10.0/24"))
	attrs1  = subnet.Attrs{
		PublicIP:    ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")},
		BackendType: "vxlan",
		BackendData: `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`,
	}
	attrs2 = subnet.Attrs{PublicIP: ip.Addrs{V4: netip.MustParseAddr("192.0.2.2")}}
	both   = ip.Subnet{V4: netip.MustParsePrefix("10.5.3.0/24"), V6: netip.MustParsePrefix("fc00:5:3::/64")}
)

func testConfig(t *testing.T, h Harness) {
	ctx := t.Context()
	if _, err := h.Store.Config(ctx); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("with no configuration: %v, want ErrNoConfig", err)
	}
	for _, want := range []string{"{ \"Network\":\"10.5.0.0/16\" }\n", "not JSON + %41 & é", ""} {
		h.PutRaw("config", want, 0)
		got, err := h.Store.Config(ctx)
		if err != nil || string(got) != want {
			t.Errorf("configuration = %q, %v; want %q", got, err, want)
		}
	}
	h.DeleteRaw("config")
	if _, err := h.Store.Config(ctx); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("after it was deleted: %v, want ErrNoConfig", err)
	}
}

func testCreate(t *testing.T, h Harness) {
	ctx := t.Context()
	created, err := h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	check(t, err)
	checkLease(t, created, subnet1, attrs1)
	checkExpires(t, created.Expires, time.Hour)
	listed := find(t, h, subnet1)
	checkLease(t, listed, subnet1, attrs1)
	checkExpires(t, listed.Expires, time.Hour)
	if listed.Revision != created.Revision {
		t.Errorf("revision as listed %d, as created %d", listed.Revision, created.Revision)
	}
	if _, err := h.Store.Create(ctx, subnet1, attrs2, time.Hour); !errors.Is(err, subnet.ErrExists) {
		t.Errorf("creating it again: %v, want ErrExists", err)
	}
	checkLease(t, find(t, h, subnet1), subnet1, attrs1)

	reserved, err := h.Store.Create(ctx, subnet2, attrs2, 0)
	check(t, err)
	if !reserved.Reserved() || !find(t, h, subnet2).Reserved() {
		t.Error("a lease that was created for ever has an expiry")
	}
}

func testCreateOverGarbage(t *testing.T, h Harness) {
	h.PutRaw("subnets/"+subnet1.Key(), "garbage", 0)
	if _, err := h.Store.Create(t.Context(), subnet1, attrs1, time.Hour); !errors.Is(err, subnet.ErrExists) {
		t.Errorf("creating a lease where the key holds garbage: %v, want ErrExists", err)
	}
}

func testCreateConcurrently(t *testing.T, h Harness) {
	const rivals = 16
	var wg sync.WaitGroup
	errs := make([]error, rivals)
	for i := range rivals {
		wg.Go(func() { _, errs[i] = h.Store.Create(t.Context(), subnet1, attrs1, time.Hour) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, subnet.ErrExists):
			t.Errorf("loser: %v, want ErrExists", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d concurrent creations won, want 1", won, rivals)
	}
}

func testUpdate(t *testing.T, h Harness) {
	ctx := t.Context()
	created, err := h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	check(t, err)
	updated, err := h.Store.Update(ctx, subnet1, created.Revision, attrs2, 2*time.Hour)
	check(t, err)
	checkLease(t, updated, subnet1, attrs2)
	checkExpires(t, updated.Expires, 2*time.Hour)
	if updated.Revision <= created.Revision {
		t.Errorf("the revision went from %d to %d", created.Revision, updated.Revision)
	}
	checkLease(t, find(t, h, subnet1), subnet1, attrs2)
	for _, stale := range []uint64{created.Revision, updated.Revision + 1000, 0} {
		if _, err := h.Store.Update(ctx, subnet1, stale, attrs1, time.Hour); !errors.Is(err, subnet.ErrChanged) {
			t.Errorf("update with revision %d where it is %d: %v, want ErrChanged", stale, updated.Revision, err)
		}
	}
	checkLease(t, find(t, h, subnet1), subnet1, attrs2)

	h.DeleteRaw("subnets/" + subnet1.Key())
	for _, revision := range []uint64{updated.Revision, 0} {
		if _, err := h.Store.Update(ctx, subnet1, revision, attrs1, time.Hour); !errors.Is(err, subnet.ErrChanged) {
			t.Errorf("update of a lease that is gone: %v, want ErrChanged", err)
		}
	}
}

func testUpdateTTL(t *testing.T, h Harness) {
	ctx := t.Context()
	l, err := h.Store.Create(ctx, subnet1, attrs1, h.ShortTTL)
	check(t, err)
	l, err = h.Store.Update(ctx, subnet1, l.Revision, attrs1, 0)
	check(t, err)
	if !l.Reserved() || !find(t, h, subnet1).Reserved() {
		t.Error("an update with no TTL left an expiry")
	}
	// A lease beside it that does expire shows that the time has come.
	if _, err := h.Store.Create(ctx, subnet2, attrs2, h.ShortTTL); err != nil {
		t.Fatal(err)
	}
	until(t, "the other lease expires", func() bool { return list(t, h).Find(subnet2) == nil })
	if find(t, h, subnet1) == nil {
		t.Fatal("an update with no TTL did not take away the old one")
	}
	l, err = h.Store.Update(ctx, subnet1, l.Revision, attrs1, time.Hour)
	check(t, err)
	checkExpires(t, l.Expires, time.Hour)
	checkExpires(t, find(t, h, subnet1).Expires, time.Hour)
}

func testDelete(t *testing.T, h Harness) {
	ctx := t.Context()
	created, err := h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	check(t, err)
	updated, err := h.Store.Update(ctx, subnet1, created.Revision, attrs1, time.Hour)
	check(t, err)
	for _, stale := range []uint64{created.Revision, 0} {
		if err := h.Store.Delete(ctx, subnet1, stale); !errors.Is(err, subnet.ErrChanged) {
			t.Errorf("deletion with revision %d where it is %d: %v, want ErrChanged", stale, updated.Revision, err)
		}
	}
	find(t, h, subnet1)
	check(t, h.Store.Delete(ctx, subnet1, updated.Revision))
	if l := list(t, h).Find(subnet1); l != nil {
		t.Errorf("the deleted lease is still there: %+v", l)
	}
	if err := h.Store.Delete(ctx, subnet1, updated.Revision); !errors.Is(err, subnet.ErrChanged) {
		t.Errorf("deleting it again: %v, want ErrChanged", err)
	}
	if _, err := h.Store.Create(ctx, subnet1, attrs2, time.Hour); err != nil {
		t.Errorf("creating it again: %v", err)
	}
}

func testDualStack(t *testing.T, h Harness) {
	ctx := t.Context()
	a := attrs1
	a.PublicIP.V6 = netip.MustParseAddr("2001:db8::1")
	a.BackendV6Data = `{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}`
	a.BackendData = `"<pre> & command's output"`
	l, err := h.Store.Create(ctx, both, a, time.Hour)
	check(t, err)
	checkLease(t, find(t, h, both), both, a)
	only6 := ip.Subnet{V6: netip.MustParsePrefix("fc00:5:4::/64")}
	_, err = h.Store.Create(ctx, only6, subnet.Attrs{PublicIP: ip.Addrs{V6: a.PublicIP.V6}}, 0)
	check(t, err)
	find(t, h, only6)
	check(t, h.Store.Delete(ctx, both, l.Revision))
}

func testMove(t *testing.T, h Harness) {
	ctx := t.Context()
	a := attrs1
	a.PublicIP.V6, a.BackendV6Data = netip.MustParseAddr("2001:db8::1"), `{"VNI":1}`
	v4 := ip.Subnet{V4: both.V4}
	created, err := h.Store.Create(ctx, v4, attrs1, time.Hour)
	check(t, err)
	for _, stale := range []uint64{created.Revision + 1000, 0} {
		if _, err := h.Store.Move(ctx, v4, stale, both, a, time.Hour); !errors.Is(err, subnet.ErrChanged) {
			t.Errorf("move with revision %d where it is %d: %v, want ErrChanged", stale, created.Revision, err)
		}
	}
	checkSubnets(t, list(t, h), v4)
	moved, err := h.Store.Move(ctx, v4, created.Revision, both, a, 2*time.Hour)
	check(t, err)
	checkLease(t, moved, both, a)
	checkExpires(t, moved.Expires, 2*time.Hour)
	if moved.Revision <= created.Revision || moved.Created <= created.Created {
		t.Errorf("of revision %d, first %d, it became one of %d, first %d", created.Revision, created.Created, moved.Revision, moved.Created)
	}
	checkSubnets(t, list(t, h), both)
	checkLease(t, find(t, h, both), both, a)
	if now := find(t, h, both); now.Revision != moved.Revision || now.Created != moved.Created {
		t.Errorf("listed as of revision %d, first %d; moved as of %d, first %d", now.Revision, now.Created, moved.Revision, moved.Created)
	}
	if _, err := h.Store.Move(ctx, v4, created.Revision, both, a, time.Hour); !errors.Is(err, subnet.ErrChanged) && !errors.Is(err, subnet.ErrExists) {
		t.Errorf("moving it again: %v, want ErrChanged or ErrExists", err)
	}

	// Back, as a reservation; and not to where there is something already.
	h.PutRaw("subnets/"+v4.Key(), "garbage", 0)
	if _, err := h.Store.Move(ctx, both, moved.Revision, v4, attrs1, 0); !errors.Is(err, subnet.ErrExists) {
		t.Errorf("moving to where there is something: %v, want ErrExists", err)
	}
	checkLease(t, find(t, h, both), both, a)
	h.DeleteRaw("subnets/" + v4.Key())
	back, err := h.Store.Move(ctx, both, moved.Revision, v4, attrs1, 0)
	check(t, err)
	if !back.Reserved() || !find(t, h, v4).Reserved() {
		t.Error("a lease that was moved for ever has an expiry")
	}
	checkSubnets(t, list(t, h), v4)
	_, err = h.Store.Update(ctx, v4, back.Revision, attrs1, time.Hour)
	check(t, err)
}

// A watch never shows neither of the two; nor does it end with anything but the new one.
func testWatchMove(t *testing.T, h Harness) {
	v4 := ip.Subnet{V4: both.V4}
	created, err := h.Store.Create(t.Context(), v4, attrs1, time.Hour)
	check(t, err)
	w := watch(t, h)
	w.until(t, "the lease", func(s subnet.Snapshot) bool { return s.Find(v4) != nil })
	a := attrs1
	a.PublicIP.V6 = netip.MustParseAddr("2001:db8::1")
	moved, err := h.Store.Move(t.Context(), v4, created.Revision, both, a, time.Hour)
	check(t, err)
	w.until(t, "the lease in its new place alone", func(s subnet.Snapshot) bool {
		if s.Find(v4) == nil && s.Find(both) == nil {
			t.Fatal("for a moment there was no lease")
		}
		return s.Find(v4) == nil && s.Find(both).Revision == moved.Revision
	})
	checkLease(t, w.latest.Find(both), both, a)
}

// When a lease was first written stays, however often it is written again.
func testCreated(t *testing.T, h Harness) {
	ctx := t.Context()
	first, err := h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	check(t, err)
	second, err := h.Store.Create(ctx, subnet2, attrs2, time.Hour)
	check(t, err)
	again, err := h.Store.Update(ctx, subnet1, first.Revision, attrs1, time.Hour)
	check(t, err)
	if first.Created == 0 || again.Created != first.Created || second.Created <= first.Created {
		t.Errorf("the first was written in %d and is of %d after it was written again; the second is of %d", first.Created, again.Created, second.Created)
	}
	w := watch(t, h)
	for _, s := range []subnet.Snapshot{list(t, h), w.next(t)} {
		if a, b := s.Find(subnet1), s.Find(subnet2); a.Created != first.Created || b.Created != second.Created {
			t.Errorf("shown as of %d and %d, want %d and %d", a.Created, b.Created, first.Created, second.Created)
		}
	}
	h.DeleteRaw("subnets/" + subnet1.Key())
	anew, err := h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	check(t, err)
	if anew.Created <= second.Created {
		t.Errorf("made anew it is of %d, and was of %d", anew.Created, first.Created)
	}
}

func testList(t *testing.T, h Harness) {
	before := list(t, h)
	if len(before.Leases) != 0 || len(before.Problems) != 0 {
		t.Errorf("an empty store lists %+v", before)
	}
	for _, s := range []ip.Subnet{subnet3, subnet1, both, subnet2} {
		a := attrs1
		a.PublicIP.V6 = netip.Addr{}
		if s.V6.IsValid() {
			a.PublicIP.V6 = netip.MustParseAddr("2001:db8::1")
		}
		_, err := h.Store.Create(t.Context(), s, a, time.Hour)
		check(t, err)
	}
	after := list(t, h)
	checkSubnets(t, after, subnet1, subnet2, both, subnet3)
	if after.Revision <= before.Revision {
		t.Errorf("the store's revision went from %d to %d", before.Revision, after.Revision)
	}
}

func testListProblems(t *testing.T, h Harness) {
	_, err := h.Store.Create(t.Context(), subnet1, attrs1, time.Hour)
	check(t, err)
	garbage := map[string]string{
		"nonsense":     `{"PublicIP":"192.0.2.9"}`,
		"10.5.9.1-24":  `{"PublicIP":"192.0.2.9"}`,
		"10.5.20.0-24": `{"PublicIP":`,
		"10.5.21.0-24": `{}`,
		"10.5.22.0-24": `17`,
		"10.5.23.0-24": ``,
		"10.5.24.0-24": strings.Repeat("x", 1<<20),
		"nested/key":   `{"PublicIP":"192.0.2.9"}`,
	}
	for key, value := range garbage {
		h.PutRaw("subnets/"+key, value, 0)
	}
	_, err = h.Store.Create(t.Context(), subnet2, attrs2, time.Hour)
	check(t, err)
	s := list(t, h)
	checkSubnets(t, s, subnet1, subnet2)
	checkProblems(t, s, "10.5.20.0-24", "10.5.21.0-24", "10.5.22.0-24", "10.5.23.0-24", "10.5.24.0-24", "10.5.9.1-24", "nested", "nonsense")
	for _, p := range s.Problems {
		if p.Reason == "" || len(p.Reason) > 500 {
			t.Errorf("reason of %s is %q", p.Key, p.Reason)
		}
		if parsed, _ := ip.ParseKey(p.Key); p.Subnet != parsed {
			t.Errorf("subnet of %s is %s, want %s", p.Key, p.Subnet, parsed)
		}
	}
}

func testListOtherPrefix(t *testing.T, h Harness) {
	_, err := h.Store.Create(t.Context(), subnet1, attrs1, time.Hour)
	check(t, err)
	value, err := attrs2.Value()
	check(t, err)
	h.PutRaw("subnets2/"+subnet2.Key(), value, 0)
	checkSubnets(t, list(t, h), subnet1)
}
