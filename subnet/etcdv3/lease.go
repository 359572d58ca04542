package etcdv3

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
)

// hold returns an etcd lease that has just begun to last for ttl, and when it
// ends: the one that a key has, if that can be, else a new one.
func (s *Store) hold(ctx context.Context, ttl time.Duration, has int64) (id int64, ends time.Time, err error) {
	if ttl == 0 {
		return 0, time.Time{}, nil
	}
	seconds := int64((ttl + time.Second - 1) / time.Second)
	begun := time.Now()
	if has != 0 {
		lasts, err := s.keepAlive(ctx, has)
		if err != nil {
			return 0, time.Time{}, err
		}
		if lasts == seconds {
			s.leases[has] = true
			return has, begun.Add(time.Duration(seconds) * time.Second), nil
		}
	}
	// The number is drawn here, so that a lease is known even if the answer to
	// the request for it gets lost.
	id = rand.Int64()
	s.leases[id] = true
	begun = time.Now()
	if seconds, err = s.grant(ctx, id, seconds); err != nil {
		return 0, time.Time{}, err
	}
	return id, begun.Add(time.Duration(seconds) * time.Second), nil
}

// grant makes an etcd lease with this number, and returns for how many seconds.
func (s *Store) grant(ctx context.Context, id, seconds int64) (lasts int64, err error) {
	err = s.call(ctx, false, writes(s.subnetsKey()), func(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) error {
		resp, err := pb.NewLeaseClient(c).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: seconds}, o...)
		lasts = max(seconds, resp.GetTTL()) // there is a shortest one
		return err
	})
	if errors.Is(err, rpctypes.ErrLeaseExist) { // it does if the first answer was lost
		return lasts, nil
	}
	return lasts, err
}

// keepAlive makes an etcd lease last anew for as long as it was granted, and
// returns that in seconds, or 0 if it is gone.
func (s *Store) keepAlive(ctx context.Context, id int64) (lasts int64, err error) {
	// The options are for calls: to a stream, they would do what they do late.
	err = s.call(ctx, false, writes(s.subnetsKey()), func(ctx context.Context, c *grpc.ClientConn, _ ...grpc.CallOption) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := pb.NewLeaseClient(c).LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		// If that fails, Recv says why.
		_ = stream.Send(&pb.LeaseKeepAliveRequest{ID: id})
		resp, err := stream.Recv()
		lasts = resp.GetTTL()
		return err
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return 0, nil
	}
	return lasts, err
}

// left returns when an etcd lease ends, by our clock, and whether keys are
// attached to it. However long the answer takes, it is not later than that.
func (s *Store) left(ctx context.Context, id int64) (ends time.Time, attached bool, err error) {
	asked := time.Now()
	err = s.call(ctx, false, writes(s.subnetsKey()), func(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) error {
		resp, err := pb.NewLeaseClient(c).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}, o...)
		if err == nil { // of a lease that is gone -1 is left
			ends = asked.Add(time.Duration(max(resp.TTL, 0)) * time.Second)
			attached = len(resp.Keys) > 0
		}
		return err
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return time.Now(), false, nil
	}
	return ends, attached, err
}

// tidy revokes the etcd leases that this store had to do with and that no key is
// attached to any more, except one. Those that can't be seen to now are left to
// the next time.
func (s *Store) tidy(ctx context.Context, except int64) {
	for id := range s.leases {
		if id == except {
			continue
		}
		_, attached, err := s.left(ctx, id)
		if err == nil && attached {
			continue
		}
		if err == nil {
			err = s.revoke(ctx, id)
		}
		if err != nil {
			klog.V(1).Infof("revoking the etcd lease %x, which has no key: %v; trying again after the next write", id, err)
			continue
		}
		delete(s.leases, id)
	}
}

func (s *Store) revoke(ctx context.Context, id int64) error {
	err := s.call(ctx, false, writes(s.subnetsKey()), func(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) error {
		_, err := pb.NewLeaseClient(c).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id}, o...)
		return err
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}
