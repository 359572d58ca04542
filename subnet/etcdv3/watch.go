package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/etcd"
)

// pace is the least time between two listings. A stream that ends sooner than
// that is the end of the watch.
const pace = time.Second

// errHistory is that what passed meanwhile can't be had as events any more, or is
// of another history.
var errHistory = errors.New("the history is lost")

// Watch implements subnet.Store. It returns an error when no endpoint answers,
// or when an endpoint breaks off one stream after the other. What it knows is
// kept: the next Watch goes on from there without listing all leases again,
// unless the server's history does not reach back to it or is another one.
func (s *Store) Watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	s.mu.Lock()
	v := s.saved
	s.saved = nil // a second Watch beside this one starts from nothing
	s.watched = true
	s.mu.Unlock()
	if v == nil {
		v = &view{}
	}
	defer func() {
		s.mu.Lock()
		s.saved = v
		s.mu.Unlock()
	}()
	err := s.watch(ctx, v, yield)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("watching leases: %w", err)
}

func (s *Store) watch(ctx context.Context, v *view, yield func(subnet.Snapshot)) error {
	if err := s.verify(ctx, v); err != nil {
		return err
	}
	owed := true // a snapshot, to the caller
	deliver := func(news bool) {
		owed = owed || news
		if owed && v.revision >= v.target {
			owed = false
			yield(v.snapshot())
		}
	}
	var listed time.Time
	for {
		if !v.listed {
			if err := sleep(ctx, pace-time.Since(listed)); err != nil {
				return err
			}
			if err := s.list(ctx, v); err != nil {
				return err
			}
			listed = time.Now()
			deliver(true)
		}
		started := time.Now()
		err := s.follow(ctx, v, deliver)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errHistory):
			v.listed = false
		case !etcd.Unanswered(err) || time.Since(started) < pace:
			return err
		default:
			if err := s.verify(ctx, v); err != nil {
				return err
			}
		}
	}
}

// verify finds out whether the server still has the history that v follows, and
// how far it has gone on. A server that started anew would have us wait for a
// revision that it has yet to reach.
func (s *Store) verify(ctx context.Context, v *view) error {
	resp, err := s.get(ctx, s.configKey(), "")
	if err != nil {
		return err
	}
	var config int64
	if len(resp.Kvs) > 0 {
		config = resp.Kvs[0].ModRevision
	}
	// A cluster that was set up anew in the old place has the old identity. That
	// the configuration was not rewritten is one more sign that it is the same.
	if h := resp.Header; h.ClusterId != v.cluster || h.Revision < v.revision || config != v.config {
		v.listed = false
	}
	v.config = config
	v.target = resp.Header.Revision
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
