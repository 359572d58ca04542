package subnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

const (
	me    = "192.0.2.1"
	other = "192.0.2.2"
)

func TestAcquire(t *testing.T) {
	mine := attrs(me)
	mine.BackendData = "" // as some other backend left it
	theirs := attrs(other)
	for _, test := range []struct {
		name     string
		previous string
		leases   func(*testing.T, *subnettest.Memory)
		want     string // "" is any but those of others
		gone     string // a lease that must have been deleted
		left     string // a lease that must not have been touched
		reserved bool
	}{
		{name: "empty store"},
		{name: "reuse by public address", want: "10.5.200.0/24", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.200.0/24", mine, time.Hour)
			put(t, m, "10.5.1.0/24", theirs, time.Hour)
		}},
		{name: "reuse by public address before Previous", previous: "10.5.3.0/24", want: "10.5.200.0/24", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.200.0/24", mine, time.Hour)
		}},
		{name: "of several leases the one of Previous", previous: "10.5.4.0/24", want: "10.5.4.0/24", leases: func(t *testing.T, m *subnettest.Memory) {
			for _, s := range []string{"10.5.3.0/24", "10.5.4.0/24", "10.5.5.0/24"} {
				put(t, m, s, mine, time.Hour)
			}
			put(t, m, "10.5.6.0/24", mine, 0)
		}},
		{name: "of several leases the reservation", want: "10.5.4.0/24", reserved: true, leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.3.0/24", mine, time.Hour)
			put(t, m, "10.5.4.0/24", mine, 0)
			put(t, m, "10.5.5.0/24", mine, time.Hour)
		}},
		{name: "reservation", want: "10.5.200.0/24", reserved: true, leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.200.0/24", mine, 0)
		}},
		{name: "reuse by Previous", previous: "10.5.200.0/24", want: "10.5.200.0/24"},
		{name: "Previous held by another", previous: "10.5.7.0/24", left: "10.5.7.0/24", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.7.0/24", theirs, time.Hour)
		}},
		{name: "Previous overlapped by another", previous: "10.5.7.0/24", left: "10.5.6.0/23", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.6.0/23", theirs, time.Hour)
		}},
		{name: "Previous of another length", previous: "10.5.7.0/25", want: "10.5.7.0/25"},
		{name: "Previous inside what is nobody's", previous: "10.5.7.0/24", want: "10.5.7.0/24", left: "10.5.0.0/17", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.0.0/17", theirs, time.Hour)
			put(t, m, "10.5.9.0/24", attrs("192.0.2.3"), time.Hour)
		}},
		{name: "Previous outside Network", previous: "10.6.7.0/24"},
		{name: "own lease that does not fit", gone: "10.6.1.0/24", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.6.1.0/24", mine, time.Hour)
		}},
		{name: "own lease of another length", want: "10.5.8.0/25", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.8.0/25", mine, time.Hour)
		}},
		{name: "of several leases the one of the right length", want: "10.5.9.0/24", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.8.0/25", mine, time.Hour)
			put(t, m, "10.5.9.0/24", mine, time.Hour)
			put(t, m, "10.5.12.0/22", mine, time.Hour)
		}},
		{name: "own lease of another length beside one that overlaps it", want: "10.5.8.0/25", left: "10.5.0.0/17", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.8.0/25", mine, time.Hour)
			put(t, m, "10.5.0.0/17", theirs, 0)
		}},
		{name: "own lease that loses to another", previous: "10.5.7.0/24", want: "10.5.7.0/24", left: "10.5.0.0/17", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.0.0/17", mine, time.Hour)
			put(t, m, "10.5.9.0/24", theirs, time.Hour)
		}},
		{name: "reservation of another length", want: "10.5.8.0/25", reserved: true, leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.8.0/25", mine, 0)
		}},
		{name: "reservation that does not fit", left: "10.6.1.0/24", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.6.1.0/24", mine, 0)
		}},
		{name: "one that fits beside one that does not", want: "10.5.9.0/24", gone: "10.6.8.0/24", leases: func(t *testing.T, m *subnettest.Memory) {
			put(t, m, "10.5.9.0/24", mine, time.Hour)
			put(t, m, "10.6.8.0/24", mine, time.Hour)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(config)
				if test.leases != nil {
					test.leases(t, m)
				}
				before := all(t, m)
				var options []option
				if test.previous != "" {
					options = append(options, previous(test.previous))
				}
				h := start(t, m, me, options...)
				own := h.held().Own
				if own == nil {
					t.Fatal("no lease was acquired")
				}
				if test.want != "" {
					h.want(t, test.want)
				} else if before.Find(own.Subnet) != nil {
					t.Errorf("took %s, which was there", own.Subnet)
				}
				stored := find(t, m, own.Subnet.String())
				if stored == nil || stored.Attrs != attrs(me) {
					t.Fatalf("the store holds %+v", stored)
				}
				if stored.Reserved() != test.reserved || own.Reserved() != test.reserved {
					t.Errorf("reserved is %t in the store and %t here, want %t", stored.Reserved(), own.Reserved(), test.reserved)
				}
				if left := time.Until(stored.Expires); !test.reserved && left != subnet.LeaseTTL {
					t.Errorf("the lease lasts %s", left)
				}
				if test.gone != "" && find(t, m, test.gone) != nil {
					t.Errorf("%s was not deleted", test.gone)
				}
				if test.left != "" {
					if l := find(t, m, test.left); l == nil || l.Revision != before.Find(l.Subnet).Revision {
						t.Errorf("%s was touched", test.left)
					}
				}
			})
		})
	}
}

func TestAcquireAvoids(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, newStore(config), me, previous("10.5.3.0/24"), func(k *subnet.Keeper) {
			k.Prepare = func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
				return attrs(me), []netip.Prefix{netip.MustParsePrefix("10.5.0.0/17")}, nil
			}
		})
		if own := h.held().Own; own == nil || own.Subnet.V4.Addr().Less(netip.MustParseAddr("10.5.128.0")) {
			t.Errorf("the host took %s from the network that it is in itself", h.own())
		}
	})
}

func TestAcquireWaits(t *testing.T) {
	for _, test := range []struct {
		name   string
		config string // "" is none
		waits  string
	}{
		{"no configuration", "", "no network configuration"},
		{"invalid configuration", `{"Network":"10.5.0.0"}`, "Network"},
		{"no JSON", `Network`, "not valid JSON"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines := logged(t)
				m := subnettest.NewMemory()
				if test.config != "" {
					m.SetConfig(test.config)
				}
				h := start(t, m, me)
				time.Sleep(10*time.Minute + 123*time.Millisecond)
				if !strings.Contains(h.waitsFor(), test.waits) {
					t.Errorf("waiting for %q", h.waitsFor())
				}
				if n := lines(); n > 15 {
					t.Errorf("%d lines were logged in 10 minutes", n)
				}
				m.SetConfig(config)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if h.own() == "none" {
					t.Error("no lease 2 s after the configuration is there")
				}
			})
		})
	}
}

func TestAcquirePrepareFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := errors.New("the interface has no address")
		h := start(t, newStore(config), me, func(k *subnet.Keeper) {
			good, began := k.Prepare, time.Now()
			k.Prepare = func(ctx context.Context, c *subnet.Config, s subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
				if time.Since(began) < time.Minute {
					return subnet.Attrs{}, nil, fail
				}
				return good(ctx, c, s)
			}
		})
		if h.waitsFor() != fail.Error() {
			t.Errorf("waiting for %q", h.waitsFor())
		}
		time.Sleep(time.Minute + 2*time.Second)
		if h.own() == "none" {
			t.Error("no lease")
		}
	})
}

func TestNoFreeSubnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := logged(t)
		m := newStore(`{"Network":"10.5.0.0/24","SubnetLen":26}`)
		for _, s := range []string{"10.5.0.64/26", "10.5.0.128/26", "10.5.0.192/26"} {
			put(t, m, s, attrs(other), 0)
		}
		h := start(t, m, me, previous("10.5.0.64/26"))
		time.Sleep(10 * time.Minute)
		for _, part := range []string{"10.5.0.0/24", "/26", "all 3"} {
			if !strings.Contains(h.waitsFor(), part) {
				t.Errorf("%q does not name %q", h.waitsFor(), part)
			}
		}
		if n := lines(); n > 2*11 {
			t.Errorf("%d lines were logged in 10 minutes", n)
		}
		m.DeleteRaw("10.5.0.128-26")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		h.want(t, "10.5.0.128/26")
	})
}

func TestAcquireOneEach(t *testing.T) {
	const n = 40
	synctest.Test(t, func(t *testing.T) {
		m := newStore(`{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.40.0"}`)
		guard(t, m)
		hosts := make([]*host, n)
		for i := range hosts {
			hosts[i] = start(t, m.Join(), fmt.Sprintf("192.0.2.%d", i+1))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		owner := make(map[string]int)
		for i, h := range hosts {
			own := h.own()
			if before, ok := owner[own]; ok || own == "none" {
				t.Errorf("hosts %d and %d hold %s", before, i, own)
			}
			owner[own] = i
		}
		if got := len(all(t, m).Leases); got != n {
			t.Errorf("%d leases, want %d", got, n)
		}
	})
}

// All at the same instant: they list, choose and create in step.
func TestAcquireAtOnce(t *testing.T) {
	const n = 40
	synctest.Test(t, func(t *testing.T) {
		m := subnettest.NewMemory()
		guard(t, m)
		hosts := make([]*host, n)
		for i := range hosts {
			hosts[i] = start(t, m.Join(), fmt.Sprintf("192.0.2.%d", i+1))
		}
		m.SetConfig(`{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.40.0"}`)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		seen := make(map[string]bool)
		for _, h := range hosts {
			seen[h.own()] = true
		}
		if len(seen) != n || seen["none"] {
			t.Errorf("%d hosts hold %d subnets", n, len(seen))
		}
	})
}

func TestAcquireLostReply(t *testing.T) {
	for _, test := range []struct {
		name string
		held bool // there is a lease to take over
		lost subnettest.Method
	}{
		{"create", false, subnettest.Create},
		{"take over", true, subnettest.Update},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newStore(config)
				if test.held {
					put(t, m, "10.5.9.0/24", attrs(me), time.Hour)
				}
				client := m.Join()
				client.FailAfter(errDown, test.lost)
				h := start(t, client, me)
				time.Sleep(time.Minute)
				client.Heal()
				time.Sleep(10 * time.Second)
				if leases := all(t, m).Leases; len(leases) != 1 || leases[0].Subnet.String() != h.own() {
					t.Errorf("the host holds %s, the store %d leases", h.own(), len(leases))
				}
			})
		})
	}
}

// A store that can be read and not written must not fill the log.
func TestAcquireCannotWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := logged(t)
		m := newStore(config)
		put(t, m, "10.5.3.0/24", attrs(other), 0)
		put(t, m, "10.6.3.0/24", attrs(me), 0) // does not fit
		m.Fail(errDown, subnettest.Create)
		h := start(t, m, me, previous("10.5.3.0/24"))
		time.Sleep(10 * time.Minute)
		if n := lines(); n > 10*60/15+2*11 {
			t.Errorf("%d lines were logged in 10 minutes", n)
		}
		if n := m.Calls(subnettest.Create); n > 1500 {
			t.Errorf("%d tries in 10 minutes", n)
		}
		m.Heal()
		time.Sleep(3 * time.Second)
		if h.own() == "none" {
			t.Error("no lease 3 s after the store is well")
		}
	})
}
