package etcdv3

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	client "go.etcd.io/etcd/client/v3"

	"flanneld/subnet"
	"flanneld/subnet/etcd"
	"flanneld/subnet/etcd/etcdtest"
)

// The first watch goes on from what the start of a daemon reads.
func TestWatchGoesOnFromList(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	server.put(t, prefix+"/config", "{}", 0)
	server.put(t, leaseKey(1), value(1), 0)
	s := storeOf(t, server.URL)
	must(s.Config(t.Context()))(t)
	must(s.List(t.Context()))(t)
	server.put(t, leaseKey(1), value(9), 0)
	w := etcdtest.Watch(t, s)
	w.Until(t, "what was written meanwhile", func(s subnet.Snapshot) bool {
		l := s.Find(subnet1)
		return l != nil && l.PublicIP.V4.String() == "192.0.2.9"
	})
	server.delete(t, leaseKey(1))
	w.Until(t, "nothing", etcdtest.Leases(0))
	if n := s.lists.Load(); n != 1 {
		t.Errorf("all leases were listed %d times, want once", n)
	}
	// A later listing takes nothing from a watch.
	must(s.List(t.Context()))(t)
	w.Stop()
	server.put(t, leaseKey(2), value(2), 0)
	etcdtest.Watch(t, s).Until(t, "the new lease", etcdtest.Leases(1))
	if n := s.lists.Load(); n != 2 {
		t.Errorf("all leases were listed %d times, want twice", n)
	}
}

// compact makes the server forget its history, and gives the space back.
func (s *server) compact(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	put := must(s.Put(ctx, "/elsewhere", "x"))(t)
	must(s.Compact(ctx, put.Header.Revision, client.WithCompactPhysical()))(t)
	must(s.Defragment(ctx, s.URL))(t)
}

// A watch that goes on does not mind what the server does about its history.
func TestWatchThroughCompaction(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, binary string) {
		server := newServer(t, etcdtest.Config{Binary: binary})
		s := storeOf(t, server.URL)
		w := etcdtest.Watch(t, s)
		w.Until(t, "nothing", etcdtest.Leases(0))
		for n := range 5 {
			server.compact(t)
			server.put(t, leaseKey(n), value(1), 0)
			w.Until(t, "one more lease", etcdtest.Leases(n+1))
		}
		if n := s.lists.Load(); n != 1 {
			t.Errorf("all leases were listed %d times, want once", n)
		}
	})
}

// A view moves on with the server's history, lest that is compacted beneath it.
func TestWatchMovesOn(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	s := storeOf(t, server.URL)
	w := etcdtest.Watch(t, s)
	w.Until(t, "nothing", etcdtest.Leases(0))
	w.Stop()
	for range 10 {
		server.put(t, "/elsewhere", "x", 0)
	}
	w = etcdtest.Watch(t, s)
	w.Until(t, "the server's revision", func(s subnet.Snapshot) bool { return s.Revision > 10 })
	if n := s.lists.Load(); n != 1 {
		t.Errorf("all leases were listed %d times, want once", n)
	}
}

func TestWatchThroughSilentCut(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	p := etcdtest.NewProxy(t, server.Server)
	s := storeOf(t, p.URL, server.URL)
	s.failover.Pin(0)
	w := etcdtest.Watch(t, s)
	w.Until(t, "nothing", etcdtest.Leases(0))
	p.Stalled.Store(true)
	server.put(t, leaseKey(1), value(1), 0)
	started := time.Now()
	for w.Last().Find(subnet1) == nil {
		if time.Since(started) > pingAfter+pingTimeout+2*time.Second {
			t.Fatal("the lease is not seen")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := s.lists.Load(); n != 1 {
		t.Errorf("all leases were listed %d times, want once", n)
	}
}

// The watch outlives the leader of the cluster, and leaves a member that has no
// majority behind it.
func TestWatchInCluster(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.StartCluster(t, etcdtest.Config{
		Binary: etcdtest.Etcd7,
		Args:   []string{"--heartbeat-interval=50", "--election-timeout=500"},
	}, 3)
	urls := []string{cluster[0].URL, cluster[1].URL, cluster[2].URL}
	c := newClient(t, client.Config{Endpoints: urls})
	put := func(n int) {
		etcdtest.Eventually(t, "the cluster takes writes", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := c.Put(ctx, leaseKey(n), value(1))
			return err == nil
		})
	}
	s := storeOf(t, urls...)
	w := etcdtest.Watch(t, s)
	w.Until(t, "nothing", etcdtest.Leases(0))

	for n := range 2 {
		leader := slices.IndexFunc(cluster, func(m *etcdtest.Server) bool {
			status := must(c.Status(t.Context(), m.URL))(t)
			return status.Leader == status.Header.MemberId
		})
		if leader < 0 {
			t.Fatal("there is no leader")
		}
		cluster[leader].Kill()
		put(n)
		w.Until(t, "one more lease", etcdtest.Leases(n+1))
		cluster[leader].Restart(t)
	}

	s.failover.Pin(0)
	w.Stop()
	w = etcdtest.Watch(t, s)
	w.Until(t, "the leases", etcdtest.Leases(2))
	cluster[1].Kill()
	cluster[2].Kill()
	etcdtest.Eventually(t, "the member without majority is left", func() bool { return w.Errors() > 0 })
	cluster[1].Launch(t)
	cluster[1].WaitHealthy(t)
	put(2)
	w.Until(t, "one more lease", etcdtest.Leases(3))
	if n := s.lists.Load(); n != 1 {
		t.Errorf("all leases were listed %d times, want once", n)
	}
}

// Many changes at once make few snapshots.
func TestWatchBulk(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	s := storeOf(t, server.URL)
	var snapshots atomic.Int32
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const txns, each = 50, 100
	err := s.Watch(ctx, func(got subnet.Snapshot) {
		if snapshots.Add(1) == 1 {
			fill(t, server.Client, txns, each)
		}
		if len(got.Leases) == txns*each {
			cancel()
		}
	})
	if err != context.Canceled {
		t.Error(err)
	}
	if n := snapshots.Load(); n > 10 {
		t.Errorf("%d changes made %d snapshots", txns*each, n)
	}
	if n := s.lists.Load(); n != 1 {
		t.Errorf("all leases were listed %d times, want once", n)
	}
}

// fill writes leases of many hosts, in transactions.
func fill(t testing.TB, c *client.Client, txns, each int) {
	t.Helper()
	for i := range txns {
		var ops []client.Op
		for j := range each {
			n := i*each + j
			key := fmt.Sprintf("%s/subnets/10.%d.%d.0-24", prefix, n>>8, n&255)
			ops = append(ops, client.OpPut(key, fmt.Sprintf(
				`{"PublicIP":"172.16.%d.%d","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}}`,
				n>>8, n&255, n>>8, n&255)))
		}
		must(c.Txn(context.Background()).Then(ops...).Commit())(t)
	}
}

func TestContinues(t *testing.T) {
	key := []byte("10.5.1.0-24")
	v := new(etcd.View)
	kv := &mvccpb.KeyValue{Key: key, Value: []byte(value(1)), ModRevision: 5, Version: 3}
	reset(v, []subnet.Entry{entry(string(key), kv, time.Time{})}, []*mvccpb.KeyValue{kv}, &pb.ResponseHeader{Revision: 5})
	for _, test := range []struct {
		name  string
		event mvccpb.Event
		want  bool
	}{
		{"the next write", mvccpb.Event{Kv: &mvccpb.KeyValue{Key: key, Version: 4}}, true},
		{"a write after one that was missed", mvccpb.Event{Kv: &mvccpb.KeyValue{Key: key, Version: 5}}, false},
		{"created a second time", mvccpb.Event{Kv: &mvccpb.KeyValue{Key: key, Version: 1}}, false},
		{"created", mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("10.5.2.0-24"), Version: 1}}, true},
		{"unknown before", mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("10.5.2.0-24"), Version: 2}}, false},
		{"deleted", mvccpb.Event{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{Key: key}}, true},
		{"deleted, and unknown before", mvccpb.Event{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{Key: []byte("10.5.2.0-24")}}, false},
	} {
		if got := continues(v, string(test.event.Kv.Key), &test.event); got != test.want {
			t.Errorf("%s: continues is %t", test.name, got)
		}
	}
}

// A second listing asks for what was written since the first, if that will do.
func TestListAgain(t *testing.T) {
	versions(t, func(t *testing.T, binary string) { testListAgain(t, newServer(t, etcdtest.Config{Binary: binary})) })
}

func testListAgain(t *testing.T, server *server) {
	server.put(t, prefix+"/config", "{}", 0)
	for i := range 5 {
		server.put(t, leaseKey(i), value(i), 0)
	}
	s := storeOf(t, server.URL)
	for _, step := range []struct {
		what   string
		change func()
		all    int32 // listings of all leases
	}{
		{"the first", func() {}, 1},
		{"nothing", func() {}, 0},
		{"a new lease, another one written again, and one that cannot be read", func() {
			server.put(t, leaseKey(9), value(9), 0)
			server.put(t, leaseKey(1), value(7), 0)
			server.put(t, leaseKey(1), value(8), 0)
			server.put(t, leaseKey(11), "{", 0)
		}, 0},
		{"one that is deleted and comes back", func() {
			server.delete(t, leaseKey(3))
			server.put(t, leaseKey(3), value(6), 0)
		}, 0},
		{"something elsewhere", func() { server.put(t, prefix+"/elsewhere", "x", 0) }, 0},
		{"one deleted", func() { server.delete(t, leaseKey(4)) }, 1},
		{"one deleted, and another new", func() {
			server.delete(t, leaseKey(9))
			server.put(t, leaseKey(10), value(10), 0)
		}, 1},
		{"very many", func() {
			for i := range fewLeases + 1 {
				server.put(t, leaseKey(20+i), value(i), 0)
			}
		}, 1},
		{"a history that is gone", func() { server.compact(t) }, 1},
		{"nothing again", func() {}, 0},
	} {
		step.change()
		before := s.lists.Load()
		got := must(s.List(t.Context()))(t)
		if n := s.lists.Load() - before; n != step.all {
			t.Errorf("%s: all leases were listed %d times, want %d", step.what, n, step.all)
		}
		want := must(storeOf(t, server.URL).List(t.Context()))(t)
		if len(got.Leases) != len(want.Leases) || len(got.Problems) != len(want.Problems) || got.Revision != want.Revision {
			t.Fatalf("%s: there are %d leases, %d problems, revision %d; want %d, %d, %d",
				step.what, len(got.Leases), len(got.Problems), got.Revision, len(want.Leases), len(want.Problems), want.Revision)
		}
		for i, l := range want.Leases {
			if g := got.Leases[i]; g.Subnet != l.Subnet || g.Attrs != l.Attrs || g.Revision != l.Revision || g.Created != l.Created {
				t.Errorf("%s: there is %+v, want %+v", step.what, g, l)
			}
		}
	}
}
