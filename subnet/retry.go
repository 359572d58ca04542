package subnet

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/notice"
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

// trouble logs what keeps us from reading or writing leases, unless it is over at once, and
// when it is over.
type trouble struct {
	tell func(error) // the trouble that there is, or nil when it is over; may be nil

	mu    sync.Mutex
	log   notice.Log
	since time.Time // zero: no trouble
	err   error     // the latest
	texts []string  // of errors, since then, that were logged as they came
	first *time.Timer
}

const (
	// troubleDebounce is how long the store must be in trouble before that is logged: it
	// may be restarted.
	troubleDebounce = time.Second
	// troubleTexts is how many errors are logged as they come. In the words of the network
	// one trouble has many.
	troubleTexts = 2
	aboutStore   = "store"
)

func (t *trouble) note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tell != nil && (t.since.IsZero() || steady(t.err) != steady(err)) {
		t.tell(err)
	}
	t.err = err
	if t.since.IsZero() {
		t.since = time.Now()
		t.first = time.AfterFunc(troubleDebounce, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.report()
		})
		return
	}
	t.report()
}

// report logs the latest error. The caller holds t.mu.
func (t *trouble) report() {
	if t.since.IsZero() || time.Since(t.since) < troubleDebounce {
		return
	}
	text := steady(t.err)
	switch {
	case slices.Contains(t.texts, text):
	case len(t.texts) < troubleTexts:
		t.texts = append(t.texts, text)
	default:
		text = t.texts[0]
	}
	if t.log.State(aboutStore, text) {
		klog.Errorf("%v; trying again, nothing changes meanwhile", t.err)
	}
}

// steady is what a store says of a failure that stays the same, without which subnet was
// asked for this time.
func steady(err error) string {
	var s interface{ Steady() string }
	if errors.As(err, &s) {
		return s.Steady()
	}
	return err.Error()
}

func (t *trouble) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.since.IsZero() {
		t.first.Stop()
		if t.tell != nil {
			t.tell(nil)
		}
	}
	if t.log.Over(aboutStore) {
		klog.Infof("etcd reachable again after %s", time.Since(t.since).Round(100*time.Millisecond))
	}
	t.since, t.texts = time.Time{}, nil
}

// stop ends what would still be logged later.
func (t *trouble) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first != nil {
		t.first.Stop()
	}
}
