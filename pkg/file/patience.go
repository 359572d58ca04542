package file

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Patience is how long a file system is waited for. It may give no answer, as that of a network.
const Patience = 5 * time.Second

// ErrNoAnswer is what a file system does that was waited for in vain.
var ErrNoAnswer = errors.New("no answer from its file system")

// Patient does one thing with files, again and again. No more than one call hangs; all who
// ask meanwhile wait for that, until it has taken Patience. With a nil Patient each call is by
// itself.
type Patient[T any] struct {
	mu      sync.Mutex
	pending *call[T] // nil for none
}

// call is one call. What it returned is there once done is closed.
type call[T any] struct {
	began  time.Time
	done   chan struct{}
	result T
	err    error
}

// Do returns what do does, or ErrNoAnswer, or ctx.Err(). Then do goes on, and what it returns
// is lost.
func (p *Patient[T]) Do(ctx context.Context, do func() (T, error)) (T, error) {
	if p == nil {
		p = new(Patient[T])
	}
	p.mu.Lock()
	is := p.pending
	if is == nil {
		is = &call[T]{began: time.Now(), done: make(chan struct{})}
		p.pending = is
		go func() {
			is.result, is.err = do()
			p.mu.Lock()
			p.pending = nil
			p.mu.Unlock()
			close(is.done)
		}()
	}
	p.mu.Unlock()
	late := time.NewTimer(time.Until(is.began.Add(Patience)))
	defer late.Stop()
	var none T
	select {
	case <-is.done:
		return is.result, is.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-late.C:
		return none, fmt.Errorf("%w for more than %s", ErrNoAnswer, Patience)
	}
}

// Patiently does one thing with files once, as a Patient does.
func Patiently(ctx context.Context, do func() error) error {
	_, err := (*Patient[struct{}])(nil).Do(ctx, func() (struct{}, error) { return struct{}{}, do() })
	return err
}
