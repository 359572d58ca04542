package main

import (
	"context"

	"k8s.io/klog/v2"

	"flanneld/pkg/notice"
	"flanneld/pkg/once"
)

// availability has our Node say that its network works, once it does, and again whenever the
// Node was made anew.
type availability struct {
	set     func(context.Context) error // nil if that is left to others
	ready   <-chan struct{}
	changed chan struct{} // what the Node says of us was written
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
	for retry := (once.Backoff{First: kubeRetryFirst, Most: kubeRetryMost}); ; {
		err := a.set(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			log.Over(what)
			retry.Reset()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-a.changed:
			}
			continue
		case log.State(what, err.Error()):
			klog.Warningf("trying again: %v", err)
		}
		if err := once.Sleep(ctx, retry.Double()); err != nil {
			return err
		}
	}
}
