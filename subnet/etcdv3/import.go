package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"k8s.io/klog/v2"

	"flanneld/subnet"
	"flanneld/subnet/etcd"
)

// Entries returns all that is below "subnets/" as it is written. Expires tells
// only whether there is an end.
func (s *Store) Entries(ctx context.Context) ([]subnet.Entry, error) {
	resp, err := s.get(ctx, s.subnetsKey(), end(s.subnetsKey()))
	if err != nil {
		return nil, fmt.Errorf("listing leases: %w", err)
	}
	entries := make([]subnet.Entry, len(resp.Kvs))
	for i, kv := range resp.Kvs {
		entries[i] = entry(s.below(kv), kv, ends(kv))
	}
	return entries, nil
}

// ends is the zero time for a key without an end, and some other for one with.
func ends(kv *mvccpb.KeyValue) time.Time {
	if kv.Lease == 0 {
		return time.Time{}
	}
	return time.Now().Add(subnet.LeaseTTL)
}

// Import writes a key below the prefix, unless it is there, with an etcd lease of
// its own for ttl, or without one where ttl is 0. It returns nil, or what is there
// instead, as Entries does.
func (s *Store) Import(ctx context.Context, key, value string, ttl time.Duration) (*subnet.Entry, error) {
	var id int64
	if ttl > 0 {
		id = rand.Int64()
		if _, err := s.grant(ctx, id, int64((ttl+time.Second-1)/time.Second)); err != nil {
			return nil, fmt.Errorf("writing %s: %w", key, err)
		}
	}
	kv, err := s.createKey(ctx, path.Join(s.prefix, key), value, id)
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound): // its time is over already
		return nil, nil
	case err == nil && kv == nil, etcd.Unanswered(err): // the key is attached to it, or may be
	case id != 0:
		if err := s.revoke(ctx, id); err != nil {
			klog.Warningf("revoking the etcd lease %x, which has no key and ends in %s: %v", id, ttl, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", key, err)
	}
	if kv == nil {
		return nil, nil
	}
	e := entry(path.Base(key), kv, ends(kv))
	return &e, nil
}

// createKey writes a key that is not there, or returns what is.
func (s *Store) createKey(ctx context.Context, key, value string, id int64) (there *mvccpb.KeyValue, err error) {
	txn := &pb.TxnRequest{
		Compare: unchanged(key, 0),
		Success: []*pb.RequestOp{putOp(key, value, id)},
		Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: []byte(key)})},
	}
	// It may be sent twice: if only the answer was lost, the key is there with our
	// own etcd lease.
	resp, err := s.txn(ctx, false, writes(key), txn)
	if err != nil || resp.Succeeded {
		return nil, err
	}
	there = resp.Responses[0].GetResponseRange().Kvs[0]
	if there.Lease == id && id != 0 {
		return nil, nil
	}
	return there, nil
}
