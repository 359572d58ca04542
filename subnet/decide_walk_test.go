package subnet

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// Whatever happens, in whatever order: a host without a lease always has something to do,
// one with a lease never listens twice for no time, and no pause is longer than it may be.
func TestAnyEventAtAnyTime(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for n := range 300 {
		walk(t, random, n%3 == 0)
		if t.Failed() {
			return
		}
	}
}

func walk(t *testing.T, random *rand.Rand, assigned bool) {
	tb := table{now: moment{at: time.Now(), boot: time.Hour}, c: mustConfig(t, theNetwork)}
	s := state{margin: time.Hour, random: *rand.NewPCG(random.Uint64(), 1), saved: recollection{exists: random.IntN(2) == 0}, assigned: assigned}
	s.identity.previous = tb.subnet(ourSubnet)
	s.retry.First, s.retry.Most = retryFirst, retryMost
	revision := uint64(ourRevision)
	lease := func(cidr string) *Lease {
		revision++
		l := tb.lease(cidr, []string{ourAddress, oldAddress, "192.0.2.9"}[random.IntN(3)], []string{"", ourMachine, "omega 1f", "beta 2e"}[random.IntN(4)], revision-uint64(random.IntN(3)))
		l.Challenger = []string{"", "", "", "gamma 3d"}[random.IntN(4)]
		if random.IntN(5) == 0 {
			return reserve(l)
		}
		return l
	}
	snapshot := func() Snapshot {
		var a Assembler
		s := a.Snapshot(revision)
		for _, cidr := range []string{"10.5.0.0/20", ourSubnet, "10.5.2.0/24", "10.6.1.0/24", bothSubnets} {
			if random.IntN(2) == 0 {
				s.Leases = append(s.Leases, lease(cidr))
			}
		}
		if random.IntN(8) == 0 {
			s.Problems = tb.unreadable(time.Hour).Problems
		}
		text := []string{theNetwork, theNetwork, "", bad, `{"Network":"10.4.0.0/15"}`, `{"Network":"10.6.0.0/16"}`, bothNetworks, bothNetworks, network6}[random.IntN(9)]
		s.Config = &StoredConfig{Text: text, Missing: text == ""}
		if assigned {
			g := tb.gives([]string{"", ourSubnet, ourSubnet, "10.5.2.0/24", "10.6.1.0/24", bothSubnets}[random.IntN(6)])
			if s.Own = g.Own; random.IntN(8) == 0 {
				s.Own.Requested = tb.attrs(oldAddress, "").PublicIP
			}
			for _, l := range s.Leases {
				l.Machine = []string{ourNode, ourNode, "w9"}[random.IntN(3)]
				reserve(l)
			}
		}
		return s
	}
	// result answers an action: two of three succeed.
	result := func(a action) answer {
		if random.IntN(3) == 0 {
			return answer{err: []error{errDown, errHost, ErrNoConfig, ErrExists, ErrChanged}[random.IntN(5)]}
		}
		r := answer{snapshot: snapshot(), attrs: tb.attrs([]string{ourAddress, ourAddress, oldAddress}[random.IntN(3)], ourMachine)}
		if assigned {
			r.attrs.Machine = ourNode
		}
		if random.IntN(2) == 0 {
			r.attrs.PublicIP.V6 = netip.MustParseAddr("2001:db8::1")
		}
		r.config = []byte(r.snapshot.Config.Text)
		r.saved = Saved{At: tb.now.at.Add(-time.Minute), Holding: Holding{Config: tb.c, Own: tb.own()}}
		revision++
		switch a := a.(type) {
		case createLease:
			r.lease = &Lease{Subnet: a.subnet, Attrs: a.attrs, Revision: revision, Expires: tb.now.at.Add(LeaseTTL)}
		case moveLease:
			r.lease = &Lease{Subnet: a.to, Attrs: a.attrs, Revision: revision, Expires: tb.now.at.Add(LeaseTTL)}
		case updateLease:
			r.lease = &Lease{Subnet: a.subnet, Attrs: a.attrs, Revision: revision, Expires: tb.now.at.Add(LeaseTTL)}
		}
		return r
	}
	idle := 0
	for e := event(started{}); idle < 100; {
		var a action
		s, a, _ = decide(s, e, tb.now)
		took := time.Duration(random.IntN(int(time.Second)))
		switch a := a.(type) {
		case sleep:
			if a.d <= 0 || a.d > retryMost {
				t.Fatalf("sleeps for %s", a.d)
			}
			took = a.d
			e = answer{}
		case listen:
			idle++
			if again, is := e.(timeUp); s.mode != online && a.d > retryMost || len(s.todo) > 0 || a.d > sleepCheck || a.d <= 0 && is {
				t.Fatalf("listens for %s after %v, with %d goals, in mode %d", a.d, again, len(s.todo), s.mode)
			}
			switch n := random.IntN(4); {
			case n == 0 && s.follows():
				e = newSnapshot{snapshot()}
			case n == 1:
				e = refreshAsked{}
			default:
				took = a.d
				e = timeUp{}
			}
		default:
			e = result(a)
		}
		tb.now.at, tb.now.boot = tb.now.at.Add(took), tb.now.boot+took
		if random.IntN(50) == 0 {
			tb.now.boot += time.Hour
		}
	}
}
