package etcdv3

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"flanneld/subnet/etcd"
)

// verify is etcd.Watch.Verify.
func (s *Store) verify(ctx context.Context, v *etcd.View) error {
	if !v.Listed {
		return nil
	}
	_, err := s.verifyAnd(ctx, v)
	return err
}

// verifyAnd verifies a view that is Listed, and asks more in the same moment. If the view is
// Listed no more, there is no answer.
func (s *Store) verifyAnd(ctx context.Context, v *etcd.View, more ...*pb.RequestOp) ([]*pb.ResponseOp, error) {
	// As many leases then, and of them the same one written last, are the same.
	then := []*pb.RequestOp{rangeOp(&pb.RangeRequest{
		Key: []byte(s.subnetsKey()), RangeEnd: []byte(end(s.subnetsKey())), Revision: int64(v.Revision), CountOnly: true,
	})}
	then = append(then, rangeOp(&pb.RangeRequest{Key: []byte(s.configKey())})) // now
	key, last := v.Last()
	if key != "" {
		then = append(then, rangeOp(&pb.RangeRequest{Key: []byte(s.subnetsKey() + key), Revision: int64(v.Revision)}))
	}
	resp, err := s.txn(ctx, false, reads(s.subnetsKey()), &pb.TxnRequest{Success: append(then, more...)})
	switch {
	case errors.Is(err, rpctypes.ErrFutureRev), errors.Is(err, rpctypes.ErrCompacted):
		v.Listed = false
		return nil, nil
	case err != nil:
		return nil, err
	}
	v.Listed = cluster(resp.Header) == v.Cluster && resp.Responses[0].GetResponseRange().Count == int64(len(v.Known))
	if v.Listed && key != "" {
		kvs := resp.Responses[2].GetResponseRange().Kvs
		v.Listed = len(kvs) == 1 && uint64(kvs[0].ModRevision) == last.Revision
	}
	v.Target = uint64(resp.Header.Revision)
	v.Refuse(nil)
	if !v.Listed {
		return nil, nil
	}
	setConfig(v, resp.Responses[1].GetResponseRange().Kvs, resp.Header.Revision)
	return resp.Responses[len(then):], nil
}

// fewLeases are as many as a view takes one by one.
const fewLeases = 100

// update brings a view to what is there now by what was written since, and reports whether it
// is that: it is not if much was written, or anything was deleted, or the history is another one.
func (s *Store) update(ctx context.Context, v *etcd.View) (bool, error) {
	answers, err := s.verifyAnd(ctx, v, rangeOp(&pb.RangeRequest{
		Key: []byte(s.subnetsKey()), RangeEnd: []byte(end(s.subnetsKey())), MinModRevision: int64(v.Revision) + 1, Limit: fewLeases,
	}))
	if err != nil || !v.Listed {
		return false, err
	}
	since := answers[0].GetResponseRange()
	entries, err := s.entries(ctx, since.Kvs, v)
	if err != nil {
		return false, err
	}
	all := int64(len(v.Known))
	for _, e := range entries {
		if _, known := v.Known[e.Key]; !known {
			all++
		}
	}
	if since.More || since.Count != all {
		return false, nil
	}
	for i, e := range entries {
		v.Put(e, since.Kvs[i].Version)
	}
	v.Revision = v.Target
	return true, nil
}
