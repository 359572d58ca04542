package subnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// What becomes of the configuration is followed; what cannot be used changes nothing, and
// is named once.
func TestConfigChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := logText(t)
		const first = `{"Network":"10.5.0.0/20","Backend":{"Type":"vxlan"}}`
		m := newStore(first)
		h := start(t, m, me)
		own := h.own()
		written := find(t, m, own).Revision
		for _, step := range []struct {
			config  string // "" is none
			network string // then in force
			refused string // is named, if the configuration is not followed
		}{
			{`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, "10.5.0.0/16", ""},
			{`{"Network":"10.5.0.0/16","SubnetLen":21,"Backend":{"Type":"vxlan","VNI":7}}`, "10.5.0.0/16", ""},
			{`{"Network":"10.5.0.0/17","SubnetMin":"10.5.64.0","Backend":{"Type":"vxlan"}}`, "10.5.0.0/17", ""},
			{`{"Network":"10.4.0.0/15","Backend":{"Type":"vxlan"}}`, "10.4.0.0/15", ""},
			{"", "10.4.0.0/15", "was deleted from the store"},
			{"{", "10.4.0.0/15", `"{" not valid JSON`},
			{`{"Network":"10.4.0.0","Backend":{"Type":"vxlan"}}`, "10.4.0.0/15", `Network "10.4.0.0" is not an IPv4 network`},
			{`{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan"}}`, "10.4.0.0/15", "Network 10.6.0.0/16 does not hold this host's subnet " + own},
			{`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`, "10.4.0.0/15", `Backend.Type "host-gw" in the place of "vxlan" takes a restart`},
			{`{"Network":"10.4.0.0/15","Backend":{"Type":"vxlan"}}`, "10.4.0.0/15", ""},
			{first, "10.5.0.0/20", ""},
		} {
			if step.config == "" {
				m.UnsetConfig()
			} else {
				m.SetConfig(step.config)
			}
			synctest.Wait()
			if got := h.held().Config.Network().String(); got != step.network {
				t.Fatalf("with %s the Network is %s, want %s", step.config, got, step.network)
			}
			if got := h.held().Unfollowed; !strings.Contains(got, step.refused) || (got == "") != (step.refused == "") {
				t.Errorf("with %s the reason is %q, want %q", step.config, got, step.refused)
			}
			if step.refused != "" {
				time.Sleep(10 * time.Minute)
				if c := strings.Count(text(), step.refused); c != 1 {
					t.Errorf("%q was logged %d times", step.refused, c)
				}
			}
		}
		h.want(t, own)
		if l := find(t, m, own); l.Revision != written {
			t.Error("the lease was written")
		}
		for range 2 { // the loss of the watch makes no difference
			m.DropWatches(errDown)
			time.Sleep(time.Second)
			m.SetConfig(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
			synctest.Wait()
			if got := h.held().Config.Network().String(); got != "10.5.0.0/16" {
				t.Errorf("the Network is %s", got)
			}
			m.SetConfig(first)
		}
	})
}

// What the lease has to say under another configuration is written; what this host does
// not have for it yet is waited for.
func TestConfigChangesLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(`{"Network":"10.5.0.0/16"}`)
		var refuse atomic.Pointer[error]
		refresh := make(chan struct{}, 1)
		h := start(t, m, me, func(k *subnet.Keeper) {
			k.Refresh = refresh
			k.Prepare = func(_ context.Context, c *subnet.Config, _ subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
				a := attrs(me)
				if c.V4.SubnetLen == 24 {
					return a, nil, nil
				}
				if err := refuse.Load(); err != nil {
					return a, nil, *err
				}
				a.BackendData = fmt.Sprint(c.V4.SubnetLen)
				return a, nil, nil
			}
		})
		own := h.own()
		says := func(want string) {
			t.Helper()
			synctest.Wait()
			if l := find(t, m, own); l == nil || l.BackendData != want {
				t.Errorf("the lease says %v, want %s", l, want)
			}
			h.want(t, own)
		}
		m.SetConfig(`{"Network":"10.5.0.0/16","SubnetLen":25}`)
		says("25")
		for i, err := range []error{errors.New("the device is busy"), &subnet.ConfigError{Key: "Backend.MTU", Reason: "is too large"}} {
			refuse.Store(&err)
			m.SetConfig(fmt.Sprintf(`{"Network":"10.5.0.0/16","SubnetLen":%d}`, 26+i))
			says(fmt.Sprint(25 + i))
			if got := h.held().Unfollowed; got != err.Error() {
				t.Errorf("the reason is %q", got)
			}
			refuse.Store(nil)
			if i == 0 {
				time.Sleep(4 * time.Second)
			} else {
				refresh <- struct{}{} // the interface is another one
			}
			says(fmt.Sprint(26 + i))
			if got := h.held().Unfollowed; got != "" {
				t.Errorf("the reason is %q", got)
			}
		}
		// While the lease cannot be written, the configuration is followed all the same.
		m.Fail(errDown, subnettest.Update)
		m.SetConfig(`{"Network":"10.0.0.0/8","SubnetLen":28}`)
		synctest.Wait()
		if got := h.held().Config.Network().String(); got != "10.0.0.0/8" {
			t.Errorf("the Network is %s", got)
		}
		m.SetConfig(`{"Network":"10.4.0.0/14","SubnetLen":29}`)
		synctest.Wait()
		if got := h.held().Config.Network().String(); got != "10.4.0.0/14" {
			t.Errorf("the Network is %s", got)
		}
		m.Heal()
		time.Sleep(5 * time.Second)
		says("29")
	})
}

// A store that lost everything is named in one line.
func TestStoreWiped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(config)
		client := m.Join()
		h := start(t, client, me)
		own := h.own()
		text := logText(t)
		client.Hang(subnettest.Watch)
		client.DropWatches(errDown)
		synctest.Wait()
		m.Wipe()
		before := strings.Count(text(), "\n")
		client.Heal()
		time.Sleep(5 * time.Second)
		if l := find(t, m, own); l == nil || l.Attrs != attrs(me) {
			t.Errorf("the store holds %v", l)
		}
		if !strings.Contains(text(), "claimed it again; the network configuration is not there any more") || !strings.Contains(h.held().Unfollowed, "was deleted") {
			t.Errorf("the reason is %q, the log %q", h.held().Unfollowed, text())
		}
		if n := strings.Count(text(), "\n") - before; n > 2 { // and that the store is reached again
			t.Errorf("%d lines: %s", n, text())
		}
		m.SetConfig(config)
		synctest.Wait()
		if got := h.held().Unfollowed; got != "" {
			t.Errorf("the reason is %q", got)
		}
	})
}

// What this host does not have for a new configuration is waited for, however long it
// takes.
func TestConfigTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(`{"Network":"10.5.0.0/16"}`)
		var busy atomic.Bool
		busy.Store(true)
		h := start(t, m, me, func(k *subnet.Keeper) {
			k.Prepare = func(_ context.Context, c *subnet.Config, _ subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
				if c.V4.SubnetLen != 24 && busy.Load() {
					return subnet.Attrs{}, nil, errors.New("the device is busy")
				}
				return attrs(me), nil, nil
			}
		})
		m.SetConfig(`{"Network":"10.5.0.0/16","SubnetLen":25}`)
		time.Sleep(10 * time.Second)
		busy.Store(false)
		time.Sleep(4 * time.Second)
		if c := h.held(); c.Unfollowed != "" || c.Config.V4.SubnetLen != 25 {
			t.Errorf("the SubnetLen is %d, and the reason is %q", c.Config.V4.SubnetLen, c.Unfollowed)
		}
	})
}
