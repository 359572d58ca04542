package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/pkg/echo"
	"flanneld/pkg/ip"
	"flanneld/pkg/status"
	"flanneld/subnet"
)

// fakeNet is where the probes of a test go.
type fakeNet struct {
	*Prober
	t      *testing.T
	passes func(to netip.Addr, size int) bool // what comes back
	fails  func(to netip.Addr) error          // what cannot be sent

	lock     sync.Mutex
	asked    map[netip.Addr]int
	times    []time.Time
	replies  chan echo.Answer
	closed   chan struct{}
	reported *status.Problem
}

// probing runs a test with a Prober and a clock of its own, and returns what was logged.
func probing(t *testing.T, budget int, test func(*fakeNet)) []string {
	t.Helper()
	var log bytes.Buffer // klog writes under a lock
	klog.SetOutput(&log)
	defer klog.SetOutput(io.Discard)
	synctest.Test(t, func(t *testing.T) {
		f := &fakeNet{t: t, asked: make(map[netip.Addr]int), replies: make(chan echo.Answer, 1000), closed: make(chan struct{})}
		f.passes = func(netip.Addr, int) bool { return true }
		f.Prober = NewProber(budget, func(problem *status.Problem) {
			f.lock.Lock()
			defer f.lock.Unlock()
			f.reported = problem
		})
		f.open = func(ip.Family) (Echoes, error) { return f, nil }
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		g.Go(func() {
			if err := f.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		})
		test(f)
		cancel()
		g.Wait()
	})
	klog.Flush()
	var lines []string
	for line := range strings.Lines(log.String()) {
		_, text, _ := strings.Cut(line, "] ")
		lines = append(lines, strings.TrimSuffix(text, "\n"))
	}
	return lines
}

// Send implements Echoes.
func (f *fakeNet) Send(to netip.Addr, seq uint16, token uint64, size int) error {
	f.lock.Lock()
	f.asked[to]++
	f.times = append(f.times, time.Now())
	passes, fails := f.passes, f.fails
	f.lock.Unlock()
	if fails != nil {
		if err := fails(to); err != nil {
			return err
		}
	}
	if passes(to, size) {
		time.AfterFunc(time.Millisecond, func() { f.replies <- echo.Answer{From: to, Seq: seq, Token: token} })
	}
	return nil
}

// Receive implements Echoes.
func (f *fakeNet) Receive() (echo.Answer, error) {
	select {
	case a := <-f.replies:
		return a, nil
	case <-f.closed:
		return echo.Answer{}, net.ErrClosed
	}
}

// Close implements Echoes.
func (f *fakeNet) Close() error { close(f.closed); return nil }

// let has only what passes come back from now on.
func (f *fakeNet) let(passes func(to netip.Addr, size int) bool) {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.passes = passes
}

// pass lets time pass.
func (f *fakeNet) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// peers are all that are probed.
func (f *fakeNet) peers() []PeerReach {
	all, reachable := f.Peers(true)
	troubled, _ := f.Peers(false)
	n := 0
	for _, p := range all {
		if p.State == status.PeerReachable {
			n++
		} else if p.State.Troubled() && (len(troubled) == 0 || p != troubled[0]) {
			f.t.Errorf("%v is not among those in trouble", p)
		} else if p.State.Troubled() {
			troubled = troubled[1:]
		}
	}
	if n != reachable {
		f.t.Errorf("%d peers are reachable, and %d are said to be", n, reachable)
	}
	return all
}

// states are how peers are, those that are reachable left out.
func (f *fakeNet) states() states {
	all := make(states)
	for _, p := range f.peers() {
		if p.State != status.PeerReachable {
			all[p.Subnet.V4] = p.State
		}
	}
	return all
}

func (f *fakeNet) want(want states) {
	f.t.Helper()
	if got := f.states(); !maps.Equal(got, want) {
		f.t.Errorf("peers are %v, want %v", got, want)
	}
}

// problem is what was reported last.
func (f *fakeNet) problem() string {
	f.lock.Lock()
	defer f.lock.Unlock()
	if f.reported == nil {
		return ""
	}
	return f.reported.Text
}

// vxlanPeers are so many.
func vxlanPeers(n int) (all []*subnet.Lease) {
	for i := range n {
		all = append(all, vxlanLease(i+1, i+1))
	}
	return all
}

// over and under are the addresses at which the peer numbered n answers.
func over(n int) netip.Addr  { return peerDst(n).Addr() }
func under(n int) netip.Addr { return peerAddr(n) }

type states = map[netip.Prefix]status.PeerState

// What is the matter with a peer is told by what comes back, not before it is sure, and
// ends with one answer.
func TestProberTellsApart(t *testing.T) {
	for name, test := range map[string]struct {
		passes func(to netip.Addr, size int) bool
		want   status.PeerState
		reason string
	}{
		"nothing through the tunnel": {func(to netip.Addr, _ int) bool { return to != over(2) }, status.PeerUnreachable, "UDP port 8472 between 192.168.0.1 and 192.168.1.2"},
		"nothing at all":             {func(to netip.Addr, _ int) bool { return to != over(2) && to != under(2) }, status.PeerGone, "neither at 10.0.0.2 nor at 192.168.1.2"},
		"what is large":              {func(to netip.Addr, size int) bool { return to != over(2) || size <= 1350 }, status.PeerSmallOnly, "those of 134"},
		"no pings to the host":       {func(to netip.Addr, _ int) bool { return to != under(2) }, status.PeerReachable, ""},
		"nothing large at all":       {func(to netip.Addr, size int) bool { return to != over(2) && to != under(2) || size <= 1400 }, status.PeerSmallOnly, "those of 139"},
	} {
		t.Run(name, func(t *testing.T) {
			lines := probing(t, 20, func(f *fakeNet) {
				f.SetDesired(vxlanDesired(vxlanPeers(5)...))
				f.pass(20 * time.Second)
				f.want(states{})
				f.let(test.passes)
				f.pass(2 * time.Second)
				f.want(states{})
				f.pass(time.Minute)
				if test.want == status.PeerReachable {
					f.want(states{})
					return
				}
				f.want(states{peerDst(2): test.want})
				for _, p := range f.peers() {
					if p.State == test.want && !strings.Contains(p.Reason, test.reason) {
						t.Errorf("the reason is %q, want %q", p.Reason, test.reason)
					}
				}
				if want := fmt.Sprintf("packets do not get to 1 of 5 peers as they should: %s (%s)", peerDst(2), test.want); f.problem() != want {
					t.Errorf("reported is %q, want %q", f.problem(), want)
				}
				f.let(func(netip.Addr, int) bool { return true })
				f.pass(10 * time.Second)
				f.want(states{})
				if f.problem() != "" {
					t.Errorf("reported is %q at the end", f.problem())
				}
			})
			want := []string{fmt.Sprintf("peer 10.0.0.2/32 (192.168.1.2) is %s: ", test.want), "peer 10.0.0.2/32 (192.168.1.2) is reachable again"}
			if test.want == status.PeerReachable {
				want = nil
			}
			if !slices.EqualFunc(lines, want, strings.HasPrefix) {
				t.Errorf("logged %q, want %q", lines, want)
			}
		})
	}
}

// Where nothing but the host itself can answer, one that never did says nothing.
func TestProberWithoutTunnel(t *testing.T) {
	lines := probing(t, 20, func(f *fakeNet) {
		f.let(func(netip.Addr, int) bool { return false })
		f.SetDesired(desire(lease(1, 1), lease(2, 2), lease(3, 3), lease(4, 4)))
		f.pass(time.Minute)
		f.want(states{peerDst(1): status.PeerUsed, peerDst(2): status.PeerUsed, peerDst(3): status.PeerUsed, peerDst(4): status.PeerUsed})
		if f.problem() != "" {
			t.Errorf("reported is %q", f.problem())
		}
		f.let(func(to netip.Addr, _ int) bool { return to != under(2) })
		f.SetDesired(desire(lease(1, 1), lease(2, 2), lease(3, 3)))
		f.pass(time.Minute)
		f.want(states{peerDst(2): status.PeerUsed})
		f.let(func(to netip.Addr, _ int) bool { return to != under(1) })
		f.pass(time.Minute)
		f.want(states{peerDst(1): status.PeerGone})
		f.lock.Lock()
		defer f.lock.Unlock()
		for i := range 3 {
			if f.asked[over(i+1)] > 0 {
				t.Errorf("asked at %s", over(i+1))
			}
		}
	})
	if want := []string{"peer 10.0.0.1/32 (192.168.1.1) is gone: it does not answer at 192.168.1.1 any more"}; !slices.EqualFunc(lines, want, strings.HasPrefix) {
		t.Errorf("logged %q, want %q", lines, want)
	}
}

// Packets that are lost now and then are no trouble.
func TestProberOnLossyNetwork(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	lines := probing(t, 20, func(f *fakeNet) {
		f.let(func(netip.Addr, int) bool {
			mu.Lock()
			defer mu.Unlock()
			return r.IntN(100) >= 3 // with so many rounds, a false alarm in thousands of runs
		})
		f.SetDesired(vxlanDesired(vxlanPeers(100)...))
		f.pass(5 * time.Minute)
		for range 100 {
			f.pass(10 * time.Second)
			f.want(states{})
		}
	})
	if len(lines) > 0 {
		t.Errorf("logged %q", lines)
	}
}

// Answers that nobody asked for, or that come from elsewhere, count for nothing.
func TestProberForgedAnswers(t *testing.T) {
	probing(t, 20, func(f *fakeNet) {
		f.let(func(to netip.Addr, _ int) bool { return to != over(1) })
		f.SetDesired(vxlanDesired(vxlanPeers(3)...))
		for range 300 {
			f.pass(200 * time.Millisecond)
			f.mu.Lock()
			var forged []echo.Answer
			for seq, r := range f.waiting {
				forged = append(forged, echo.Answer{From: r.to, Seq: seq, Token: r.token + 1}, echo.Answer{From: under(9), Seq: seq, Token: r.token}, echo.Answer{From: r.to, Seq: seq + 1, Token: r.token})
			}
			f.mu.Unlock()
			for _, a := range forged {
				f.replies <- a
			}
		}
		f.want(states{peerDst(1): status.PeerUnreachable})
	})
}

// However many peers there are, the budget holds, each is asked within minutes, and nothing
// comes in bursts.
func TestProberBudget(t *testing.T) {
	for _, peers := range []int{1, 3, 100, 5000} {
		for _, silent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d,%t", peers, silent), func(t *testing.T) {
				const budget = 20
				lines := probing(t, budget, func(f *fakeNet) {
					f.let(func(netip.Addr, int) bool { return !silent })
					f.SetDesired(vxlanDesired(vxlanPeers(peers)...))
					f.pass(6 * time.Minute)
					f.lock.Lock()
					defer f.lock.Unlock()
					for i, at := range f.times {
						if j := i + 2*budget; j < len(f.times) && f.times[j].Sub(at) < time.Second {
							t.Fatalf("%d packets within %s", 2*budget, f.times[j].Sub(at))
						}
					}
					if n := len(f.times); n > budget*(6*60+1) { // some at once at the start
						t.Errorf("%d packets in 6 minutes", n)
					}
					if silent {
						return
					}
					for i := range peers {
						if n := f.asked[over(i+1)]; n < 1 || peers <= 100 && n < 30 {
							t.Errorf("the peer %d was asked %d times", i+1, n)
							break
						}
					}
				})
				if !silent && len(lines) > 0 || len(lines) > 3 {
					t.Errorf("logged %d lines, %q", len(lines), lines[:min(5, len(lines))])
				}
			})
		}
	}
}

// If nobody answers any more, it is this host that is cut off: one line says so.
func TestProberAlone(t *testing.T) {
	lines := probing(t, 20, func(f *fakeNet) {
		f.SetDesired(vxlanDesired(vxlanPeers(200)...))
		f.pass(time.Minute)
		f.let(func(netip.Addr, int) bool { return false })
		f.pass(10 * time.Minute)
		if want := "none of 200 peers answers: the cause is probably on this host, or between it and all others"; f.problem() != want {
			t.Errorf("reported is %q, want %q", f.problem(), want)
		}
		f.let(func(to netip.Addr, _ int) bool { return to != over(7) })
		f.pass(2 * time.Minute)
		f.want(states{peerDst(7): status.PeerUnreachable})
	})
	want := []string{"none of 200 peers answers", "peers answer again", "peer 10.0.0.7/32 (192.168.1.7) is unreachable: "}
	if !slices.EqualFunc(lines, want, strings.HasPrefix) {
		t.Errorf("logged %q, want %q", lines, want)
	}
}

// If those that do not answer leave, nobody answers again.
func TestProberAloneWithoutPeers(t *testing.T) {
	lines := probing(t, 20, func(f *fakeNet) {
		f.let(func(netip.Addr, int) bool { return false })
		all := vxlanPeers(5)
		f.SetDesired(vxlanDesired(slices.Clone(all)...))
		f.pass(30 * time.Second)
		f.SetDesired(vxlanDesired(all[:1]...))
		f.pass(100 * time.Second)
		f.want(states{peerDst(1): status.PeerGone})
	})
	want := []string{"none of 5 peers answers", "peer 10.0.0.1/32 (192.168.1.1) is gone: "}
	if !slices.EqualFunc(lines, want, strings.HasPrefix) {
		t.Errorf("logged %q, want %q", lines, want)
	}
}

// Of many that fail together a few lines tell.
func TestProberManyGone(t *testing.T) {
	lines := probing(t, 50, func(f *fakeNet) {
		f.SetDesired(vxlanDesired(vxlanPeers(400)...))
		f.pass(time.Minute)
		f.let(func(to netip.Addr, _ int) bool { return to.As4()[3]%2 == 0 })
		f.pass(5 * time.Minute)
	})
	if len(lines) < 2 || len(lines) > 12 {
		t.Errorf("logged %d lines: %q", len(lines), lines)
	}
}

// A peer that leaves is not asked any more, and one that comes is; what is known of the others
// stays. While the interface is down nobody is asked.
func TestProberFollowsPeers(t *testing.T) {
	probing(t, 20, func(f *fakeNet) {
		f.let(func(to netip.Addr, _ int) bool { return to != over(2) })
		all := vxlanPeers(4)
		f.SetDesired(vxlanDesired(all[:3]...))
		f.pass(time.Minute)
		f.want(states{peerDst(2): status.PeerUnreachable})
		since := f.peers()[1].Since
		f.SetDesired(vxlanDesired(all[1:]...))
		f.pass(time.Millisecond)
		f.want(states{peerDst(2): status.PeerUnreachable, peerDst(4): status.PeerUsed})
		if f.peers()[0].Since != since {
			t.Error("a peer that stays was forgotten")
		}
		f.pass(2 * time.Second)
		f.lock.Lock()
		n := f.asked[over(1)]
		f.lock.Unlock()
		f.pass(time.Minute)
		f.want(states{peerDst(2): status.PeerUnreachable})
		if f.asked[over(1)] != n {
			t.Error("a peer that left is asked")
		}
		down := vxlanDesired(all[1:]...)
		down.Host.V4.Up = false
		f.SetDesired(down)
		f.pass(5 * time.Second)
		n = len(f.times)
		f.pass(time.Minute)
		if len(f.times) != n {
			t.Error("peers are asked while the interface is down")
		}
		f.SetDesired(vxlanDesired(all[1:2]...))
		f.pass(time.Minute)
		f.SetDesired(vxlanDesired())
		f.pass(time.Minute)
		if f.problem() != "" {
			t.Errorf("without peers, reported is %q", f.problem())
		}
	})
}

// What this host cannot even send says so.
func TestProberCannotSend(t *testing.T) {
	probing(t, 20, func(f *fakeNet) {
		f.fails = func(to netip.Addr) error {
			if to == over(1) || to == under(1) {
				return unix.EPERM
			}
			return nil
		}
		f.SetDesired(vxlanDesired(vxlanPeers(3)...))
		f.pass(time.Minute)
		f.want(states{peerDst(1): status.PeerGone})
		if got := f.peers()[0].Reason; !strings.HasSuffix(got, "; this host could not even send: operation not permitted") {
			t.Errorf("the reason is %q", got)
		}
	})
}

// Where no socket can be had, that is said, and tried again.
func TestProberWithoutSocket(t *testing.T) {
	lines := probing(t, 20, func(f *fakeNet) {
		var mu sync.Mutex
		denied := true
		f.open = func(ip.Family) (Echoes, error) {
			mu.Lock()
			defer mu.Unlock()
			if denied {
				return nil, unix.EPERM
			}
			return f, nil
		}
		f.SetDesired(vxlanDesired(vxlanPeers(1)...))
		f.pass(5 * time.Minute)
		f.want(states{peerDst(1): status.PeerUsed})
		mu.Lock()
		denied = false
		mu.Unlock()
		f.pass(2 * time.Minute)
		f.want(states{})
	})
	want := []string{"whether packets get to other hosts is not looked at: operation not permitted"}
	if !slices.Equal(lines, want) {
		t.Errorf("logged %q, want %q", lines, want)
	}
}

// What could not be sent since the socket was full says nothing of a peer.
func TestProberWithFullSocket(t *testing.T) {
	lines := probing(t, 20, func(f *fakeNet) {
		f.SetDesired(vxlanDesired(vxlanPeers(5)...))
		f.pass(time.Minute)
		f.lock.Lock()
		f.fails = func(netip.Addr) error { return os.NewSyscallError("sendto", unix.EAGAIN) }
		f.lock.Unlock()
		f.pass(10 * time.Minute)
		f.want(states{})
		if f.problem() != "" {
			t.Errorf("reported is %q", f.problem())
		}
	})
	if len(lines) > 0 {
		t.Errorf("logged %q", lines)
	}
}

// A peer in trouble whose lease turns to what cannot be asked is in trouble no more.
func TestProberForgets(t *testing.T) {
	probing(t, 20, func(f *fakeNet) {
		f.let(func(to netip.Addr, _ int) bool { return to != over(2) && to != under(2) })
		f.SetDesired(vxlanDesired(vxlanPeers(5)...))
		f.pass(time.Minute)
		f.want(states{peerDst(2): status.PeerGone})
		peers := vxlanPeers(5)
		other := *peers[1]
		other.BackendType = "host-gw"
		peers[1] = &other
		f.SetDesired(vxlanDesired(peers...))
		f.pass(time.Minute)
		f.want(states{peerDst(2): status.PeerUsed})
		if f.problem() != "" {
			t.Errorf("reported is %q", f.problem())
		}
	})
}
