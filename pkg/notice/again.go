package notice

import (
	"context"
	"time"

	"flanneld/pkg/once"
)

// Again calls do again and again, with pauses between, until ctx ends or it returns nil. It
// logs why it goes on.
func (l *Log) Again(ctx context.Context, pause time.Duration, logf func(format string, a ...any), what string, do func() error) error {
	for {
		err := do()
		if ctx.Err() != nil || err == nil {
			return ctx.Err()
		}
		if l.State(what, err.Error()) {
			logf("%s, trying again: %v", what, err)
		}
		if err := once.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}
