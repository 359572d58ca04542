package subnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/once"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// savedHere has the keeper start with what a holding was, if it can't reach its
// store. dir has to be made outside of synctest.
func savedHere(t *testing.T, dir string, h subnet.Holding) option {
	t.Helper()
	path := filepath.Join(dir, "state.json")
	if err := h.Save(path, "/net"); err != nil {
		t.Fatal(err)
	}
	return func(k *subnet.Keeper) {
		k.Saved = func() (subnet.Saved, error) { return subnet.LoadSaved(path, "/net") }
	}
}

// offline has a host get a lease and end, and start without the store.
func offline(t *testing.T, dir string, m *subnettest.Memory, options ...option) (h *host, client *subnettest.Memory) {
	t.Helper()
	h = start(t, m.Join(), me, options...)
	before := h.held()
	h.stop()
	client = m.Join()
	client.Fail(errDown)
	h = start(t, client, me, append(options, savedHere(t, dir, before))...)
	time.Sleep(6 * time.Second)
	h.want(t, before.Own.Subnet.String())
	return h, client
}

// Without the store nothing is waited for that the host does not have. The
// configuration that is found at last is the one that it has, and is known to be.
func TestStartsOffline(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		h, client := offline(t, dir, m)
		h.mu.Lock()
		h.waiting = ""
		h.mu.Unlock()
		before := h.held()
		time.Sleep(time.Minute)
		if s := h.waitsFor(); s != "" {
			t.Errorf("with its subnet it waits for %q", s)
		}
		client.Heal()
		time.Sleep(5 * time.Second)
		h.want(t, before.Own.Subnet.String())
		if now := h.held(); now.Own.Revision == before.Own.Revision || now.Config != before.Config {
			t.Errorf("it holds %+v", now)
		}
	})
}

// A host that cannot have one of the address families of a new configuration goes on without it,
// also after a restart, and has it as soon as it can.
func TestRestartWithoutAFamily(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		h := start(t, m.Join(), me)
		before := h.held()
		h.stop()
		both := `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`
		m.SetConfig(both)
		var has6 atomic.Bool
		lacks := errors.New("eth0 has no IPv6 address yet")
		h = start(t, m.Join(), me, savedHere(t, dir, before), func(k *subnet.Keeper) {
			k.Prepare = func(_ context.Context, c *subnet.Config, _ subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
				a := attrs(me)
				if c.V6.Network.IsValid() {
					if !has6.Load() {
						return subnet.Attrs{}, nil, lacks
					}
					a.PublicIP.V6 = netip.MustParseAddr("2001:db8::1")
				}
				return a, nil, nil
			}
		})
		time.Sleep(time.Minute)
		h.want(t, before.Own.Subnet.String())
		if got := h.held().Unfollowed; got != lacks.Error() {
			t.Errorf("the reason is %q", got)
		}
		has6.Store(true)
		time.Sleep(5 * time.Second)
		if now := h.held(); now.Own.Subnet.V4 != before.Own.Subnet.V4 || !now.Own.Subnet.V6.IsValid() || now.Unfollowed != "" {
			t.Errorf("it holds %s, unfollowed %q", now.Own.Subnet, now.Unfollowed)
		}
	})
}

// What cannot be read yet of what was saved is no reason never to read it.
func TestStartsOfflineOnceRead(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		h := start(t, m.Join(), me)
		before := h.held()
		h.stop()
		client := m.Join()
		client.Fail(errDown)
		var hangs atomic.Bool
		hangs.Store(true)
		h = start(t, client, me, savedHere(t, dir, before), func(k *subnet.Keeper) {
			read := k.Saved
			k.Saved = func() (subnet.Saved, error) {
				if hangs.Load() {
					return subnet.Saved{}, fmt.Errorf("reading: %w", subnet.ErrUnread)
				}
				return read()
			}
		})
		time.Sleep(time.Minute)
		h.want(t, "none")
		hangs.Store(false)
		time.Sleep(2 * time.Second)
		h.want(t, before.Own.Subnet.String())
	})
}

// A store that takes half a second for its answers, and says that there is no configuration,
// can be reached: for the configuration that is saved it takes one that cannot.
func TestSlowStoreIsNoOutage(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		h := start(t, m.Join(), me)
		saved := savedHere(t, dir, h.held())
		h.stop()
		m.UnsetConfig()
		client := m.Join()
		var outages outages
		h = start(t, slow{client}, me, saved, outages.option)
		time.Sleep(time.Minute)
		if h.held().Own != nil || outages.n.Load() > 0 {
			t.Errorf("it holds %+v after %d outages", h.held(), outages.n.Load())
		}
		client.Fail(errDown)
		time.Sleep(8 * time.Second)
		if h.held().Own == nil {
			t.Error("it does not start without the store")
		}
	})
}

// slow is a store that takes half a second to read the configuration.
type slow struct{ subnet.Store }

func (s slow) Config(ctx context.Context) ([]byte, error) {
	if err := once.Sleep(ctx, 500*time.Millisecond); err != nil {
		return nil, err
	}
	return s.Store.Config(ctx)
}

// The host got another name since it ran: what was saved is its own all the same, and
// the lease says the new name as soon as it can.
func TestOfflineRenamed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newStore(tiny)
		first := start(t, m.Join(), me, machine("alpha 1f", me))
		saved := savedHere(t, dir, first.held())
		own := first.own()
		first.stop()
		client := m.Join()
		client.Fail(errDown)
		h := start(t, client, me, machine("omega 1f", me), saved)
		time.Sleep(6 * time.Second)
		h.want(t, own)
		client.Heal()
		time.Sleep(5 * time.Second)
		h.want(t, own)
		if l := find(t, m, own); l.Machine != "omega 1f" || l.Challenger != "" {
			t.Errorf("the lease is %s", l)
		}
	})
}

// The subnet went to another host meanwhile, and there is no other one: that is
// said, and the others are followed.
func TestOfflineAndNoOtherSubnet(t *testing.T) {
	for holder, theirs := range map[string]string{
		"the host with the public address 192.0.2.3": `{"PublicIP":"192.0.2.3"}`,
		"someone whose lease cannot be read":         "garbage",
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			m := newStore(tiny)
			h, client := offline(t, dir, m)
			own := h.own()
			fill(t, m)
			m.PutRaw(sub(own).Key(), theirs, 0)
			client.Heal()
			time.Sleep(time.Minute)
			h.want(t, own)
			if who := h.held().Holder; who != holder {
				t.Errorf("the holder is %q, want %q", who, holder)
			}
			put(t, m, "10.5.0.0/26", attrs("192.0.2.5"), 0)
			time.Sleep(2 * time.Second)
			if h.held().Snapshot.Find(sub("10.5.0.0/26")) == nil {
				t.Error("the others are not followed")
			}
			m.DeleteRaw(sub(own).Key())
			time.Sleep(2 * time.Second)
			h.want(t, own)
			if who := h.held().Holder; who != "" {
				t.Errorf("the holder is still %q", who)
			}
		})
	}
}

// What was saved can't be used yet, and can be later: the clock of a host without
// a battery is set soon after its start.
func TestOfflineLater(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		first := start(t, m.Join(), me)
		time.Sleep(5 * time.Minute)
		saved := savedHere(t, dir, first.held())
		first.stop()
		client := m.Join()
		client.Fail(errDown)
		loads := 0
		var mu sync.Mutex
		late := errors.New("no interface")
		h := start(t, client, me, saved, func(k *subnet.Keeper) {
			load := k.Saved
			k.Saved = func() (subnet.Saved, error) { loads++; return load() }
			k.Prepare = func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
				mu.Lock()
				defer mu.Unlock()
				return attrs(me), nil, late
			}
		})
		log := logText(t)
		time.Sleep(time.Hour)
		h.want(t, "none")
		if n := strings.Count(log(), "no interface"); n < 1 || n > 61 {
			t.Errorf("logged %d times in an hour", n)
		}
		mu.Lock()
		late = nil
		mu.Unlock()
		time.Sleep(2 * time.Second)
		h.want(t, first.own())
		if loads != 1 {
			t.Errorf("it was read %d times", loads)
		}
	})
}

// What was saved says that the subnet is another's: so does the holding.
func TestOfflineHolder(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log := logText(t)
		m := newStore(tiny)
		first := start(t, m.Join(), me)
		own := first.own()
		fill(t, m)
		put(t, m, own, attrs("192.0.2.3"), 0)
		time.Sleep(time.Minute)
		saved := savedHere(t, dir, first.held())
		first.stop()
		client := m.Join()
		client.Fail(errDown)
		h := start(t, client, me, saved)
		time.Sleep(6 * time.Second)
		h.want(t, own)
		const holder = "the host with the public address 192.0.2.3"
		if who := h.held().Holder; who != holder || !strings.Contains(log(), "our subnet "+own+" is now that of "+holder) {
			t.Errorf("the holder is %q:\n%s", who, log())
		}
		client.Heal()
		time.Sleep(5 * time.Second)
		m.DeleteRaw(sub("10.5.0.64/26").Key())
		m.DeleteRaw(sub("10.5.0.128/26").Key())
		time.Sleep(5 * time.Second)
		if now := h.held(); now.Holder != "" || now.Own.PublicIP != attrs(me).PublicIP {
			t.Errorf("it holds %+v", now)
		}
	})
}

// The host's address changes after it started: its subnet does not.
func TestOfflineAndMoved(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		var public atomic.Value
		public.Store(me)
		h, client := offline(t, dir, m, func(k *subnet.Keeper) {
			k.Prepare = func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
				return attrs(public.Load().(string)), nil, nil
			}
		})
		own := h.own()
		public.Store(other)
		client.Heal()
		time.Sleep(5 * time.Second)
		h.want(t, own)
		if l := find(t, m, own); l.Attrs != attrs(other) {
			t.Errorf("the lease is %s", l)
		}
	})
}
