package etcdv3

import (
	"errors"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v3"

	"flanneld/subnet"
	"flanneld/subnet/etcd"
	"flanneld/subnet/etcd/etcdtest"
)

// What is written is what flannel writes since 0.18.
func TestKeyAndValue(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	s := storeOf(t, server.URL)
	a := attrs1
	a.BackendType, a.BackendData = "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`
	must(s.Create(t.Context(), subnet1, a, subnet.LeaseTTL))(t)
	resp := must(server.Get(t.Context(), "", client.WithPrefix()))(t)
	const want = `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}`
	if len(resp.Kvs) != 1 || string(resp.Kvs[0].Key) != leaseKey(1) || string(resp.Kvs[0].Value) != want {
		t.Fatalf("the server has %s, want %s", resp.Kvs, want)
	}
	left := must(server.TimeToLive(t.Context(), client.LeaseID(resp.Kvs[0].Lease)))(t)
	if left.GrantedTTL != 86400 {
		t.Errorf("it lasts for %d s, want 86400", left.GrantedTTL)
	}
}

// A write whose answer is lost is not sent to the next endpoint: the second
// answer would be about the first one's work.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	p := etcdtest.NewProxy(t, server.Server)
	s := storeOf(t, p.URL, server.URL)
	s.failover.Pin(0)
	l := must(s.Create(t.Context(), subnet1, attrs1, 0))(t)
	p.DropAnswers.Store(true)
	_, err := s.commit(t.Context(), unchanged(s.subnetKey(subnet1), l.Revision), putOp(s.subnetKey(subnet1), value(2), 0))
	if err == nil || errors.Is(err, etcd.ErrCondition) {
		t.Errorf("update whose answer was lost: %v, want that its outcome is unknown", err)
	}
	now, err := s.List(t.Context())
	if err != nil || len(now.Leases) != 1 || now.Leases[0].Revision == l.Revision {
		t.Errorf("after it: %+v, %v; want the lease, updated", now, err)
	}
}

func TestRevision(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	s := storeOf(t, server.URL)
	for range 3 {
		put := must(server.Put(t.Context(), "/elsewhere", "x"))(t)
		if got := must(s.List(t.Context()))(t).Revision; got != uint64(put.Header.Revision) {
			t.Errorf("the revision is %d, the store's is %d", got, put.Header.Revision)
		}
	}
}

// Of another host's lease it is known only whether it ends.
func TestExpires(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	server.put(t, leaseKey(1), value(1), time.Hour)
	server.put(t, leaseKey(2), value(2), 0)
	s := storeOf(t, server.URL)
	ends := func(n int) time.Duration {
		l := must(s.List(t.Context()))(t).Leases[n-1]
		if l.Reserved() {
			return 0
		}
		return time.Until(l.Expires).Round(time.Minute)
	}
	if ends(1) != subnet.LeaseTTL || ends(2) != 0 {
		t.Errorf("they end in %s and %s, want %s and never", ends(1), ends(2), subnet.LeaseTTL)
	}
	// The subnet becomes ours; then a person writes it anew.
	l := must(s.List(t.Context()))(t).Leases[0]
	must(s.Update(t.Context(), subnet1, l.Revision, attrs1, 2*time.Hour))(t)
	if ends(1) != 2*time.Hour {
		t.Errorf("ours ends in %s, want 2 hours", ends(1))
	}
	w := etcdtest.Watch(t, s)
	w.Until(t, "ours", etcdtest.Leases(2))
	server.put(t, leaseKey(1), value(1), 20*time.Minute)
	w.Until(t, "when the person wants it to end", func(s subnet.Snapshot) bool {
		return time.Until(s.Leases[0].Expires).Round(time.Minute) == 20*time.Minute
	})
	if ends(1) != 20*time.Minute {
		t.Errorf("as the person wrote it it ends in %s, want 20 minutes", ends(1))
	}
}
