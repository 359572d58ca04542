package subnet

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// sleep waits for d, or until ctx ends; then it returns ctx.Err().
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// backoff is pauses that double from 50 ms to retryMost, each cut short by up
// to half at random.
type backoff struct {
	random *rand.Rand
	pause  time.Duration
}

func (b *backoff) next() time.Duration {
	b.pause = min(max(2*b.pause, 50*time.Millisecond), retryMost)
	return b.pause - draw(b.random, b.pause/2)
}

func (b *backoff) reset() { b.pause = 0 }

func newRandom(seed, more uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, more)) }

// draw returns a duration from 0 to less than d.
func draw(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }

// said remembers messages, so that one that keeps coming up is logged when it is
// new and once a minute.
type said struct{ at map[string]time.Time }

func (s *said) isNews(text string) bool {
	now := time.Now()
	maps.DeleteFunc(s.at, func(_ string, at time.Time) bool { return now.Sub(at) >= time.Minute })
	if _, ok := s.at[text]; ok {
		return false
	}
	if s.at == nil {
		s.at = make(map[string]time.Time)
	}
	s.at[text] = now
	return true
}

// trouble logs what keeps us from reading or writing leases: at once, then a
// line every quietFor at most, also where it comes and goes, and a line when it
// is over.
type trouble struct {
	tell func(bool) // that there is trouble, or no more; may be nil

	mu     sync.Mutex
	since  time.Time // zero: no trouble
	told   bool      // that there is
	logged time.Time // when that was last told
}

const quietFor = 15 * time.Second

func (t *trouble) note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.since.IsZero() {
		t.since = now
		if t.tell != nil {
			t.tell(true)
		}
	}
	if !t.logged.IsZero() && now.Sub(t.logged) < quietFor {
		return
	}
	t.logged, t.told = now, true
	klog.Errorf("%v; trying again, nothing changes meanwhile", err)
}

func (t *trouble) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.since.IsZero() && t.tell != nil {
		t.tell(false)
	}
	if t.told {
		klog.Infof("in order again, after %s", time.Since(t.since).Round(100*time.Millisecond))
	}
	t.since, t.told = time.Time{}, false
}
