package etcdv3

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

// kept is a keeper that runs.
type kept struct {
	stop func()

	mu   sync.Mutex
	last subnet.Holding
}

func keep(t *testing.T, url string) *kept {
	k := &kept{}
	ctx, cancel := context.WithCancel(context.Background())
	keeper := &subnet.Keeper{
		Store:  storeOf(t, url),
		Margin: time.Hour,
		Prepare: func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			return attrs1, nil, nil
		},
		Changed: func(h subnet.Holding) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.last = h
		},
		Waiting: func(string) {},
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = keeper.Run(ctx)
	}()
	k.stop = func() { cancel(); <-ended }
	t.Cleanup(k.stop)
	return k
}

func (k *kept) until(t *testing.T, what string, is func(own *subnet.Lease) bool) *subnet.Lease {
	t.Helper()
	var own *subnet.Lease
	etcdtest.Eventually(t, what, func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		own = k.last.Own
		return own != nil && is(own)
	})
	return own
}

// A host keeps its subnet through all that may happen to its key, and never has
// more than one etcd lease.
func TestKeeper(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, binary string) {
		server := newServer(t, etcdtest.Config{Binary: binary})
		const config = `{"Network":"10.5.0.0/16"}`
		server.put(t, prefix+"/config", config, 0)
		k := keep(t, server.URL)
		own := k.until(t, "there is a lease", func(*subnet.Lease) bool { return true })
		key := prefix + "/subnets/" + own.Subnet.Key()
		again := func(what string, is func(*subnet.Lease) bool) {
			t.Helper()
			before := own
			own = k.until(t, what, func(l *subnet.Lease) bool { return l.Revision != before.Revision && is(l) })
			if own.Subnet != before.Subnet {
				t.Fatalf("%s: the subnet was %s and is %s", what, before.Subnet, own.Subnet)
			}
		}
		lasting := func(l *subnet.Lease) bool { return time.Until(l.Expires) > subnet.LeaseTTL-time.Minute }
		server.checkLeases(t, "at first", 1)

		server.delete(t, key)
		again("the deleted key is claimed again", lasting)
		server.put(t, key, "garbage", 0)
		again("the damaged value is written again", lasting)
		etcdtest.Eventually(t, "one etcd lease is left", func() bool {
			return len(must(server.Leases(t.Context()))(t).Leases) == 1
		})
		server.put(t, key, value(1), 0)
		again("it is a reservation", (*subnet.Lease).Reserved)
		server.put(t, key, value(1), 10*time.Minute)
		again("it is renewed", lasting)

		k.stop()
		k = keep(t, server.URL)
		again("the next run takes it over", lasting)
		etcdtest.Eventually(t, "one etcd lease is left", func() bool {
			return len(must(server.Leases(t.Context()))(t).Leases) == 1
		})

		server.Kill()
		server.Dir = t.TempDir()
		server.Restart(t)
		server.put(t, prefix+"/config", config, 0)
		again("the subnet is claimed in the new store", lasting)
		server.checkLeases(t, "at last", 1)
	})
}
