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
	retry := once.Backoff{First: kubeRetryFirst, Most: kubeRetryMost}
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	var own *subnet.Assignment
	for set := false; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case own = <-a.own:
		case <-again.C:
		}
		again.Stop()
		if own.Available || !own.Subnet.IsValid() {
			log.Over(what)
			retry.Reset()
			continue
		}
		if text := "the Node says that its network does not work, and it does: saying so again"; set && log.Event(text) {
			klog.Info(text)
		}
		if err := a.set(ctx); err != nil {
			if ctx.Err() == nil && log.State(what, err.Error()) {
				klog.Warningf("trying again: %v", err)
			}
			again.Reset(retry.Double())
			continue
		}
		log.Over(what)
		retry.Reset()
		set = true
		if err := once.Sleep(ctx, availablePause); err != nil {
			return err
		}
	}
}
