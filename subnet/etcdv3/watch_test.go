package etcdv3

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	client "go.etcd.io/etcd/client/v3"

	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

func TestWatchServerRestarts(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, binary string) {
		server := newServer(t, etcdtest.Config{Binary: binary})
		server.put(t, prefix+"/config", "{}", 0)
		server.put(t, leaseKey(1), value(1), 0)
		s := storeOf(t, server.URL)
		w := etcdtest.Watch(t, s)
		w.Until(t, "one lease", etcdtest.Leases(1))
		for i := range 2 {
			server.Kill()
			server.Restart(t)
			server.put(t, leaseKey(2+i), value(2), 0)
			w.Until(t, "one more lease", etcdtest.Leases(2+i))
		}
		if n := s.lists.Load(); n != 1 {
			t.Errorf("all leases were listed %d times, want once", n)
		}
	})
}

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

func TestWatchServerReplaced(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, binary string) {
		server := newServer(t, etcdtest.Config{Binary: binary})
		for n := range 10 {
			server.put(t, leaseKey(n), value(1), 0)
		}
		w := etcdtest.Watch(t, storeOf(t, server.URL))
		w.Until(t, "the leases", etcdtest.Leases(10))
		server.Kill()
		server.Dir = t.TempDir() // the cluster keeps its identity, not its history
		server.Restart(t)
		w.Until(t, "nothing", etcdtest.Leases(0))
		server.put(t, leaseKey(1), value(1), 0)
		w.Until(t, "a new lease", etcdtest.Leases(1))
	})
}

// A server that went back in time, and on in another way, may have passed what we
// know by the time that we reach it again.
func TestWatchServerSetBack(t *testing.T) {
	t.Parallel()
	for _, backup := range []bool{false, true} {
		t.Run(fmt.Sprint("backup ", backup), func(t *testing.T) {
			t.Parallel()
			server := plainEtcd(t)
			begin := func() {
				server.put(t, prefix+"/config", "{}", 0)
				server.put(t, leaseKey(1), value(1), time.Hour)
			}
			begin()
			saved := t.TempDir()
			server.Kill()
			if backup {
				if err := os.CopyFS(saved, os.DirFS(server.Dir)); err != nil {
					t.Fatal(err)
				}
			}
			server.Restart(t)
			server.put(t, leaseKey(2), value(2), time.Hour)
			s := storeOf(t, server.URL)
			w := etcdtest.Watch(t, s)
			w.Until(t, "both leases", etcdtest.Leases(2))
			w.Stop()
			server.Kill()
			server.Dir = saved
			server.Restart(t)
			if !backup {
				begin()
			}
			server.put(t, leaseKey(3), value(3), time.Hour)
			for range 10 {
				server.put(t, "/elsewhere", "x", 0)
			}
			etcdtest.Watch(t, s).Until(t, "what is there now", func(s subnet.Snapshot) bool {
				return len(s.Leases) == 2 && s.Leases[1].PublicIP.V4.String() == "192.0.2.3"
			})
		})
	}
}

// What is there after a break is shown whole, whether or not the server still
// has the events.
func TestWatchBreak(t *testing.T) {
	t.Parallel()
	for _, compacted := range []bool{false, true} {
		t.Run(fmt.Sprint("compacted ", compacted), func(t *testing.T) {
			t.Parallel()
			server := plainEtcd(t)
			for n := range 3 {
				server.put(t, leaseKey(n), value(n+1), 0)
			}
			s := storeOf(t, server.URL)
			w := etcdtest.Watch(t, s)
			w.Until(t, "the leases", etcdtest.Leases(3))
			w.Stop()
			server.put(t, leaseKey(0), value(99), 0)
			server.delete(t, leaseKey(1))
			server.put(t, leaseKey(3), value(4), 0)
			lists := int32(1)
			if compacted {
				lists++
				server.compact(t)
			}
			var got []string
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := s.Watch(ctx, func(s subnet.Snapshot) {
				for _, l := range s.Leases {
					got = append(got, l.Subnet.String()+" "+l.PublicIP.V4.String())
				}
				cancel()
			})
			if err != context.Canceled {
				t.Error(err)
			}
			want := []string{"10.5.0.0/24 192.0.2.99", "10.5.2.0/24 192.0.2.3", "10.5.3.0/24 192.0.2.4"}
			if !slices.Equal(got, want) {
				t.Errorf("first snapshot is %q, want %q", got, want)
			}
			if n := s.lists.Load(); n != lists {
				t.Errorf("all leases were listed %d times, want %d", n, lists)
			}
		})
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

// What others write far from the leases must not cost a listing, nor that the
// server forgets it.
func TestWatchResumesBesideOtherWrites(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	server.put(t, leaseKey(1), value(1), 0)
	s := storeOf(t, server.URL)
	for i := range 3 {
		for range 5 {
			server.put(t, "/elsewhere", "x", 0)
		}
		w := etcdtest.Watch(t, s)
		w.Until(t, "the lease", etcdtest.Leases(1))
		w.Stop()
		server.put(t, leaseKey(1), value(2+i), 0)
	}
	if n := s.lists.Load(); n != 1 {
		t.Errorf("all leases were listed %d times, want once", n)
	}
	if v := s.saved; v.revision < 10 {
		t.Errorf("the view stayed behind at revision %d", v.revision)
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

func TestWatchEndsWithContext(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	p := etcdtest.NewProxy(t, server.Server)
	w := etcdtest.Watch(t, storeOf(t, p.URL))
	w.Until(t, "nothing", etcdtest.Leases(0))
	p.Stalled.Store(true)
	started := time.Now()
	w.Stop()
	if took := time.Since(started); took > time.Second {
		t.Errorf("the watch took %s to end", took)
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
	var v view
	v.expect(1)
	v.take(string(key), &mvccpb.KeyValue{Key: key, Value: []byte(value(1)), ModRevision: 5, Version: 3}, time.Time{})
	v.reset(&pb.ResponseHeader{Revision: 5})
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
		if got := v.continues(string(test.event.Kv.Key), &test.event); got != test.want {
			t.Errorf("%s: continues is %t", test.name, got)
		}
	}
}
