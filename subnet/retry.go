package subnet

import (
	"context"
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
type backoff struct{ pause time.Duration }

func (b *backoff) next() time.Duration {
	b.pause = min(max(2*b.pause, 50*time.Millisecond), retryMost)
	return b.pause - rand.N(b.pause/2)
}

func (b *backoff) reset() { b.pause = 0 }

// said remembers the last message, so that one that keeps coming up is logged
// when it is new and once a minute.
type said struct {
	text string
	at   time.Time
}

func (s *said) isNews(text string) bool {
	if text == s.text && time.Since(s.at) < time.Minute {
		return false
	}
	s.text, s.at = text, time.Now()
	return true
}

// trouble logs what keeps us from reading or writing leases: at once, then a
// line every quietFor at most, and once when it is over.
type trouble struct {
	mu     sync.Mutex
	since  time.Time // zero: no trouble
	logged time.Time
}

const quietFor = 15 * time.Second

func (t *trouble) note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.since.IsZero() {
		t.since = now
	}
	if !t.logged.IsZero() && now.Sub(t.logged) < quietFor {
		return
	}
	t.logged = now
	klog.Errorf("trying again, while forwarding goes on: %v", err)
}

func (t *trouble) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		return
	}
	klog.Infof("the store is in order again, after %s", time.Since(t.since).Round(100*time.Millisecond))
	t.since, t.logged = time.Time{}, time.Time{}
}
