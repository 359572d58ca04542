package tunnels

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"flanneld/pkg/lab"
	"flanneld/pkg/state"
	"flanneld/pkg/tun"
	"flanneld/pkg/udptunnel"
)

func TestMain(m *testing.M) {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// setting is a target on a host with a TUN device.
type setting struct {
	*Dataplane
	t    *testing.T
	host *lab.Host
	is   state.Tunnel
}

func newSetting(t *testing.T) *setting {
	t.Helper()
	l, err := lab.New(lab.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	sw, err := l.AddSwitch("lan", netip.MustParsePrefix("192.0.2.0/24"))
	check(t, err)
	h, err := l.AddHost("host", sw, lab.HostOptions{})
	check(t, err)
	s := &setting{Dataplane: New(), t: t, host: h, is: state.Tunnel{
		Dev: "flannel0", Local: netip.AddrPortFrom(h.Addr, 8285), MTU: 1472, SourceCheck: true,
		Own: netip.MustParsePrefix("10.5.1.0/24"), Network: netip.MustParsePrefix("10.5.0.0/16"),
	}}
	t.Cleanup(s.Close)
	s.device()
	return s
}

// device makes the TUN device.
func (s *setting) device() {
	s.t.Helper()
	check(s.t, s.host.Do(func() error { _, err := tun.Create("flannel0", ""); return err }))
	check(s.t, s.host.LinkUp("flannel0"))
}

func (s *setting) apply(ops ...state.Op) {
	s.t.Helper()
	check(s.t, s.host.Do(func() error {
		for i, err := range s.Apply(s.t.Context(), ops) {
			if err != nil {
				return fmt.Errorf("%v: %w", ops[i], err)
			}
		}
		return nil
	}))
}

// has checks what the target has.
func (s *setting) has(want ...state.Object) {
	s.t.Helper()
	check(s.t, s.host.Do(func() error {
		have, err := s.Dump(s.t.Context(), nil)
		if err != nil {
			return err
		}
		for _, o := range want {
			if have[o.Key()].Object != o {
				return fmt.Errorf("%s is missing in %v", o, have)
			}
		}
		if len(have) != len(want) {
			return fmt.Errorf("there is %v", have)
		}
		return nil
	}))
}

// carries reports whether the tunnel has begun.
func (s *setting) carries() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tunnels["flannel0"].begun
}

func peer(subnet, host string) state.TunnelPeer {
	return state.TunnelPeer{Dev: "flannel0", Subnet: netip.MustParsePrefix(subnet), Host: netip.MustParseAddr(host)}
}

func TestBegins(t *testing.T) {
	s := newSetting(t)
	s.apply(state.Op{Verb: state.Create, Want: s.is})
	if s.carries() {
		t.Error("it carries packets before it knows where to")
	}
	a, b := peer("10.5.2.0/24", "192.0.2.9"), peer("10.5.3.0/24", "192.0.2.10")
	s.apply(state.Op{Verb: state.Create, Want: a}, state.Op{Verb: state.Create, Want: b})
	if !s.carries() {
		t.Error("it does not carry packets")
	}
	s.has(s.is, a, b)
	s.apply(state.Op{Verb: state.Delete, Have: a})
	s.has(s.is, b)
	s.apply(state.Op{Verb: state.Delete, Have: b}, state.Op{Verb: state.Delete, Have: s.is})
	s.has()

	t.Log("without a peer it begins all the same")
	s.apply(state.Op{Verb: state.Create, Want: s.is})
	for end := time.Now().Add(10 * time.Second); !s.carries(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not carry packets")
		}
	}
}

// TestChanges changes settings in place, and all else by another tunnel that
// knows what the first one knew.
func TestChanges(t *testing.T) {
	s := newSetting(t)
	a := peer("10.5.2.0/24", "192.0.2.9")
	s.apply(state.Op{Verb: state.Create, Want: s.is}, state.Op{Verb: state.Create, Want: a})
	first := s.tunnels["flannel0"].tunnel
	now := s.is
	now.MTU, now.SourceCheck = 1372, false
	s.apply(state.Op{Verb: state.Replace, Have: s.is, Want: now})
	if s.tunnels["flannel0"].tunnel != first {
		t.Error("it is another tunnel")
	}
	s.has(now, a)

	s.tunnels["flannel0"].before[udptunnel.InPackets] = 5
	s.is, now.Local = now, netip.AddrPortFrom(s.host.Addr, 8286)
	s.apply(state.Op{Verb: state.Replace, Have: s.is, Want: now})
	s.has(now, a)
	if !s.carries() {
		t.Error("it does not carry packets")
	}
	if got := s.Counters(); len(got) != 1 || got["flannel0"][udptunnel.InPackets] != 5 {
		t.Errorf("the counters are %v", got)
	}
}

// TestAnotherDevice finds that the device which has the name is another one.
func TestAnotherDevice(t *testing.T) {
	s := newSetting(t)
	a := peer("10.5.2.0/24", "192.0.2.9")
	s.apply(state.Op{Verb: state.Create, Want: s.is}, state.Op{Verb: state.Create, Want: a})
	check(t, s.host.LinkDown("flannel0"))
	check(t, s.host.Do(func() error {
		link, err := netlink.LinkByName("flannel0")
		if err != nil {
			return err
		}
		return netlink.LinkSetName(link, "other")
	}))
	s.has()
	s.device()
	s.has()
	s.apply(state.Op{Verb: state.Create, Want: s.is})
	s.has(s.is, a)

	var errs []error
	check(t, s.host.Do(func() error {
		errs = s.Apply(t.Context(), []state.Op{{Verb: state.Create, Want: s.is}})
		return nil
	}))
	if !slices.ContainsFunc(errs, os.IsExist) {
		t.Errorf("a second one: %v", errs)
	}
}
