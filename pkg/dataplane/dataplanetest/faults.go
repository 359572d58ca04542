package dataplanetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"flanneld/pkg/once"
	"flanneld/pkg/state"
)

var errAnswerLost = errors.New("the answer was lost")

// Faults are what goes wrong, each as a share between 0 and 1 of all chances
// to.
type Faults struct {
	Rand       *rand.Rand // not used by anyone else
	Refuse     float64    // a step fails
	LoseAnswer float64    // a step takes effect, and is said to have failed
	Interrupt  float64    // a dump is interrupted
	LoseEvent  float64    // of an event is only told that some were lost
	// Pause is how long a dump takes, and each way of a batch, at most, and how
	// late an event may come.
	Pause time.Duration
}

func (f *Faults) hit(share float64) bool { return share > 0 && f.Rand.Float64() < share }

// SetFaults makes things go wrong from now on; the zero Faults ends that.
func (f *Fake) SetFaults(faults Faults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

// InterruptDumps makes the next n dumps incomplete.
func (f *Fake) InterruptDumps(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.interrupts = n
}

// SetDeaf makes events vanish without a trace, as no kernel does.
func (f *Fake) SetDeaf(deaf bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deaf = deaf
}

// Refuse makes each step about the object k fail with err, until err is nil.
func (f *Fake) Refuse(k state.Key, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused[k] = err
}

func (f *Fake) pause(ctx context.Context) error {
	f.mu.Lock()
	var d time.Duration
	if f.faults.Pause > 0 {
		d = time.Duration(f.faults.Rand.Int64N(int64(f.faults.Pause)))
	}
	f.mu.Unlock()
	if d == 0 {
		return ctx.Err()
	}
	return once.Sleep(ctx, d)
}
