package network

import (
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// seed returns what FLANNELD_SEED says, or a random number, and logs it.
func seed(t testing.TB) uint64 {
	t.Helper()
	n := rand.Uint64()
	if s := os.Getenv("FLANNELD_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("FLANNELD_SEED=%d", n)
	return n
}

// Whatever happens, once it is over the host is as desired, and nothing was
// taken from anyone.
func TestHistories(t *testing.T) {
	n := 300
	if testing.Short() {
		n = 50
	}
	s := seed(t)
	for _, f := range ip.Families {
		t.Run(f.String(), func(t *testing.T) {
			speak(t, f)
			testHistories(t, s, 0, n/len(ip.Families))
		})
	}
}

// Histories in which a neighbour entry could not be replaced: the FDB entry that it leads to
// still must stay.
func TestHistoriesOfKeptNeighbours(t *testing.T) {
	testHistories(t, 18186881927094343091, 37, 38)
	testHistories(t, 17088770629249084400, 260, 261)
}

// A history in which a quick pass does not get rid of a route that an earlier one made: the FDB
// entry that its next hop leads to must stay.
func TestHistoryOfKeptRoute(t *testing.T) { testHistories(t, 11270460796905707126, 145, 146) }

// testHistories runs the histories of a seed from a number to before another.
func testHistories(t *testing.T, s uint64, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		synctest.Test(t, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() { // and that is the end
					t.Logf("history %d of seed %d", i, s)
				}
			})
			h := &history{
				fixture:    newFixture(t),
				Rand:       rand.New(rand.NewPCG(s, uint64(i))),
				leases:     make(map[int]*subnet.Lease),
				unreadable: make(map[int]int),
				handFDB:    make(map[state.FDB]bool),
			}
			h.run(uint64(i))
		})
	}
}

const (
	historyPeers = 8
	historySteps = 60
	// converged is how long a host may take to be as desired once nothing fails
	// any more: the longest pause before a retry, and that after a dump that
	// failed.
	converged = retryMost + 2*time.Second
)

// history is one thing after another that happens to a host.
type history struct {
	*fixture
	*rand.Rand
	leases   map[int]*subnet.Lease
	nexthops bool // the network is large
	// unreadable leases, with the number of steps applied when they became so.
	unreadable map[int]int
	slack      time.Duration // Faults.Pause

	mode    mode
	moved   bool // to another mode
	vxlan   bool // some of the modes are
	ownMAC  int
	handFDB map[state.FDB]bool // entries that a hand ever wrote
}

func (h *history) run(i uint64) {
	if h.IntN(2) == 0 {
		h.slack = time.Duration(1+h.IntN(20)) * time.Millisecond
	}
	h.nexthops = h.IntN(2) == 0
	if h.vxlan = h.IntN(3) > 0; h.vxlan {
		h.mode = mode(h.IntN(modes))
		h.leaveDevice()
	}
	for n := range historyPeers { // what earlier times left
		switch h.IntN(6) {
		case 4:
			hop := dataplanetest.Nexthop{Nexthop: nexthop(n, h.via()), Protocol: dataplanetest.ProtoOurs}
			h.check(h.addNexthop(hop))
			h.check(h.fake.AddRoute(ours(byNexthop(n, 0))))
		case 5:
			h.check(h.addNexthop(h.anyNexthop(n)))
		case 0:
			h.check(h.fake.AddRoute(h.anyRoute(n)))
		case 1:
			h.check(h.fake.AddRoute(ours(route(n, h.via()))))
		}
	}
	h.start()
	// Each fault hides faults of the program: a history has some of them.
	f := dataplanetest.Faults{Rand: rand.New(rand.NewPCG(i, h.Uint64())), Pause: h.slack}
	for _, share := range []*float64{&f.Refuse, &f.LoseAnswer, &f.Interrupt, &f.LoseEvent} {
		if h.IntN(2) == 0 {
			*share = 0.3 * h.Float64()
		}
	}
	h.fake.SetFaults(f)
	for range historySteps {
		if h.vxlan && h.IntN(2) == 0 {
			h.happenVxlan(vxlanHappenings)
		} else {
			h.happen(happenings)
		}
		h.wait()
	}
	_ = h.fake.AddLink("eth0")
	_ = h.fake.AddAddr("eth0", in.Prefix(hostNet))
	h.check(h.fake.SetLink("eth0", true))
	for range historySteps / 4 {
		if h.vxlan && h.IntN(2) == 0 {
			h.happenVxlan(vxlanHappenings)
		} else {
			h.happen(happenings - linkHappenings)
		}
		h.wait()
	}
	for n := range h.unreadable {
		h.readable(n)
	}
	h.pass(dataplanetest.Lag * h.slack) // for the last event that may be lost
	h.fake.SetFaults(dataplanetest.Faults{})
	h.desire()
	h.pass(converged)
	h.checkHost()

	steps := len(h.fake.Applied())
	h.pass(2 * resync)
	more := slices.DeleteFunc(slices.Clone(h.fake.Applied()[steps:]), h.tidies)
	if len(more) > 0 {
		h.Errorf("it goes on: %v", more)
	}
	h.checkOldDevices()
}

func (h *history) wait() {
	switch h.IntN(4) {
	case 0:
		h.pass(time.Duration(h.Int64N(int64(30 * time.Millisecond))))
	case 1:
		h.pass(time.Duration(h.Int64N(int64(3 * time.Second))))
	case 2:
		synctest.Wait()
	}
}

func (h *history) via() int { return 1 + h.IntN(3) }

func (h *history) peer() int { return h.IntN(historyPeers) }

// anyRoute is someone else's.
func (h *history) anyRoute(n int) dataplanetest.Route {
	r := static(route(n, h.via()))
	if h.IntN(2) == 0 {
		r.Protocol = dataplanetest.ProtoBoot
	}
	return r
}

// anyNexthop is ours, or has the number of ours.
func (h *history) anyNexthop(n int) dataplanetest.Nexthop {
	hop := dataplanetest.Nexthop{Nexthop: nexthop(n, h.via()), Protocol: dataplanetest.ProtoOurs}
	if h.IntN(2) == 0 {
		hop.Protocol = dataplanetest.ProtoStatic
	}
	return hop
}

// addNexthop adds a nexthop, if the family has such.
func (h *history) addNexthop(n dataplanetest.Nexthop) error {
	if n.ID == 0 {
		return nil
	}
	return h.fake.AddNexthop(n)
}

const (
	happenings     = 18
	linkHappenings = 2 // the last of them
)

func (h *history) happen(choices int) {
	n := h.peer()
	routes := h.fake.Routes(peerDst(n))
	switch h.IntN(choices) {
	case 0, 1, 2, 3: // a lease comes or changes
		h.readable(n)
		h.leases[n] = h.lease(n)
		h.desire()
	case 4, 5: // a lease goes
		h.readable(n)
		delete(h.leases, n)
		h.desire()
	case 6: // a lease cannot be read any more
		if h.leases[n] != nil && h.unreadable[n] == 0 {
			h.unreadable[n] = -1
			if h.IntN(2) == 0 {
				delete(h.leases, n) // nor is its last state known
			}
			h.desire()
			h.pass(dataplanetest.Lag*h.slack + 1)
			h.unreadable[n] = 1 + len(h.fake.Applied())
		}
	case 7: // someone adds a route; there may be one, or no link
		_ = h.fake.AddRoute(h.anyRoute(n))
	case 8:
		_ = h.fake.AppendRoute(h.anyRoute(n))
	case 9: // ... replaces whatever comes first
		_ = h.fake.ReplaceRoute(h.anyRoute(n))
	case 10: // ... alters ours
		if len(routes) > 0 && routes[0].Protocol == dataplanetest.ProtoOurs {
			_ = h.fake.ReplaceRoute(ours(route(n, h.via())))
		}
	case 11: // ... deletes one
		if len(routes) > 0 {
			_ = h.fake.DelRoute(routes[h.IntN(len(routes))]) // it may have gone since
		}
	case 12: // the network grows large, or small
		h.nexthops = !h.nexthops
		h.desire()
	case 13: // someone adds a nexthop
		_ = h.addNexthop(h.anyNexthop(n))
	case 14: // ... alters it, or makes it one's own
		if hop := h.anyNexthop(n); hop.ID != 0 {
			_ = h.fake.ReplaceNexthop(hop)
		}
	case 15: // ... deletes it
		_ = h.fake.DelNexthop(nexthop(n, 0).ID)
	case 16:
		_ = h.fake.SetLink("eth0", h.IntN(2) == 0)
	case 17:
		switch h.IntN(4) {
		case 0:
			_ = h.fake.DelLink("eth0")
		case 1:
			_ = h.fake.DelAddr("eth0", in.Prefix(hostNet))
		default:
			_ = h.fake.AddLink("eth0")
			_ = h.fake.AddAddr("eth0", in.Prefix(hostNet))
		}
	}
}

// readable ends the time in which the lease n is unreadable: nothing that is
// ours went in it.
func (h *history) readable(n int) {
	h.Helper()
	since := h.unreadable[n]
	if since == 0 {
		return
	}
	delete(h.unreadable, n)
	for _, op := range h.fake.Applied()[since-1:] {
		k := op.Key()
		if op.Verb == state.Delete && (k == route(n, 0).Key() || k == nexthop(n, 0).Key() || k == h.neigh(n).Key()) && h.leases[n] == nil {
			h.Errorf("%s, whose lease is unreadable", op)
		}
	}
}

func (h *history) desire() { h.SetDesired(h.desired()) }

func (h *history) desired() Desired {
	w := h.modeDesired(slices.Collect(maps.Values(h.leases))...)
	w.Host.Nexthops = h.nexthops
	for _, n := range slices.Sorted(maps.Keys(h.unreadable)) {
		w.Unreadable = append(w.Unreadable, peerSubnet(n))
	}
	return w
}
