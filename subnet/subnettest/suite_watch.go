package subnettest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

func testCancelled(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, configErr := h.Store.Config(ctx)
	_, listErr := h.Store.List(ctx)
	_, createErr := h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	_, updateErr := h.Store.Update(ctx, subnet1, 1, attrs1, time.Hour)
	for name, err := range map[string]error{
		"Config": configErr,
		"List":   listErr,
		"Create": createErr,
		"Update": updateErr,
		"Delete": h.Store.Delete(ctx, subnet1, 1),
		"Watch":  h.Store.Watch(ctx, func(subnet.Snapshot) {}),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", name, err)
		}
	}
}

func testWatchChanges(t *testing.T, h Harness) {
	ctx := t.Context()
	_, err := h.Store.Create(ctx, subnet2, attrs2, time.Hour)
	check(t, err)
	w := watch(t, h)
	checkSubnets(t, w.next(t), subnet2)
	l, err := h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	check(t, err)
	s := w.next(t)
	checkSubnets(t, s, subnet1, subnet2)
	checkLease(t, s.Find(subnet1), subnet1, attrs1)
	checkExpires(t, s.Find(subnet1).Expires, time.Hour)
	if got := s.Find(subnet1).Revision; got != l.Revision {
		t.Errorf("revision as seen %d, as created %d", got, l.Revision)
	}
	l, err = h.Store.Update(ctx, subnet1, l.Revision, attrs2, 0)
	check(t, err)
	s = w.next(t)
	checkLease(t, s.Find(subnet1), subnet1, attrs2)
	if !s.Find(subnet1).Reserved() {
		t.Error("a lease that was updated for ever is seen with an expiry")
	}
	check(t, h.Store.Delete(ctx, subnet1, l.Revision))
	checkSubnets(t, w.next(t), subnet2)
}

func testWatchExpiry(t *testing.T, h Harness) {
	_, err := h.Store.Create(t.Context(), subnet1, attrs1, h.ShortTTL)
	check(t, err)
	_, err = h.Store.Create(t.Context(), subnet2, attrs2, time.Hour)
	check(t, err)
	w := watch(t, h)
	w.until(t, "the expiry", func(s subnet.Snapshot) bool { return s.Find(subnet1) == nil && s.Find(subnet2) != nil })
}

func testWatchRenewal(t *testing.T, h Harness) {
	ctx := t.Context()
	_, err := h.Store.Create(ctx, subnet2, attrs2, time.Hour)
	check(t, err)
	l, err := h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	check(t, err)
	w := watch(t, h)
	before := w.next(t)
	_, err = h.Store.Update(ctx, subnet1, l.Revision, attrs1, 3*time.Hour)
	check(t, err)
	after := w.next(t)
	renewed := after.Find(subnet1)
	checkLease(t, renewed, subnet1, attrs1)
	checkExpires(t, renewed.Expires, 3*time.Hour)
	if renewed.Revision <= before.Find(subnet1).Revision || after.Revision <= before.Revision {
		t.Error("a renewal did not raise the revisions")
	}
	if after.Find(subnet2) != before.Find(subnet2) {
		t.Error("a lease that did not change is not shared between snapshots")
	}
	checkExpires(t, before.Find(subnet1).Expires, time.Hour) // handed out: never changed
}

func testWatchGarbage(t *testing.T, h Harness) {
	_, err := h.Store.Create(t.Context(), subnet1, attrs1, time.Hour)
	check(t, err)
	w := watch(t, h)
	w.next(t)
	h.PutRaw("subnets/"+subnet1.Key(), "garbage", 0)
	s := w.next(t)
	checkLease(t, s.Find(subnet1), subnet1, attrs1)
	checkProblems(t, s, subnet1.Key())

	h.PutRaw("subnets/nonsense", "garbage", 0)
	checkProblems(t, w.next(t), subnet1.Key(), "nonsense")
	h.DeleteRaw("subnets/nonsense")
	checkProblems(t, w.next(t), subnet1.Key())

	h.DeleteRaw("subnets/" + subnet1.Key())
	s = w.next(t)
	checkSubnets(t, s)
	checkProblems(t, s)

	h.PutRaw("subnets/nested/key", "garbage", 0)
	w.until(t, "the nested key", func(s subnet.Snapshot) bool { return len(s.Problems) == 1 })
	value, err := attrs2.Value()
	check(t, err)
	h.PutRaw("subnets/"+subnet2.Key(), value, 0)
	w.until(t, "the lease beside it", func(s subnet.Snapshot) bool { return s.Find(subnet2) != nil && len(s.Problems) == 1 })
}

func testWatchGarbageInBreak(t *testing.T, h Harness) {
	_, err := h.Store.Create(t.Context(), subnet1, attrs1, time.Hour)
	check(t, err)
	w := watch(t, h)
	w.next(t)
	w.stop(t)
	h.PutRaw("subnets/"+subnet1.Key(), "garbage", 0)
	s := watch(t, h).next(t)
	checkLease(t, s.Find(subnet1), subnet1, attrs1)
	checkProblems(t, s, subnet1.Key())
}

func testWatchBreak(t *testing.T, h Harness) {
	ctx := t.Context()
	first, err := h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	check(t, err)
	second, err := h.Store.Create(ctx, subnet2, attrs1, time.Hour)
	check(t, err)
	w := watch(t, h)
	w.next(t)
	w.stop(t)
	check(t, h.Store.Delete(ctx, subnet1, first.Revision))
	_, err = h.Store.Update(ctx, subnet2, second.Revision, attrs2, time.Hour)
	check(t, err)
	_, err = h.Store.Create(ctx, subnet3, attrs1, time.Hour)
	check(t, err)

	w = watch(t, h)
	s := w.next(t)
	checkSubnets(t, s, subnet2, subnet3)
	checkLease(t, s.Find(subnet2), subnet2, attrs2)
	_, err = h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	check(t, err)
	checkSubnets(t, w.next(t), subnet1, subnet2, subnet3)

	// Nothing happens in this break, and yet the first snapshot comes.
	w.stop(t)
	checkSubnets(t, watch(t, h).next(t), subnet1, subnet2, subnet3)
}

func testWatchOtherPrefix(t *testing.T, h Harness) {
	w := watch(t, h)
	checkSubnets(t, w.next(t))
	value, err := attrs1.Value()
	check(t, err)
	h.PutRaw("subnets2/"+subnet1.Key(), value, 0)
	h.PutRaw("config2", "{}", 0)
	h.PutRaw("subnets/"+subnet2.Key(), value, 0)
	w.until(t, "the lease", func(s subnet.Snapshot) bool { return len(s.Leases) > 0 })
	checkSubnets(t, w.latest, subnet2)
}

// The configuration is in the snapshots, and a change of it is one of its own.
func testWatchConfig(t *testing.T, h Harness) {
	ctx := t.Context()
	_, err := h.Store.Create(ctx, subnet1, attrs1, time.Hour)
	check(t, err)
	w := watch(t, h)
	missing := subnet.StoredConfig{Missing: true}
	is := func(want subnet.StoredConfig) {
		t.Helper()
		w.until(t, fmt.Sprintf("the configuration %+v", want), func(s subnet.Snapshot) bool {
			checkSubnets(t, s, subnet1)
			return s.Config != nil && *s.Config == want
		})
	}
	is(missing)
	for _, text := range []string{"{ \"Network\":\"10.5.0.0/16\" }\n", "not JSON + %41 & é", "", "{}"} {
		h.PutRaw("config", text, 0)
		is(subnet.StoredConfig{Text: text})
	}
	h.DeleteRaw("config")
	is(missing)
	h.PutRaw("config", "{}", 0)
	is(subnet.StoredConfig{Text: "{}"})
	w.stop(t)

	// What happens in a break is in the first snapshot that tells of it.
	h.PutRaw("config", "again", 0)
	w = watch(t, h)
	is(subnet.StoredConfig{Text: "again"})
	_, err = h.Store.Create(ctx, subnet2, attrs1, time.Hour)
	check(t, err)
	w.until(t, "the lease, beside it", func(s subnet.Snapshot) bool {
		return len(s.Leases) == 2 && s.Config != nil && s.Config.Text == "again"
	})
	w.stop(t)
	h.DeleteRaw("config")
	w = watch(t, h)
	w.until(t, "that there is none", func(s subnet.Snapshot) bool { return s.Config != nil && s.Config.Missing })
}

func testWatchTwice(t *testing.T, h Harness) {
	a, b := watch(t, h), watch(t, h)
	a.next(t)
	b.next(t)
	_, err := h.Store.Create(t.Context(), subnet1, attrs1, time.Hour)
	check(t, err)
	checkSubnets(t, a.next(t), subnet1)
	checkSubnets(t, b.next(t), subnet1)
}

func testWatchCancel(t *testing.T, h Harness) {
	w := watch(t, h)
	w.next(t)
	started := time.Now()
	w.stop(t)
	if took := time.Since(started); took > time.Second {
		t.Errorf("Watch took %s to end", took)
	}
}

func testWatchMany(t *testing.T, h Harness) {
	w := watch(t, h)
	w.next(t)
	const n = 100
	for i := range n {
		s := ip.SubnetOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 6, byte(i), 0}), 24))
		l, err := h.Store.Create(t.Context(), s, attrs1, time.Hour)
		check(t, err)
		if i%2 == 1 {
			check(t, h.Store.Delete(t.Context(), s, l.Revision))
		}
	}
	w.until(t, fmt.Sprint(n/2, " leases"), func(s subnet.Snapshot) bool {
		last := ip.SubnetOf(netip.MustParsePrefix(fmt.Sprintf("10.6.%d.0/24", n-2)))
		return len(s.Leases) == n/2 && s.Find(last) != nil
	})
}
