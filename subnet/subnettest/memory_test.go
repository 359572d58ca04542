package subnettest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
)

func TestMemory(t *testing.T) {
	Suite(t, func(*testing.T) Harness { return NewMemory().Harness() })
}

func TestMemoryExpiryInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		created, err := m.Create(t.Context(), subnet1, attrs1, subnet.LeaseTTL)
		check(t, err)
		time.Sleep(subnet.LeaseTTL - time.Hour)
		renewed, err := m.Update(t.Context(), subnet1, created.Revision, attrs1, subnet.LeaseTTL)
		check(t, err)
		if got, want := renewed.Expires, time.Now().Add(subnet.LeaseTTL); !got.Equal(want) {
			t.Errorf("renewed until %s, want %s", got, want)
		}
		time.Sleep(subnet.LeaseTTL - time.Second)
		if s, _ := m.List(t.Context()); s.Find(subnet1) == nil {
			t.Error("expired early")
		}
		var last subnet.Snapshot
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Watch(ctx, func(s subnet.Snapshot) { last = s }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if last.Find(subnet1) != nil {
			t.Error("the watch did not see the expiry")
		}
	})
}

func TestMemoryFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		m := NewMemory()
		other := m.Join()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()

		m.Fail(boom, Create)
		if _, err := m.Create(ctx, subnet1, attrs1, 0); err != boom {
			t.Errorf("Create = %v, want the fault", err)
		}
		m.FailAfter(boom, Create)
		if _, err := m.Create(ctx, subnet1, attrs1, 0); err != boom {
			t.Errorf("Create = %v, want the fault", err)
		}
		m.Heal()
		if _, err := m.Create(ctx, subnet1, attrs1, 0); !errors.Is(err, subnet.ErrExists) {
			t.Errorf("Create after one whose answer was lost = %v, want ErrExists", err)
		}
		if n := m.Calls(Create); n != 3 {
			t.Errorf("%d calls, want 3", n)
		}

		ended := make(chan error)
		seen := 0
		go func() { ended <- m.Watch(ctx, func(subnet.Snapshot) { seen++ }) }()
		synctest.Wait()
		m.DropWatches(boom)
		if err := <-ended; err != boom || seen != 1 {
			t.Errorf("dropped watch: %v after %d snapshots, want the fault after 1", err, seen)
		}

		m.Hang(List, Config)
		go func() { _, err := m.List(ctx); ended <- err }()
		synctest.Wait()
		m.Heal(List)
		if err := <-ended; err != nil {
			t.Errorf("List after the hang was lifted: %v", err)
		}
		if _, err := other.Config(ctx); !errors.Is(err, subnet.ErrNoConfig) {
			t.Errorf("a fault of one client reached the other: %v", err)
		}
		if _, err := m.Config(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hanging Config = %v", err)
		}

		m.Wipe()
		if s, err := other.List(t.Context()); err != nil || len(s.Leases) != 0 {
			t.Errorf("after Wipe: %+v, %v", s, err)
		}
	})
}

func TestCluster(t *testing.T) {
	AssignedSuite(t, func(*testing.T) AssignedHarness { return NewCluster().AssignedHarness() })
}
