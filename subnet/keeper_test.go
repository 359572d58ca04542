package subnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

const (
	config = `{"Network":"10.5.0.0/16"}`
	margin = time.Hour
)

var errDown = errors.New("the store is down")

// newStore returns a store that holds a configuration.
func newStore(config string) *subnettest.Memory {
	m := subnettest.NewMemory()
	m.SetConfig(config)
	return m
}

// host is one keeper that runs.
type host struct {
	keeper *subnet.Keeper
	stop   func() // waits until Run has returned

	mu       sync.Mutex
	holding  subnet.Holding
	changes  int
	renewals []time.Time // when the lease was first held as some revision
	waiting  string
}

// option changes a keeper before it starts.
type option func(*subnet.Keeper)

func previous(cidr string) option {
	return func(k *subnet.Keeper) { k.Previous = sub(cidr) }
}

// start runs a keeper of the host with the given public address until the test
// ends or stop is called.
func start(t *testing.T, store subnet.Store, public string, options ...option) *host {
	t.Helper()
	h := &host{}
	h.keeper = &subnet.Keeper{
		Store:  store,
		Margin: margin,
		Prepare: func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			return attrs(public), nil, nil
		},
		Changed: func(now subnet.Holding) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.holding.Own == nil || h.holding.Own.Revision != now.Own.Revision {
				h.renewals = append(h.renewals, time.Now())
			}
			h.holding = now
			h.changes++
		},
		Waiting: func(text string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.waiting = text
		},
	}
	for _, o := range options {
		o(h.keeper)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- h.keeper.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want context.Canceled", err)
		}
	})
	t.Cleanup(h.stop)
	synctest.Wait()
	return h
}

func (h *host) held() subnet.Holding {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.holding
}

// own returns the subnet that the host holds, or "none".
func (h *host) own() string {
	if l := h.held().Own; l != nil {
		return l.Subnet.String()
	}
	return "none"
}

func (h *host) renewedAt() []time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.renewals)
}

func (h *host) waitsFor() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.waiting
}

func (h *host) want(t *testing.T, cidr string) {
	t.Helper()
	if got := h.own(); got != cidr {
		t.Fatalf("the host holds %s, want %s", got, cidr)
	}
}

// sub reads one prefix, or one of each family.
func sub(cidrs string) (s ip.Subnet) {
	for cidr := range strings.SplitSeq(cidrs, ",") {
		p := netip.MustParsePrefix(cidr)
		s = s.With(ip.FamilyOf(p.Addr()), p)
	}
	return s
}

// attrs is what a host says with one public address, or one of each family.
func attrs(public string) subnet.Attrs {
	a := subnet.Attrs{BackendType: "vxlan"}
	for text := range strings.SplitSeq(public, ",") {
		addr := netip.MustParseAddr(text)
		a = a.With(ip.FamilyOf(addr), addr, `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`)
	}
	return a
}

// put writes a lease as some host, or a person, would.
func put(t *testing.T, m *subnettest.Memory, cidr string, a subnet.Attrs, ttl time.Duration) {
	t.Helper()
	value, err := a.Value()
	if err != nil {
		t.Fatal(err)
	}
	m.PutRaw(sub(cidr).Key(), value, ttl)
}

// find returns a lease as the store has it, or nil. It looks past faults of m.
func find(t *testing.T, m *subnettest.Memory, cidr string) *subnet.Lease {
	t.Helper()
	return all(t, m).Find(sub(cidr))
}

func all(t *testing.T, m *subnettest.Memory) subnet.Snapshot {
	t.Helper()
	s, err := m.Join().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// guard fails the test if a lease passes from one public address to another
// without being gone in between, or if two leases overlap.
func guard(t *testing.T, m *subnettest.Memory) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var before subnet.Snapshot
		_ = m.Join().Watch(ctx, func(s subnet.Snapshot) {
			for i, l := range s.Leases {
				if old := before.Find(l.Subnet); old != nil && old.PublicIP != l.PublicIP {
					t.Errorf("%s overwrote the lease %s of %s", l.PublicIP, l.Subnet, old.PublicIP)
				}
				if i > 0 && s.Leases[i-1].Subnet.Overlaps(l.Subnet) {
					t.Errorf("leases %s and %s overlap", s.Leases[i-1].Subnet, l.Subnet)
				}
			}
			before = s
		})
	}()
	synctest.Wait()
	t.Cleanup(func() { cancel(); <-done })
}

// logged counts the lines that are logged until the test ends.
func logged(t *testing.T) func() int {
	t.Helper()
	text := logText(t)
	return func() int { return strings.Count(text(), "\n") }
}

// logText returns what is logged until the test ends.
func logText(t *testing.T) func() string {
	t.Helper()
	var b lines
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", &b) // gets those that are worse, too
	t.Cleanup(func() { klog.LogToStderr(true) })
	return func() string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.text.String()
	}
}

type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}
