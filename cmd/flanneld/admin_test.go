package main_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v2"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flanneld/pkg/lab"
)

// store is what tests know of a store. Daemons find out by themselves which one
// it is.
type store struct {
	name    string
	version string // of etcd; see lab.EtcdOptions
	admin   func(testing.TB, *lab.Etcd) admin
	// nested is how the log calls the lease whose key is subnets/folder/key.
	nested string
}

var (
	etcdV2 = store{name: "v2", admin: newAdminV2, nested: "folder"}
	etcdV3 = store{name: "v3", version: "3.6", admin: newAdminV3, nested: "folder/key"}
)

// admin reads and changes what is in the store, past all daemons. Keys are
// whole.
type admin interface {
	// get returns nil if there is no such key.
	get(ctx context.Context, key string) (*entry, error)
	// put writes a key that lives for so long, or without an end if that is 0.
	put(ctx context.Context, key, value string, ttl time.Duration) error
	delete(ctx context.Context, key string) error
	// forget makes the store lose the history of what happened so far, after a
	// restart.
	forget(ctx context.Context) error
}

// entry is what is under a key.
type entry struct {
	key, value string
	ttl        time.Duration // what is left of it; 0 means for ever
	revision   uint64        // when it was written
}

func (e *entry) String() string {
	if e == nil {
		return "nothing"
	}
	return fmt.Sprintf("%q for %s, revision %d", e.value, e.ttl, e.revision)
}

type adminV2 struct{ keys client.KeysAPI }

func newAdminV2(t testing.TB, e *lab.Etcd) admin {
	t.Helper()
	keys, err := e.Keys()
	check(t, err)
	return adminV2{keys}
}

func (a adminV2) get(ctx context.Context, key string) (*entry, error) {
	r, err := a.keys.Get(ctx, key, &client.GetOptions{Quorum: true})
	switch {
	case client.IsKeyNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &entry{key: key, value: r.Node.Value, ttl: time.Duration(r.Node.TTL) * time.Second, revision: r.Node.ModifiedIndex}, nil
}

func (a adminV2) put(ctx context.Context, key, value string, ttl time.Duration) error {
	_, err := a.keys.Set(ctx, key, value, &client.SetOptions{TTL: ttl})
	return err
}

func (a adminV2) delete(ctx context.Context, key string) error {
	_, err := a.keys.Delete(ctx, key, nil)
	return err
}

// forget writes more than the thousand events that etcd remembers.
func (a adminV2) forget(ctx context.Context) error {
	for i := range 1100 {
		if err := a.put(ctx, "/other/key", fmt.Sprint(i), 0); err != nil {
			return err
		}
	}
	return nil
}

// adminV3 keeps its connection.
type adminV3 struct{ *clientv3.Client }

func newAdminV3(t testing.TB, e *lab.Etcd) admin {
	t.Helper()
	c, err := e.ClientV3()
	check(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return adminV3{c}
}

func (a adminV3) get(ctx context.Context, key string) (*entry, error) {
	r, err := a.Get(ctx, key)
	if err != nil || len(r.Kvs) == 0 {
		return nil, err
	}
	kv := r.Kvs[0]
	e := &entry{key: key, value: string(kv.Value), revision: uint64(kv.ModRevision)}
	if kv.Lease != 0 {
		l, err := a.TimeToLive(ctx, clientv3.LeaseID(kv.Lease))
		if err != nil {
			return nil, err
		}
		if l.TTL < 0 { // it ended meanwhile, and the key with it
			return nil, nil
		}
		e.ttl = time.Duration(max(l.TTL, 1)) * time.Second // less than a second shows as 0
	}
	return e, nil
}

func (a adminV3) put(ctx context.Context, key, value string, ttl time.Duration) error {
	var lease clientv3.LeaseID
	if ttl > 0 {
		l, err := a.Grant(ctx, int64(ttl/time.Second))
		if err != nil {
			return err
		}
		lease = l.ID
	}
	_, err := a.Put(ctx, key, value, clientv3.WithLease(lease))
	return err
}

func (a adminV3) delete(ctx context.Context, key string) error {
	r, err := a.Delete(ctx, key)
	if err == nil && r.Deleted == 0 {
		return fmt.Errorf("there is no %s", key)
	}
	return err
}

// forget compacts all history but the latest.
func (a adminV3) forget(ctx context.Context) error {
	r, err := a.Put(ctx, "/other/key", "")
	if err != nil {
		return err
	}
	_, err = a.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical())
	return err
}

// put writes a key below the prefix, without a time to live.
func (n *network) put(key, value string) {
	n.t.Helper()
	check(n.t, n.admin.put(n.ctx, keyPrefix+"/"+key, value, 0))
}

// expire has a key expire in a second.
func (n *network) expire(key string) {
	n.t.Helper()
	check(n.t, n.admin.put(n.ctx, keyPrefix+"/"+key, n.get(key).value, time.Second))
}

func (n *network) delete(key string) {
	n.t.Helper()
	check(n.t, n.admin.delete(n.ctx, keyPrefix+"/"+key))
}

// get returns what is under a key, nil if there is none.
func (n *network) get(key string) *entry {
	n.t.Helper()
	e, err := n.admin.get(n.ctx, keyPrefix+"/"+key)
	check(n.t, err)
	return e
}

// waitKey waits until what is under a key, or nil, is as it should be.
func (n *network) waitKey(within time.Duration, key, what string, good func(*entry) bool) time.Duration {
	n.t.Helper()
	return n.wait(within, what, func() string {
		if e := n.get(key); !good(e) {
			return fmt.Sprintf("%s is %v", key, e)
		}
		return ""
	})
}
