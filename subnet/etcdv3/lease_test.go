package etcdv3

import (
	"errors"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v3"

	"flanneld/subnet"
	"flanneld/subnet/etcd"
	"flanneld/subnet/etcd/etcdtest"
)

// However often a daemon renews, starts, or finds a subnet taken, it has one
// etcd lease.
func TestEtcdLeasesDoNotPileUp(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, binary string) {
		server := newServer(t, etcdtest.Config{Binary: binary})
		ctx := t.Context()
		s := storeOf(t, server.URL)
		l := must(s.Create(ctx, subnet1, attrs1, subnet.LeaseTTL))(t)
		id := leaseID(t, server, 1)
		for range 20 {
			l = must(s.Update(ctx, subnet1, l.Revision, attrs1, subnet.LeaseTTL))(t)
		}
		server.checkLeases(t, "after many renewals", 1)
		for range 5 {
			s = storeOf(t, server.URL)
			l = must(s.Update(ctx, subnet1, l.Revision, attrs1, subnet.LeaseTTL))(t)
		}
		if now := leaseID(t, server, 1); now != id {
			t.Errorf("the etcd lease was %x and is %x", id, now)
		}
		for range 5 {
			if _, err := s.Create(ctx, subnet1, attrs2, subnet.LeaseTTL); !errors.Is(err, subnet.ErrExists) {
				t.Error(err)
			}
			if _, err := s.Update(ctx, subnet1, l.Revision+1, attrs2, subnet.LeaseTTL); !errors.Is(err, subnet.ErrChanged) {
				t.Error(err)
			}
		}
		server.checkLeases(t, "after failed writes", 1)

		l = must(s.Update(ctx, subnet1, l.Revision, attrs1, time.Hour))(t)
		server.checkLeases(t, "with another time to live", 1)
		l = must(s.Update(ctx, subnet1, l.Revision, attrs1, 0))(t)
		server.checkLeases(t, "as a reservation", 0)
		must(s.Update(ctx, subnet1, l.Revision, attrs1, time.Hour))(t)
		for range 5 {
			server.delete(t, leaseKey(1))
			must(s.Create(ctx, subnet1, attrs1, subnet.LeaseTTL))(t)
		}
		server.checkLeases(t, "after the key was deleted and claimed again", 1)
		server.put(t, leaseKey(1), value(9), 0)
		must(s.Create(ctx, subnet2, attrs1, subnet.LeaseTTL))(t)
		server.checkLeases(t, "after the subnet was lost to another host", 1)
		l = must(s.List(ctx))(t).Find(subnet2)
		if err := s.Delete(ctx, subnet2, l.Revision); err != nil {
			t.Error(err)
		}
		server.checkLeases(t, "after it was deleted", 0)
	})
}

func leaseID(t *testing.T, server *server, n int) client.LeaseID {
	t.Helper()
	resp := must(server.Get(t.Context(), leaseKey(n)))(t)
	if len(resp.Kvs) != 1 {
		t.Fatalf("%s is not there", leaseKey(n))
	}
	return client.LeaseID(resp.Kvs[0].Lease)
}

// When leases end is asked for our own only, however many there are.
func TestEndsAreNotAskedOfOthers(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	const others = 50
	for n := range others {
		server.put(t, leaseKey(100+n), value(100+n), time.Hour)
	}
	s := storeOf(t, server.URL)
	must(s.Create(t.Context(), subnet1, attrs1, subnet.LeaseTTL))(t)
	before := server.asked(t, "LeaseTimeToLive")
	must(s.List(t.Context()))(t)
	w := etcdtest.Watch(t, s)
	w.Until(t, "all leases", etcdtest.Leases(others+1))
	server.put(t, leaseKey(99), value(99), time.Hour)
	w.Until(t, "one more", etcdtest.Leases(others+2))
	if asked := server.asked(t, "LeaseTimeToLive") - before; asked != 1 {
		t.Errorf("the server was asked %d times when a lease ends, want once", asked)
	}
}

// asked returns how often a method of the server's was called.
func (s *server) asked(t *testing.T, method string) int {
	t.Helper()
	resp, err := http.Get(s.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text := must(io.ReadAll(resp.Body))(t)
	line := regexp.MustCompile(`(?m)^grpc_server_started_total\{grpc_method="` + method + `",.*\} (\d+)$`).FindSubmatch(text)
	if line == nil {
		t.Fatalf("the server does not count calls of %s", method)
	}
	return must(strconv.Atoi(string(line[1])))(t)
}

// An etcd lease that another key hangs on is not revoked.
func TestSharedEtcdLease(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	ctx := t.Context()
	id := must(server.Grant(ctx, 600))(t).ID
	for n := range 2 {
		must(server.Put(ctx, leaseKey(1+n), value(1+n), client.WithLease(id)))(t)
	}
	s := storeOf(t, server.URL)
	for _, l := range must(s.List(ctx))(t).Leases[:1] {
		must(s.Update(ctx, l.Subnet, l.Revision, l.Attrs, subnet.LeaseTTL))(t)
	}
	server.checkLeases(t, "after one key was moved to a new etcd lease", 2)
	if n := len(must(s.List(ctx))(t).Leases); n != 2 {
		t.Errorf("%d leases are left, want 2", n)
	}

	must(server.Put(ctx, leaseKey(3), value(3), client.WithLease(id)))(t)
	s = storeOf(t, server.URL)
	l := must(s.List(ctx))(t).Find(subnet2)
	if err := s.Delete(ctx, subnet2, l.Revision); err != nil {
		t.Error(err)
	}
	server.checkLeases(t, "after the second key was deleted", 2)
	if n := len(must(s.List(ctx))(t).Leases); n != 2 {
		t.Errorf("%d leases are left, want 2", n)
	}
}

// A renewal makes the time to live whole again, whichever run of the daemon it
// was that the etcd lease comes from.
func TestRenewalLasts(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	const ttl = 6 * time.Second
	s := storeOf(t, server.URL)
	l := must(s.Create(t.Context(), subnet1, attrs1, ttl))(t)
	for range 6 {
		time.Sleep(ttl / 5)
		s = storeOf(t, server.URL)
		before := time.Now()
		l = must(s.Update(t.Context(), subnet1, l.Revision, attrs1, ttl))(t)
		if lasts := l.Expires.Sub(before); lasts < ttl || lasts > ttl+time.Since(before) {
			t.Errorf("renewed for %s, want %s", lasts, ttl)
		}
	}
}

// The etcd lease of a write whose outcome was unknown is revoked once it is
// known that no key has it.
func TestEtcdLeaseOfALostWrite(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	p := etcdtest.NewProxy(t, server.Server)
	s := storeOf(t, p.URL)
	ctx := t.Context()
	id, _, err := s.hold(ctx, subnet.LeaseTTL, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.DropAnswers.Store(true)
	if _, err := s.commit(ctx, unchanged(s.subnetKey(subnet1), 0), putOp(s.subnetKey(subnet1), value(1), id)); err == nil || errors.Is(err, etcd.ErrCondition) {
		t.Errorf("with its answer lost: %v", err)
	}
	for range 3 {
		if _, err := s.Create(t.Context(), subnet1, attrs1, subnet.LeaseTTL); err == nil || errors.Is(err, subnet.ErrExists) {
			t.Errorf("with all answers lost: %v", err)
		}
	}
	p.DropAnswers.Store(false)
	etcdtest.Eventually(t, "the server is reached again", func() bool {
		_, err := s.List(t.Context())
		return err == nil
	})
	must(s.Create(t.Context(), subnet2, attrs1, subnet.LeaseTTL))(t)
	server.checkLeases(t, "after a write that went well, beside one that did, too", 2)
}
