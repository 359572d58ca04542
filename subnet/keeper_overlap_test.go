package subnet_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// A lease that overlapped ours while ours was there has no part in our subnet once our
// key is lost. One that came meanwhile has: its host did not know of ours.
func TestOverlapsLostLease(t *testing.T) {
	for _, test := range []struct {
		name, config, own string
		before, meanwhile string // leases of another host
		keeps             bool
	}{
		{"half of Network", `{"Network":"10.10.0.0/16"}`, "10.10.5.0/24", "10.10.0.0/17", "", true},
		{"part of ours", `{"Network":"10.10.0.0/16"}`, "10.10.5.0/24", "10.10.5.128/25", "", true},
		{"all of Network", `{"Network":"10.10.0.0/16"}`, "10.10.5.0/24", "10.10.0.0/16", "", true},
		{"ours of a former length, one of the present one before", `{"Network":"10.10.0.0/16"}`, "10.10.8.0/21", "10.10.9.0/24", "", true},
		{"half of Network, meanwhile", `{"Network":"10.10.0.0/16"}`, "10.10.5.0/24", "", "10.10.0.0/17", false},
		{"ours of a former length, one of the present one meanwhile", `{"Network":"10.10.0.0/16"}`, "10.10.8.0/21", "", "10.10.9.0/24", false},
		{"ours, meanwhile", `{"Network":"10.10.0.0/16"}`, "10.10.5.0/24", "", "10.10.5.0/24", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(test.config)
				put(t, m, test.own, attrs(me), time.Hour)
				// What happens at once is seen at once.
				client := m.Join()
				h := start(t, client, me)
				h.want(t, test.own)
				if test.before != "" {
					put(t, m, test.before, attrs(other), 0)
				}
				synctest.Wait()
				h.want(t, test.own)
				if find(t, m, test.own).Attrs != attrs(me) {
					t.Errorf("the lease is not ours")
				}
				client.Hang(subnettest.Watch)
				client.DropWatches(errDown)
				synctest.Wait()
				m.DeleteRaw(sub(test.own).Key())
				if test.meanwhile != "" {
					put(t, m, test.meanwhile, attrs(other), 0)
				}
				client.Heal()
				time.Sleep(5 * time.Second)
				if got := h.own() == test.own; got != test.keeps {
					t.Errorf("the host has %s", h.own())
				}
				if l := find(t, m, h.own()); l == nil || l.Attrs != attrs(me) || h.held().Holder != "" {
					t.Errorf("the store holds %v, the holder is %q", l, h.held().Holder)
				}
			})
		})
	}
}

// Another SubnetLen says how long subnets are that are given out from then on.
func TestSubnetLenChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newStore(`{"Network":"10.5.0.0/16","SubnetLen":21}`)
		guard(t, m)
		first := start(t, m.Join(), me)
		before := first.own()
		m.SetConfig(`{"Network":"10.5.0.0/16","SubnetLen":24}`)
		second := start(t, m.Join(), other)
		if !strings.HasSuffix(second.own(), "/24") {
			t.Errorf("the second host has %s", second.own())
		}
		time.Sleep(2 * subnet.LeaseTTL)
		first.want(t, before)
		first.stop()
		again := start(t, m.Join(), me)
		again.want(t, before)
	})
}
