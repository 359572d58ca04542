package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/etcd"
	"flanneld/subnet/subnettest"
)

// Prefix is that of the network, unless a test has another one.
const Prefix = "/coreos.com/network"

// What leases are of.
var (
	Subnet1 = ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24"))
	Attrs1  = subnet.Attrs{PublicIP: ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}}
)

// LeaseKey is the key of the lease of the subnet 10.5.n.0/24.
func LeaseKey(n int) string { return fmt.Sprintf("%s/subnets/10.5.%d.0-24", Prefix, n) }

// Value is what is in the key of a host's lease.
func Value(host int) string { return fmt.Sprintf(`{"PublicIP":"192.0.2.%d"}`, host) }

// Peer is a server with one of etcd's APIs, and what others than a store do there.
// Its calls end the test if they fail.
type Peer struct {
	*Server
	// Put writes a key, for ever where ttl is 0.
	Put func(t testing.TB, key, value string, ttl time.Duration)
	// Delete removes a key.
	Delete func(t testing.TB, key string)
	// Forget makes the server forget what passed so far.
	Forget func(t testing.TB)
	// EnableAuth makes a user flannel, with the password secret-flannel, who may use
	// what is below Prefix. Who says no name may do nothing from then on.
	EnableAuth func(t testing.TB)
}

// Store is a store under test.
type Store struct {
	etcd.Store
	// Lists counts how often it lists all leases.
	Lists *atomic.Int32
	// Pin makes the next request go to endpoint k first.
	Pin func(k int)
}

// API is one of etcd's APIs.
type API struct {
	// ShortTTL is the shortest time to live of a key.
	ShortTTL time.Duration
	// Past says that a server can be asked for what it held at an earlier time.
	Past bool
	// Flat says that keys are any text, and not the names of a tree.
	Flat  bool
	Start func(t testing.TB, c Config) Peer
	New   func(t testing.TB, o etcd.Options) Store
}

// open returns a store of the network under Prefix.
func (a API) open(t testing.TB, urls ...string) Store {
	t.Helper()
	return a.New(t, etcd.Options{Endpoints: urls})
}

// Suite tests what stores in both APIs have in common.
func Suite(t *testing.T, a API) {
	t.Run("Store", func(t *testing.T) {
		server := a.Start(t, Config{})
		var networks atomic.Int32
		subnettest.Suite(t, func(t *testing.T) subnettest.Harness {
			prefix := fmt.Sprintf("/test/network%d", networks.Add(1))
			return subnettest.Harness{
				Store:     a.New(t, etcd.Options{Endpoints: []string{server.URL}, Prefix: prefix}),
				PutRaw:    func(path, value string, ttl time.Duration) { server.Put(t, prefix+"/"+path, value, ttl) },
				DeleteRaw: func(path string) { server.Delete(t, prefix+"/"+path) },
				ShortTTL:  a.ShortTTL,
			}
		})
	})
	for name, test := range map[string]func(*testing.T, API){
		"TTLIsRoundedUp":       testTTLIsRoundedUp,
		"Failover":             testFailover,
		"EndpointForms":        testEndpointForms,
		"EndpointFormsTLS":     testEndpointFormsTLS,
		"Prefixes":             testPrefixes,
		"TwoClusters":          testTwoClusters,
		"Unreachable":          testUnreachable,
		"Stalled":              testStalled,
		"Auth":                 testAuth,
		"TLS":                  testTLS,
		"TLSClientCertificate": testTLSClientCertificate,
		"TLSExpiredServer":     testTLSExpiredServer,
		"WatchServerRestarts":  testWatchServerRestarts,
		"WatchServerReplaced":  testWatchServerReplaced,
		"WatchServerSetBack":   testWatchServerSetBack,
		"WatchBreak":           testWatchBreak,
		"WatchBreakConfig":     testWatchBreakConfig,
		"WatchOtherWrites":     testWatchOtherWrites,
		"WatchEndsWithContext": testWatchEndsWithContext,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, a)
		})
	}
}

func (s Store) checkLists(t testing.TB, want int32) {
	t.Helper()
	if n := s.Lists.Load(); n != want {
		t.Errorf("all leases were listed %d times, want %d", n, want)
	}
}

func testTTLIsRoundedUp(t *testing.T, a API) {
	l, err := a.open(t, a.Start(t, Config{}).URL).Create(t.Context(), Subnet1, Attrs1, time.Millisecond)
	if err != nil || l.Reserved() {
		t.Errorf("a lease for a millisecond is %+v, %v; want one that expires", l, err)
	}
}

func testFailover(t *testing.T, a API) {
	server := a.Start(t, Config{})
	s := a.open(t, " http://"+FreeAddr(t), "", server.URL+" ")
	s.Pin(0)
	l, err := s.Create(t.Context(), Subnet1, Attrs1, 0)
	if err != nil {
		t.Fatalf("creating with the first endpoint dead: %v", err)
	}
	s.Pin(0)
	if _, err := s.List(t.Context()); err != nil {
		t.Errorf("listing with the first endpoint dead: %v", err)
	}
	s.Pin(0)
	if err := s.Delete(t.Context(), Subnet1, l.Revision); err != nil {
		t.Errorf("deleting with the first endpoint dead: %v", err)
	}
	s.Pin(0)
	w := Watch(t, s)
	w.Until(t, "nothing", Leases(0))
	server.Put(t, LeaseKey(1), Value(1), 0)
	w.Until(t, "the lease", Leases(1))
}

// Endpoints of two clusters are no reason for two networks, and no write goes to the
// wrong one.
func testTwoClusters(t *testing.T, a API) {
	ours, other := a.Start(t, Config{}), a.Start(t, Config{})
	ours.Put(t, LeaseKey(2), Value(2), 0)
	for pin := range 2 {
		s := a.open(t, ours.URL, other.URL)
		s.Pin(pin)
		if l, err := s.List(t.Context()); err != nil || len(l.Leases) != 1 {
			t.Errorf("from endpoint %d: %v, %v", pin, l.Leases, err)
		}
		s = a.open(t, ours.URL, other.URL)
		s.Pin(pin)
		l, err := s.Create(t.Context(), Subnet1, Attrs1, 0)
		if err != nil {
			t.Fatalf("from endpoint %d: %v", pin, err)
		}
		s.Pin(1)
		if err := s.Delete(t.Context(), Subnet1, l.Revision); err != nil {
			t.Errorf("from endpoint %d: %v", pin, err)
		}
		w := Watch(t, s)
		w.Until(t, "what is in the cluster", Leases(1))
		ours.Kill()
		for range 20 {
			if _, err := s.List(t.Context()); err == nil {
				t.Error("the other cluster is asked in the place of one that is down")
			}
			time.Sleep(10 * time.Millisecond)
		}
		ours.Restart(t)
		ours.Put(t, LeaseKey(3), Value(3), 0)
		w.Until(t, "what is in the cluster again", Leases(2))
		w.Stop()
		ours.Delete(t, LeaseKey(3))
	}
}

func testWatchServerRestarts(t *testing.T, a API) {
	server := a.Start(t, Config{})
	server.Put(t, Prefix+"/config", "{}", 0)
	server.Put(t, LeaseKey(1), Value(1), 0)
	s := a.open(t, server.URL)
	w := Watch(t, s)
	w.Until(t, "one lease", Leases(1))
	for i := range 2 {
		server.Kill()
		server.Restart(t)
		server.Put(t, LeaseKey(2+i), Value(2), 0)
		w.Until(t, "one more lease", Leases(2+i))
	}
	s.checkLists(t, 1)
}

func testWatchServerReplaced(t *testing.T, a API) {
	server := a.Start(t, Config{})
	for n := range 10 {
		server.Put(t, LeaseKey(n), Value(1), 0)
	}
	w := Watch(t, a.open(t, server.URL))
	w.Until(t, "the leases", Leases(10))
	server.Kill()
	server.Dir = t.TempDir() // the cluster keeps its identity, not its history
	server.Restart(t)
	w.Until(t, "nothing", Leases(0))
	server.Put(t, LeaseKey(1), Value(1), 0)
	w.Until(t, "a new lease", Leases(1))
}

// A server that went back in time, and on in another way, may have passed what we
// know by the time that we reach it again.
func testWatchServerSetBack(t *testing.T, a API) {
	for name, test := range map[string]struct {
		empty      bool         // to nothing, and not to a backup
		since      func(p Peer) // what is lost
		was, after []int        // the leases
	}{
		"Empty":  {true, func(p Peer) { p.Put(t, LeaseKey(2), Value(2), time.Hour) }, []int{1, 2}, []int{1, 3}},
		"Backup": {false, func(p Peer) { p.Put(t, LeaseKey(2), Value(2), time.Hour) }, []int{0, 1, 2}, []int{0, 1, 3}},
		// The backup is from before a lease vanished that was not the last one written.
		"BackupOfMore": {false, func(p Peer) { p.Delete(t, LeaseKey(0)) }, []int{1}, []int{0, 1, 3}},
	} {
		if name == "BackupOfMore" && !a.Past {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := a.Start(t, Config{})
			begin := func() {
				server.Put(t, Prefix+"/config", "{}", 0)
				server.Put(t, LeaseKey(1), Value(1), time.Hour)
			}
			saved := t.TempDir()
			if !test.empty {
				server.Put(t, LeaseKey(0), Value(1), time.Hour)
			}
			begin()
			server.Kill()
			if !test.empty {
				if err := os.CopyFS(saved, os.DirFS(server.Dir)); err != nil {
					t.Fatal(err)
				}
			}
			server.Restart(t)
			test.since(server)
			s := a.open(t, server.URL)
			w := Watch(t, s)
			w.Until(t, "the leases", leasesOf(test.was))
			w.Stop()
			server.Kill()
			server.Dir = saved
			server.Restart(t)
			if test.empty {
				begin()
			}
			server.Put(t, LeaseKey(3), Value(3), time.Hour)
			for range 10 {
				server.Put(t, "/elsewhere", "x", 0)
			}
			Watch(t, s).Until(t, "what is there now", leasesOf(test.after))
		})
	}
}

// leasesOf asks for the leases of these subnets.
func leasesOf(ns []int) func(subnet.Snapshot) bool {
	return func(s subnet.Snapshot) bool {
		return slices.EqualFunc(s.Leases, ns, func(l *subnet.Lease, n int) bool {
			return l.Subnet.String() == fmt.Sprintf("10.5.%d.0/24", n)
		})
	}
}

// What is there after a break is shown whole, whether or not the server still
// has the events.
func testWatchBreak(t *testing.T, a API) {
	for _, forgotten := range []bool{false, true} {
		t.Run(fmt.Sprint("forgotten ", forgotten), func(t *testing.T) {
			t.Parallel()
			server := a.Start(t, Config{})
			for n := range 3 {
				server.Put(t, LeaseKey(n), Value(n+1), 0)
			}
			s := a.open(t, server.URL)
			w := Watch(t, s)
			w.Until(t, "the leases", Leases(3))
			w.Stop()
			server.Put(t, LeaseKey(0), Value(99), 0)
			server.Delete(t, LeaseKey(1))
			server.Put(t, LeaseKey(3), Value(4), 0)
			lists := int32(1)
			if forgotten {
				lists++
				server.Forget(t)
			}
			var got []string
			ctx, cancel := context.WithTimeout(t.Context(), Patience)
			defer cancel()
			err := s.Watch(ctx, func(s subnet.Snapshot) {
				for _, l := range s.Leases {
					got = append(got, l.Subnet.String()+" "+l.PublicIP.V4.String())
				}
				cancel()
			})
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			want := []string{"10.5.0.0/24 192.0.2.99", "10.5.2.0/24 192.0.2.3", "10.5.3.0/24 192.0.2.4"}
			if !slices.Equal(got, want) {
				t.Errorf("first snapshot is %q, want %q", got, want)
			}
			s.checkLists(t, lists)
		})
	}
}

// A configuration that was written behind a connection which brought nothing more is shown
// when that breaks, though no lease was written.
func testWatchBreakConfig(t *testing.T, a API) {
	server := a.Start(t, Config{})
	p := NewProxy(t, server.Server)
	server.Put(t, Prefix+"/config", "first", 0)
	server.Put(t, LeaseKey(1), Value(1), 0)
	s := a.open(t, p.URL, server.URL)
	s.Pin(0)
	configured := func(text string) func(subnet.Snapshot) bool {
		return func(got subnet.Snapshot) bool { return got.Config != nil && got.Config.Text == text }
	}
	w := Watch(t, s)
	w.Until(t, "the configuration", configured("first"))
	p.Stalled.Store(true)
	time.Sleep(etcd.Pace)
	server.Put(t, Prefix+"/config", "second", 0)
	p.Cut()
	w.Until(t, "the other configuration", configured("second"))
}

// What others write far from the leases must not cost a listing.
func testWatchOtherWrites(t *testing.T, a API) {
	server := a.Start(t, Config{})
	server.Put(t, LeaseKey(1), Value(1), 0)
	s := a.open(t, server.URL)
	for i := range 3 {
		for range 5 {
			server.Put(t, "/elsewhere", "x", 0)
		}
		w := Watch(t, s)
		w.Until(t, "the lease", Leases(1))
		w.Stop()
		server.Put(t, LeaseKey(1), Value(2+i), 0)
	}
	s.checkLists(t, 1)
}

func testWatchEndsWithContext(t *testing.T, a API) {
	p := NewProxy(t, a.Start(t, Config{}).Server)
	w := Watch(t, a.open(t, p.URL))
	w.Until(t, "nothing", Leases(0))
	p.Stalled.Store(true)
	started := time.Now()
	w.Stop()
	if took := time.Since(started); took > time.Second {
		t.Errorf("the watch took %s to end", took)
	}
}
