package once_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/once"
)

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := once.Sleep(t.Context(), time.Minute); err != nil || time.Since(began) != time.Minute {
			t.Errorf("slept for %s: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if err := once.Sleep(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("slept for %s: %v", time.Since(began), err)
		}
	})
}

func TestBackoff(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	b := once.Backoff{First: time.Second, Most: 5 * time.Second}
	alone := b
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		if d := alone.Double(); d != want {
			t.Errorf("pause %d without chance is %s, want %s", i, d, want)
		}
	}
	for range 2 {
		if !b.Fresh() {
			t.Error("the backoff is not fresh before its first pause")
		}
		for i, most := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
			if d := b.Next(random); d > most || d <= most/2 {
				t.Errorf("pause %d is %s, want more than half of %s and at most that", i, d, most)
			}
			if b.Fresh() {
				t.Errorf("the backoff is fresh after pause %d", i)
			}
		}
		b.Reset()
	}
}

func TestWake(t *testing.T) {
	slot := make(chan struct{}, 1)
	for range 3 {
		once.Wake(slot)
	}
	<-slot
	select {
	case <-slot:
		t.Error("there is a second signal")
	default:
	}
}

func TestSlot(t *testing.T) {
	s := once.NewSlot[int]()
	for i := range 3 {
		s.Put(i)
	}
	if got := <-s; got != 2 {
		t.Errorf("received %d, want the latest value", got)
	}
	select {
	case got := <-s:
		t.Errorf("received %d, want nothing", got)
	default:
	}
}

func TestSlotOfManySenders(*testing.T) {
	s := once.NewSlot[int]()
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			for range 1000 {
				s.Put(i)
			}
		})
	}
	g.Wait()
	<-s
}
