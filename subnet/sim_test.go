package subnet_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

const (
	// settleTime is how soon after the last fault all is as it should be: a
	// request may hang for ten seconds more, and a slow message be on its way.
	settleTime = 45 * time.Second
	// timeMost is how long histories may take, unless their number is given.
	timeMost = 40 * time.Second
	// revisions is how many revisions each store has for itself.
	revisions = 1_000_000
	// simTTL is what the store grants, so that little time passes that is of no
	// interest. A Keeper that suspects the store's clock leaves its lease alone for
	// an hour; it has to be longer than that, and simMargin.
	simTTL    = 80 * time.Minute
	simMargin = 10 * time.Minute
	// calmMost is how many requests a daemon may make in the life of a lease in
	// which nothing happens.
	calmMost = 4
)

// sim is one history: hosts, their daemons, a store, and what befalls them. All
// that happens follows from the seed.
type sim struct {
	random  *rand.Rand
	store   *subnettest.Memory
	config  string
	subnets []ip.Subnet // that there are
	hosts   []*simHost

	mu              sync.Mutex
	quietFrom       time.Time // when the last request arrives that is on its way
	bases           []uint64  // where the revisions of each store begin
	lowest, highest uint64    // of these
	replaced        moment    // when the store was last replaced
	taken           map[ip.Subnet]moment
	backup          subnet.Snapshot
	began           time.Time
	calm            bool   // nothing happens, and all is well
	failure         string // the first one
	story           []string
	verbose         bool
}

// TestSimulation lives 10,000 histories, or as many as there is time for.
// LEASE_SIM_HISTORIES has it live so many; LEASE_SIM_SEED has it print one.
func TestSimulation(t *testing.T) {
	quietly(t)
	if seed, is := number(t, "LEASE_SIM_SEED"); is {
		s := history(t, seed, true)
		for _, line := range s.story {
			t.Log(line)
		}
		if s.failure != "" {
			t.Error(s.failure)
		}
		return
	}
	began := time.Now()
	histories, is := number(t, "LEASE_SIM_HISTORIES")
	if !is {
		histories = 10_000
	}
	first := rand.Uint64()
	var lived atomic.Uint64
	t.Run("histories", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for n := lived.Add(1); n <= histories && (is || time.Since(began) < timeMost); n = lived.Add(1) {
					if s := history(t, first+n, false); s.failure != "" {
						t.Fatalf("LEASE_SIM_SEED=%d shows how, in history %d: %s", first+n, n, s.failure)
					}
				}
			})
		}
	})
	t.Logf("%d histories in %s", min(lived.Load(), histories), time.Since(began).Round(time.Second))
}

// number returns what an environment variable says, if it is set.
func number(t *testing.T, name string) (n uint64, is bool) {
	text, is := os.LookupEnv(name)
	if !is {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n, true
}

// TestSimulationReplays has histories happen twice: what happens follows from the
// seed alone.
func TestSimulationReplays(t *testing.T) {
	quietly(t)
	for range 30 {
		seed := rand.Uint64()
		one, other := history(t, seed, true).story, history(t, seed, true).story
		if diff := cmp.Diff(one, other); diff != "" {
			t.Fatalf("seed %d (-once +then):\n%s", seed, diff)
		}
	}
}

// quietly drops what is logged until the test ends.
func quietly(t *testing.T) {
	var flags flag.FlagSet
	klog.InitFlags(&flags)
	set := func(name, value string) string {
		before := flags.Lookup(name).Value.String()
		if err := flags.Set(name, value); err != nil {
			t.Fatal(err)
		}
		return before
	}
	klog.SetOutput(io.Discard)
	for name, value := range map[string]string{"logtostderr": "false", "stderrthreshold": "FATAL", "one_output": "true"} {
		before := set(name, value)
		t.Cleanup(func() { set(name, before) })
	}
}

// history lives the history of a seed.
func history(t *testing.T, seed uint64, verbose bool) *sim {
	s := &sim{random: rand.New(rand.NewPCG(seed, 0)), taken: make(map[ip.Subnet]moment), verbose: verbose}
	synctest.Test(t, func(*testing.T) {
		s.began = time.Now()
		s.set()
		for range 4 + s.random.IntN(9) {
			s.happen()
			s.pause()
		}
		s.heal()
		s.settle()
		if s.random.IntN(4) == 0 && s.content() {
			s.rest()
		}
		for _, h := range s.hosts {
			if h.daemon != nil {
				s.stop(h)
			}
		}
	})
	return s
}

// set makes the store and the hosts, which start one after the other.
func (s *sim) set() {
	s.store = subnettest.NewMemory()
	s.lowest, s.highest = revisions*1000, revisions*1000
	s.bases = []uint64{s.lowest}
	s.store.Replace(s.lowest)
	bits := 25 + s.random.IntN(3)
	s.config = fmt.Sprintf(`{"Network":"10.5.0.0/24","SubnetLen":%d}`, bits)
	for i := 1; i < 1<<(bits-24); i++ { // the first one is not used
		s.subnets = append(s.subnets, sub(fmt.Sprintf("10.5.0.%d/%d", i<<(32-bits), bits)))
	}
	s.store.SetConfig(s.config)
	for i := range min(2+s.random.IntN(3), len(s.subnets)+1) {
		public := fmt.Sprintf("192.0.2.%d", i+1)
		h := &simHost{public: public, attrs: plain(public), light: make(chan struct{}), broken: make(chan struct{})}
		s.hosts = append(s.hosts, h)
	}
	for _, h := range s.hosts {
		if s.random.IntN(8) > 0 {
			s.start(h, false)
			time.Sleep(some(s.random, time.Second))
		}
	}
}

// plain is what the lease of a host says, in few words: they are read very often.
func plain(public string) subnet.Attrs {
	return subnet.Attrs{PublicIP: ip.Addrs{V4: netip.MustParseAddr(public)}}
}

// pause lets time pass: seconds mostly, and a good part of a lease's life where
// that does not make daemons ask for something once a second, which takes long.
func (s *sim) pause() {
	most := 2 * time.Second
	switch n := s.random.IntN(24); {
	case n < 2 && s.content():
		most = simTTL
	case n < 3:
		most = 20 * time.Second
	}
	time.Sleep(some(s.random, most))
}

// content reports whether no daemon waits for anything, or learns at once that it
// cannot have it.
func (s *sim) content() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(s.hosts, func(h *simHost) bool {
		return h.daemon != nil && (h.daemon.frozen == nil && (h.daemon.holding.Own == nil || h.daemon.holding.Holder != "") || h.link.refuse)
	})
}

// settle waits until all is as it should be.
func (s *sim) settle() {
	s.mu.Lock()
	rest := max(0, time.Until(s.quietFrom))
	s.mu.Unlock()
	time.Sleep(rest + some(s.random, time.Second))
	var wrong string
	for range settleTime / time.Second {
		if wrong = s.unsettled(); wrong == "" {
			return
		}
		time.Sleep(time.Second)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail("%s after all was well: %s", settleTime, wrong)
}

// rest has nothing happen for the life of a lease, which is when no daemon asks for
// more than it needs to renew its own.
func (s *sim) rest() {
	time.Sleep(settleTime)
	s.mu.Lock()
	s.calm = true
	for _, h := range s.hosts {
		if h.daemon != nil {
			h.daemon.calm = 0
		}
	}
	s.mu.Unlock()
	time.Sleep(simTTL + simTTL/8)
	s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		if h.daemon != nil && h.daemon.calm > calmMost {
			s.fail("%s made %d requests while nothing happened", h.public, h.daemon.calm)
		}
	}
}

// stored returns what the store holds.
func (s *sim) stored() subnet.Snapshot {
	now, _ := s.store.List(context.Background())
	return now
}

func (s *sim) fail(format string, a ...any) {
	if s.failure == "" {
		s.failure = fmt.Sprintf(format, a...)
	}
	s.logLocked("FAILURE: "+format, a...)
}

// logLocked adds a line to the story. The caller holds the lock.
func (s *sim) logLocked(format string, a ...any) {
	if s.verbose {
		s.story = append(s.story, fmt.Sprintf("%12.6f ", time.Since(s.began).Seconds())+fmt.Sprintf(format, a...))
	}
}

func (s *sim) log(format string, a ...any) {
	if s.verbose {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.logLocked(format, a...)
	}
}
