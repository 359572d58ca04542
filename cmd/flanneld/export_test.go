package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/state"
)

// Machine is what leases call this machine.
func Machine() string { return machineName(machineID()) }

// StartOnFaultyKernel is the program on the real kernel, with faults as text
// says: for how long, the share of operations that fail, and a seed, such as
// "30s 0.3 1".
func StartOnFaultyKernel(text string) int {
	f := &faulty{host: kernel.New(), tries: make(map[string]int)}
	var length string
	_, err := fmt.Sscan(text, &length, &f.share, &f.seed)
	if err == nil {
		f.length, err = time.ParseDuration(length)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "faults %q: %v\n", text, err)
		return 2
	}
	klog.Infof("faults: %s", text)
	f.began = time.Now()
	return start(f)
}

// faulty is a host whose kernel fails at random. Whether it fails depends on the
// seed, on what is to be done, and on how often that was tried before, and so
// not on the order or the time of things.
type faulty struct {
	host
	began  time.Time
	length time.Duration
	share  float64
	seed   uint64

	mu    sync.Mutex
	tries map[string]int
}

// fault returns why something fails, or nil.
func (f *faulty) fault(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.began) > f.length {
		return nil
	}
	f.tries[what]++
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s %d", what, f.tries[what])
	r := rand.New(rand.NewPCG(f.seed, h.Sum64()))
	if r.Float64() >= f.share {
		return nil
	}
	errs := []error{unix.EBUSY, unix.EINTR, unix.ENOBUFS}
	return errs[r.IntN(len(errs))]
}

// Apply lets steps fail. Those that fail for want of buffers take effect all the
// same: it is the kernel's answer that found none.
func (f *faulty) Apply(ctx context.Context, ops []state.Op) []error {
	errs := make([]error, len(ops))
	var pass []state.Op
	var at []int // of each in ops
	for i, op := range ops {
		errs[i] = f.fault(fmt.Sprint(op.Key()))
		if errs[i] == nil || errors.Is(errs[i], unix.ENOBUFS) {
			pass, at = append(pass, op), append(at, i)
		}
	}
	for i, err := range f.host.Apply(ctx, pass) {
		if errs[at[i]] == nil {
			errs[at[i]] = err
		}
	}
	return errs
}

func (f *faulty) Dump(ctx context.Context, want state.Set) (state.Observed, error) {
	if err := f.fault("dump"); err != nil {
		return nil, fmt.Errorf("listing routes: %w: %w", dataplane.ErrIncomplete, err)
	}
	return f.host.Dump(ctx, want)
}

func (f *faulty) Interfaces(ctx context.Context) ([]kernel.Interface, error) {
	if err := f.fault("interfaces"); err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	return f.host.Interfaces(ctx)
}
