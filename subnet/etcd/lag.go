package etcd

import (
	"sync"
	"time"

	"flanneld/subnet"
)

// Lag is how long etcd takes to answer what is asked now and then. A nil Lag notes nothing.
type Lag struct {
	mu     sync.Mutex
	latest time.Duration
	slow   bool
	tell   func(time.Duration)
}

// Tell has f called whenever etcd took too long for an answer, twice in a row, with how long that
// was at least; and with 0 when an answer comes soon again. f should return soon.
func (l *Lag) Tell(f func(took time.Duration)) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell = f
}

// Note takes how long an answer took.
func (l *Lag) Note(took time.Duration) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	least := min(took, l.latest)
	l.latest = took
	was := l.slow
	if l.slow = least > subnet.SlowAnswer; !l.slow {
		least = 0
	}
	if l.tell != nil && (l.slow || was) {
		l.tell(least)
	}
}

// Doubtful reports whether the latest answer took too long, and the one before did not.
func (l *Lag) Doubtful() bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest > subnet.SlowAnswer && !l.slow
}
