package etcdv3

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	client "go.etcd.io/etcd/client/v3"

	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

func TestImport(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, binary string) {
		server := newServer(t, etcdtest.Config{Binary: binary})
		ctx := t.Context()
		s := storeOf(t, server.URL)
		const key = "subnets/10.5.1.0-24"
		if e := must(s.Import(ctx, key, value(1), 1500*time.Millisecond+time.Hour))(t); e != nil {
			t.Errorf("in place of a new key there is %v", e)
		}
		left := must(server.TimeToLive(ctx, leaseID(t, server, 1)))(t)
		if left.GrantedTTL != 3602 {
			t.Errorf("it was granted %d s", left.GrantedTTL)
		}
		for _, ttl := range []time.Duration{time.Hour, 0} {
			if e := must(s.Import(ctx, key, value(2), ttl))(t); e == nil || e.Key != "10.5.1.0-24" || e.Value != value(1) || e.Expires.IsZero() {
				t.Errorf("in its place there is %v", e)
			}
		}
		server.checkLeases(t, "after one was for nothing", 1)
		if e := must(s.Import(ctx, "subnets/10.5.2.0-24", value(2), 0))(t); e != nil {
			t.Errorf("in place of a new key there is %v", e)
		}
		entries := must(s.Entries(ctx))(t)
		if len(entries) != 2 || entries[1].Value != value(2) || !entries[1].Expires.IsZero() {
			t.Errorf("there are %v", entries)
		}
		server.checkLeases(t, "with a reservation", 1)

		// Its daemon finds it to be any lease.
		l := must(s.List(ctx))(t).Find(subnet1)
		must(s.Update(ctx, subnet1, l.Revision, attrs1, subnet.LeaseTTL))(t)
		server.checkLeases(t, "after a renewal", 1)
		if left := must(server.TimeToLive(ctx, leaseID(t, server, 1)))(t); left.GrantedTTL != 86400 {
			t.Errorf("it was renewed for %d s", left.GrantedTTL)
		}
	})
}

// A write whose answer got lost is sent again, and finds its own work.
func TestImportAnswerLost(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	ctx := t.Context()
	p := etcdtest.NewProxy(t, server.Server)
	s := storeOf(t, p.URL, server.URL)
	s.failover.Pin(0)
	p.DropAnswers.Store(true)
	if e, err := s.Import(ctx, "subnets/10.5.1.0-24", value(1), time.Hour); e != nil || err != nil {
		t.Errorf("with the answer about the etcd lease lost: %v, %v", e, err)
	}
	const id = 4711
	must(s.grant(ctx, id, 3600))(t)
	s.failover.Pin(0)
	if kv, err := s.createKey(ctx, leaseKey(2), value(2), id); kv != nil || err != nil {
		t.Errorf("with the answer about the key lost: %v, %v", kv, err)
	}
	server.checkLeases(t, "each with its key,", 2)
}

// What can't be written leaves no etcd lease behind, and that one has ended
// meanwhile can be told.
func TestImportFails(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	ctx := t.Context()
	s := storeOf(t, server.URL)
	if _, err := s.createKey(ctx, leaseKey(1), value(1), 4711); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("without its etcd lease: %v", err)
	}
	must(server.RoleAdd(ctx, "reader"))(t)
	must(server.RoleGrantPermission(ctx, "reader", prefix, client.GetPrefixRangeEnd(prefix), client.PermissionType(client.PermRead)))(t)
	must(server.UserAdd(ctx, "reader", "secret"))(t)
	must(server.UserGrantRole(ctx, "reader", "reader"))(t)
	must(server.UserAdd(ctx, "root", "root"))(t)
	must(server.UserGrantRole(ctx, "root", "root"))(t)
	must(server.AuthEnable(ctx))(t)
	s = newStore(t, Options{Endpoints: []string{server.URL}, Username: "reader", Password: "secret"})
	_, err := s.Import(ctx, "subnets/10.5.1.0-24", value(1), time.Hour)
	etcdtest.CheckError(t, "no permission", err, `of user "reader"`, "subnets/10.5.1.0-24")
	root := newClient(t, client.Config{Endpoints: []string{server.URL}, Username: "root", Password: "root"})
	if n := len(must(root.Leases(ctx))(t).Leases); n != 0 {
		t.Errorf("%d etcd leases are left", n)
	}
}
