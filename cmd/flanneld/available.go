package main

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/subnet"
)

// availability has our Node say that its network works, once it does, whenever it says
// otherwise: it was made anew, say.
type availability struct {
	set   func(context.Context) error // nil if that is left to others
	ready <-chan struct{}
	own   once.Slot[*subnet.Assignment] // as the API says
}

// availablePause is how long what was said is left alone: others may say otherwise, as often.
const availablePause = time.Second

// holds takes what this host holds.
func (a *availability) holds(h subnet.Holding) {
	if own := h.Snapshot.Own; own != nil && !h.Partial {
		a.own.Put(own)
	}
}

// Run says it until ctx ends, and returns ctx.Err().
func (a *availability) Run(ctx context.Context) error {
	if a.set == nil {
		return nil
	}
	if err := await(ctx, a.ready); err != nil {
		return err
	}
	var log notice.Log
	const what = "the condition of our Node"
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case own := <-a.own:
			if own.Available || !own.Subnet.IsValid() {
				continue
			}
		}
		for retry := (once.Backoff{First: kubeRetryFirst, Most: kubeRetryMost}); ; {
			err := a.set(ctx)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil {
				log.Over(what)
				if err := once.Sleep(ctx, availablePause); err != nil {
					return err
				}
				break
			}
			if log.State(what, err.Error()) {
				klog.Warningf("trying again: %v", err)
			}
			if err := once.Sleep(ctx, retry.Double()); err != nil {
				return err
			}
		}
	}
}
