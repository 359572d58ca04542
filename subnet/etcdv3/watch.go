package etcdv3

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

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
	return s.resume.Watch(ctx, func(v *view) error { return s.watch(ctx, v, yield) })
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
			if err := etcd.Sleep(ctx, pace-time.Since(listed)); err != nil {
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
			refused := v.refused
			if err := s.verify(ctx, v); err != nil {
				return err
			}
			owed = owed || refused != nil && v.refused == nil
		}
	}
}

// verify finds out whether the server still has the history that v follows, and
// how far it has gone on. A server that was set back, to nothing or to a backup,
// would have us wait for a revision that it has yet to reach, or bring only what
// came after that if it has passed it by now.
func (s *Store) verify(ctx context.Context, v *view) error {
	if !v.listed {
		return nil
	}
	// As many leases then, and of them the same one written last, are the same.
	then := []*pb.RequestOp{rangeOp(&pb.RangeRequest{
		Key: []byte(s.subnetsKey()), RangeEnd: []byte(end(s.subnetsKey())), Revision: v.revision, CountOnly: true,
	})}
	then = append(then, rangeOp(&pb.RangeRequest{Key: []byte(s.configKey())})) // now
	key, last := v.last()
	if key != "" {
		then = append(then, rangeOp(&pb.RangeRequest{Key: []byte(s.subnetsKey() + key), Revision: v.revision}))
	}
	resp, err := s.txn(ctx, false, reads(s.subnetsKey()), &pb.TxnRequest{Success: then})
	switch {
	case errors.Is(err, rpctypes.ErrFutureRev), errors.Is(err, rpctypes.ErrCompacted):
		v.listed = false
		return nil
	case err != nil:
		return err
	}
	v.listed = resp.Header.ClusterId == v.cluster && resp.Responses[0].GetResponseRange().Count == int64(len(v.known))
	if v.listed && key != "" {
		kvs := resp.Responses[2].GetResponseRange().Kvs
		v.listed = len(kvs) == 1 && kvs[0].ModRevision == last.revision
	}
	v.target, v.refused = resp.Header.Revision, nil
	if v.listed {
		v.setConfig(resp.Responses[1].GetResponseRange().Kvs, resp.Header.Revision)
	}
	return nil
}
