package etcdv3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/etcd"
)

var _ subnet.Store = (*Store)(nil)

// Config implements subnet.Store.
func (s *Store) Config(ctx context.Context) ([]byte, error) {
	resp, err := s.get(ctx, s.configKey(), "")
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", s.configKey(), err)
	case len(resp.Kvs) == 0:
		if there := s.elsewhere(ctx); there != "" {
			return nil, fmt.Errorf("%w at %s%s", subnet.ErrNoConfig, s.configKey(), there)
		}
		return nil, s.options.NoConfig(s.endpoints[s.failover.Current()].Server, 3, s.configKey(), subnet.ErrNoConfig)
	}
	return resp.Kvs[0].Value, nil
}

// elsewhere says so if the configuration is at the key that is like ours but for the slash
// in front. In version 2 these are one key.
func (s *Store) elsewhere(ctx context.Context) string {
	root := strings.TrimPrefix(s.prefix, "/")
	if root == s.prefix {
		root = "/" + root
	}
	key := path.Join(root, "config")
	if resp, err := s.get(ctx, key, ""); err != nil || len(resp.Kvs) == 0 {
		return ""
	}
	return fmt.Sprintf("; there is one at %s: if that is the network's, say -etcd-prefix=%s", key, root)
}

// Guarded implements etcd.Store. Where version 3 has users, it serves nobody else.
func (s *Store) Guarded(ctx context.Context) (bool, error) {
	if users, known := s.endpoints[s.failover.Current()].users(); known {
		return users, nil
	}
	err := s.call(ctx, false, reads(s.prefix), func(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) error {
		// What tells whether there are users is for the user root alone. Asked to
		// authenticate nobody, any server says whether it would authenticate anyone.
		_, err := pb.NewAuthClient(c).Authenticate(ctx, &pb.AuthenticateRequest{}, o...)
		return err
	})
	switch {
	case err == nil, errors.Is(err, etcd.ErrRefused):
		return true, nil
	case errors.Is(err, rpctypes.ErrAuthNotEnabled), errors.Is(err, etcd.ErrNoAPI):
		return false, nil
	}
	return false, err
}

// list is etcd.Watch.List. Of leases that this store did not write, Expires tells only
// whether there is an end; see expires.
func (s *Store) list(ctx context.Context, v *etcd.View) error {
	var done bool
	var err error
	if v.Listed {
		done, err = s.update(ctx, v)
	}
	if err == nil && !done {
		err = s.listAll(ctx, v)
	}
	if err != nil {
		return fmt.Errorf("listing leases: %w", err)
	}
	return nil
}

func (s *Store) listAll(ctx context.Context, v *etcd.View) error {
	s.onList()
	resp, err := s.txn(ctx, false, reads(s.subnetsKey()), &pb.TxnRequest{Success: []*pb.RequestOp{
		rangeOp(&pb.RangeRequest{Key: []byte(s.subnetsKey()), RangeEnd: []byte(end(s.subnetsKey()))}),
		rangeOp(&pb.RangeRequest{Key: []byte(s.configKey())}),
	}})
	if err != nil {
		return err
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	entries, err := s.entries(ctx, kvs, v)
	if err != nil {
		return err
	}
	reset(v, entries, kvs, resp.Header)
	setConfig(v, resp.Responses[1].GetResponseRange().Kvs, resp.Header.Revision)
	return nil
}

// entries are what a view is to have of keys.
func (s *Store) entries(ctx context.Context, kvs []*mvccpb.KeyValue, v *etcd.View) ([]subnet.Entry, error) {
	entries := make([]subnet.Entry, len(kvs))
	for i, kv := range kvs {
		ends, err := s.expires(ctx, kv, v)
		if err != nil {
			return nil, err
		}
		entries[i] = entry(s.below(kv), kv, ends)
	}
	return entries, nil
}

// end is the key after all that begin with a prefix.
func end(prefix string) string {
	return prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1)
}

func (s *Store) below(kv *mvccpb.KeyValue) string {
	return string(bytes.TrimPrefix(kv.Key, []byte(s.subnetsKey())))
}

// expires returns when a key ends. etcd would have to be asked that for each
// key: it is, for keys that this store writes, since a person may have written
// one of them anew. Another host's is said to last as long as leases do, counted
// from when its last write was first seen; only that host has to know better.
func (s *Store) expires(ctx context.Context, kv *mvccpb.KeyValue, v *etcd.View) (time.Time, error) {
	if kv.Lease == 0 {
		return time.Time{}, nil
	}
	key := s.below(kv)
	s.mu.Lock()
	ours := s.written[key]
	s.mu.Unlock()
	if ours {
		ends, _, err := s.left(ctx, kv.Lease)
		return ends, err
	}
	if k, ok := v.Known[key]; ok && k.Revision == uint64(kv.ModRevision) && !k.Ends.IsZero() {
		return k.Ends, nil
	}
	return time.Now().Add(subnet.LeaseTTL), nil
}

// put is etcd.Leases.Put.
func (s *Store) put(ctx context.Context, sub ip.Subnet, a subnet.Attrs, ttl time.Duration, revision uint64) (*subnet.Lease, error) {
	return s.write(ctx, sub, revision, sub, a, ttl)
}

// replace is etcd.Leases.Replace. The old key goes before the new one comes, in the order of
// events: flannel takes the routes of a subnet away when its key goes, whatever other key has a
// part of it.
func (s *Store) replace(ctx context.Context, from ip.Subnet, revision uint64, to ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	l, err := s.write(ctx, from, revision, to, a, ttl)
	if !errors.Is(err, etcd.ErrCondition) {
		return l, err
	}
	if resp, err := s.get(ctx, s.subnetKey(to), ""); err == nil && len(resp.Kvs) > 0 {
		return nil, subnet.ErrExists
	}
	return nil, err
}

// write writes the lease of a subnet if revision is that of the last write of the same one, or
// of that in whose place it comes.
func (s *Store) write(ctx context.Context, from ip.Subnet, revision uint64, to ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	value, err := a.Value()
	if err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer func() { <-s.writing }()
	has, created, err := s.leaseOf(ctx, from, revision)
	if err != nil {
		return nil, err
	}
	id, ends, err := s.hold(ctx, ttl, has)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.written[to.Key()] = true
	s.mu.Unlock()
	compare := unchanged(s.subnetKey(from), revision)
	ops := []*pb.RequestOp{putOp(s.subnetKey(to), value, id)}
	if from != to {
		compare = append(compare, unchanged(s.subnetKey(to), 0)...)
		ops = append([]*pb.RequestOp{deleteOp(s.subnetKey(from))}, ops...)
	}
	at, err := s.commit(ctx, compare, ops...)
	switch {
	case errors.Is(err, etcd.ErrCondition):
		s.tidy(ctx, 0)
		return nil, err
	case err != nil: // whether the key is attached to the etcd lease is unknown
		return nil, err
	}
	s.tidy(ctx, id)
	if created == 0 || from != to {
		created = int64(at)
	}
	return &subnet.Lease{Subnet: to, Attrs: a, Expires: ends, Revision: at, Created: created}, nil
}

// remove is etcd.Leases.Remove.
func (s *Store) remove(ctx context.Context, sub ip.Subnet, revision uint64) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer func() { <-s.writing }()
	if _, _, err := s.leaseOf(ctx, sub, revision); err != nil {
		return err
	}
	if _, err := s.commit(ctx, unchanged(s.subnetKey(sub), revision), deleteOp(s.subnetKey(sub))); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.written, sub.Key())
	s.mu.Unlock()
	s.tidy(ctx, 0)
	return nil
}

func (s *Store) begin(ctx context.Context) error {
	select {
	case s.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leaseOf returns the etcd lease that a key is attached to, and when it was made, if revision is
// that of its last write, and minds the lease from now on. That of a key that is to be
// created is 0.
func (s *Store) leaseOf(ctx context.Context, sub ip.Subnet, revision uint64) (id, created int64, err error) {
	if revision == 0 {
		return 0, 0, nil
	}
	resp, err := s.get(ctx, s.subnetKey(sub), "")
	switch {
	case err != nil:
		return 0, 0, err
	case len(resp.Kvs) == 0 || uint64(resp.Kvs[0].ModRevision) != revision:
		return 0, 0, etcd.ErrCondition
	}
	if id = resp.Kvs[0].Lease; id != 0 {
		s.leases[id] = true
	}
	return id, resp.Kvs[0].CreateRevision, nil
}

// commit writes on conditions, and returns the revision of that.
func (s *Store) commit(ctx context.Context, conditions []*pb.Compare, ops ...*pb.RequestOp) (at uint64, err error) {
	resp, err := s.txn(ctx, true, writes(s.subnetsKey()), &pb.TxnRequest{Compare: conditions, Success: ops})
	if err == nil && !resp.Succeeded {
		err = etcd.ErrCondition
	}
	return uint64(resp.GetHeader().GetRevision()), err
}

func (s *Store) txn(ctx context.Context, write bool, a etcd.Access, r *pb.TxnRequest) (resp *pb.TxnResponse, err error) {
	err = s.call(ctx, write, a, func(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) (err error) {
		resp, err = pb.NewKVClient(c).Txn(ctx, r, o...)
		return err
	})
	return resp, err
}

// get reads a key, or all up to another one, as a majority of the cluster has
// them.
func (s *Store) get(ctx context.Context, key, end string) (resp *pb.RangeResponse, err error) {
	r := &pb.RangeRequest{Key: []byte(key)}
	if end != "" {
		r.RangeEnd = []byte(end)
	}
	err = s.call(ctx, false, reads(key), func(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) (err error) {
		resp, err = pb.NewKVClient(c).Range(ctx, r, o...)
		return err
	})
	return resp, err
}

// unchanged is the condition that the last write of a key was of that revision, or
// that it is not there where that is 0.
func unchanged(key string, revision uint64) []*pb.Compare {
	return []*pb.Compare{{
		Key:         []byte(key),
		Target:      pb.Compare_MOD,
		Result:      pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: int64(revision)},
	}}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func deleteOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)}}}
}

func putOp(key, value string, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
		RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease},
	}}
}
