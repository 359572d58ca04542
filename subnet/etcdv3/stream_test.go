package etcdv3

import (
	"errors"
	"strconv"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"flanneld/subnet"
	"flanneld/subnet/etcd"
)

// clusterID is that of the cluster that a view is of.
func clusterID(t *testing.T, v *etcd.View) uint64 {
	t.Helper()
	id, err := strconv.ParseUint(v.Cluster, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// One of several events of one revision that can't be taken comes again: the others
// do not stand for it.
func TestHalfOfATransaction(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	s := storeOf(t, server.URL)
	must(s.Create(t.Context(), subnet1, attrs1, subnet.LeaseTTL))(t)
	id := int64(leaseID(t, server, 1))
	v := new(etcd.View)
	if err := s.list(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	server.Kill() // which is asked when our own key ends
	resp := &pb.WatchResponse{Header: &pb.ResponseHeader{ClusterId: clusterID(t, v), Revision: int64(v.Revision) + 1}}
	for _, n := range []int{2, 1} {
		resp.Events = append(resp.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{
			Key: []byte(leaseKey(n)), Value: []byte(value(n)), ModRevision: int64(v.Revision) + 1, Version: int64(3 - n), Lease: id,
		}})
	}
	before := v.Revision
	if _, err := s.apply(t.Context(), s.endpoints[0], v, resp); err == nil || v.Revision != before {
		t.Errorf("the view was at revision %d and is at %d, %v", before, v.Revision, err)
	}
}

// The two watches of a stream begin one after the other, and the server sends what the first
// one brings beside the answer that the second one has begun: that may say an earlier
// revision, and is no other history. The answer for leases is, if it does.
func TestConfigWatchBeginsLate(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	s := storeOf(t, server.URL)
	v := new(etcd.View)
	if err := s.list(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	begun := &pb.WatchResponse{Created: true, Header: &pb.ResponseHeader{ClusterId: clusterID(t, v), Revision: int64(v.Revision)}}
	v.Revision++
	if _, err := s.apply(t.Context(), s.endpoints[0], v, begun); !errors.Is(err, etcd.ErrHistory) {
		t.Errorf("a watch for leases that begins before what is known: %v", err)
	}
	begun.WatchId = configWatch
	if changed, err := s.apply(t.Context(), s.endpoints[0], v, begun); changed || err != nil {
		t.Errorf("a watch for the configuration that begins before what is known: %v, %v", changed, err)
	}
}
