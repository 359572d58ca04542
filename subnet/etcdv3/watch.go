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
	// As many leases then, and of them the same one written last, are the same.
	then := []*pb.RequestOp{rangeOp(&pb.RangeRequest{
		Key: []byte(s.subnetsKey()), RangeEnd: []byte(end(s.subnetsKey())), Revision: int64(v.Revision), CountOnly: true,
	})}
	then = append(then, rangeOp(&pb.RangeRequest{Key: []byte(s.configKey())})) // now
	key, last := v.Last()
	if key != "" {
		then = append(then, rangeOp(&pb.RangeRequest{Key: []byte(s.subnetsKey() + key), Revision: int64(v.Revision)}))
	}
	resp, err := s.txn(ctx, false, reads(s.subnetsKey()), &pb.TxnRequest{Success: then})
	switch {
	case errors.Is(err, rpctypes.ErrFutureRev), errors.Is(err, rpctypes.ErrCompacted):
		v.Listed = false
		return nil
	case err != nil:
		return err
	}
	v.Listed = cluster(resp.Header) == v.Cluster && resp.Responses[0].GetResponseRange().Count == int64(len(v.Known))
	if v.Listed && key != "" {
		kvs := resp.Responses[2].GetResponseRange().Kvs
		v.Listed = len(kvs) == 1 && uint64(kvs[0].ModRevision) == last.Revision
	}
	v.Target = uint64(resp.Header.Revision)
	v.Refuse(nil)
	if v.Listed {
		setConfig(v, resp.Responses[1].GetResponseRange().Kvs, resp.Header.Revision)
	}
	return nil
}
