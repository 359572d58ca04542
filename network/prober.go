package network

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/echo"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/pkg/status"
	"flanneld/subnet"
)

const (
	// probeEvery is how often a peer is probed that answers, and probeAgain the same for one
	// in trouble. With many peers the budget makes it less often.
	probeEvery, probeAgain = 10 * time.Second, 5 * time.Second
	// probeWait is how long an answer may take.
	probeWait = time.Second
	// probeTick is how often probes are sent: those of one moment together cost less.
	probeTick = 500 * time.Millisecond
	// probeLine is how often a line about peers is logged: many fail together.
	probeLine = 30 * time.Second
	// probeReopen is how soon a socket is opened again that could not be.
	probeReopen = time.Minute
	// After so many peers have failed one after the other, and nobody answered for so long, the
	// cause is with this host.
	aloneAfter, aloneFor = 3, 5 * time.Second
	// aloneSure is within what one is asked that does answer, in a small network.
	aloneSure = probeEvery + probeWait
)

// Echoes sends echo requests in one family and receives the answers.
type Echoes interface {
	Send(to netip.Addr, seq uint16, token uint64, size int) error
	Receive() (echo.Answer, error)
	Close() error
}

// Prober asks the peers again and again, by echo requests, whether packets get there: each of
// its requests goes where packets of pods go, and any kernel answers it.
type Prober struct {
	budget float64               // requests a second
	report func(*status.Problem) // gets what is the matter with peers; nil for nothing
	open   func(ip.Family) (Echoes, error)
	latest once.Slot[Desired]
	log    notice.Log

	mu       sync.Mutex // what follows is written with it
	desired  *Desired
	peers    []*probed // by subnet; of one with both families, IPv4 goes first
	sockets  map[ip.Family]Echoes
	reopen   map[ip.Family]time.Time
	queue    probeQueue
	waiting  map[uint16]*request
	sent     []*request // the oldest first; also those that were answered
	seq      uint16
	tokens   float64
	refilled time.Time

	heard   time.Time // when the overlay last brought an answer
	failing int       // peers that began to fail since, and should answer
	alone   bool      // nobody answers
	dirty   bool      // there is something to report
	said    string    // what was reported
	news    []*probed // of which a line is to be logged
	logged  time.Time // when there was one
}

// errand is what a request is for.
type errand int

const (
	askFull  errand = iota // as large as packets of pods can be
	askSmall               // what passes if anything does
	askSize                // to find out what passes
	askUnder               // to the host, without the overlay
)

// request is one that waits for its answer.
type request struct {
	of     *probed
	errand errand
	to     netip.Addr
	seq    uint16
	token  uint64
	size   int
	at     time.Time
}

// NewProber returns a Prober that sends at most so many requests a second on the average. It
// calls report, from Run, whenever the answer changes to what is the matter with peers.
func NewProber(budget int, report func(*status.Problem)) *Prober {
	return &Prober{
		budget: float64(budget), report: report,
		open:    func(f ip.Family) (Echoes, error) { return echo.Open(f) },
		latest:  once.NewSlot[Desired](),
		sockets: make(map[ip.Family]Echoes), reopen: make(map[ip.Family]time.Time), waiting: make(map[uint16]*request),
	}
}

// SetDesired replaces what is desired.
func (p *Prober) SetDesired(w Desired) { p.latest.Put(w) }

// Event does nothing: what the kernel tells says nothing of other hosts.
func (p *Prober) Event(dataplane.Event) {}

// Run probes until ctx ends, and returns ctx.Err().
func (p *Prober) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer p.close()
		p.refilled, p.heard = time.Now(), time.Now()
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case w := <-p.latest:
				p.take(&w, time.Now())
				timer.Reset(0)
			case <-timer.C:
				p.listen(ctx, g)
				timer.Reset(p.step(time.Now()))
			}
		}
	})
	return g.Wait()
}

func (p *Prober) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sockets {
		_ = s.Close()
	}
}

// listen has a socket in each family of our subnet.
func (p *Prober) listen(ctx context.Context, g *errgroup.Group) {
	if p.desired == nil {
		return
	}
	for _, f := range p.desired.Own.Subnet.Families() {
		if p.sockets[f] != nil || time.Now().Before(p.reopen[f]) {
			continue
		}
		s, err := p.open(f)
		if err != nil {
			p.reopen[f] = time.Now().Add(probeReopen)
			if text := fmt.Sprintf("whether packets get to other hosts is not looked at: %v", err); p.log.State(f.String(), text) {
				klog.Warning(text)
			}
			continue
		}
		p.log.Over(f.String())
		p.mu.Lock()
		p.sockets[f] = s
		p.mu.Unlock()
		g.Go(func() error {
			return p.log.Again(ctx, time.Second, klog.Warningf, "receiving the answers of "+f.String()+" peers", func() error { return p.receive(s) })
		})
	}
}

// receive takes what a socket receives, until it is closed. It need not wake Run, which looks
// again before anything that it changes is due.
func (p *Prober) receive(s Echoes) error {
	for {
		a, err := s.Receive()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		p.answered(a, time.Now())
	}
}

// take takes what is desired. Of peers that stay, what is known stays.
func (p *Prober) take(w *Desired, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.desired, p.dirty = w, true
	was := p.peers
	p.peers = make([]*probed, 0, len(was)+len(ip.Families))
	pause := p.pause(len(w.Peers))
	for _, l := range w.Peers {
		for _, f := range w.Own.Subnet.Families() {
			if !l.Subnet.Of(f).IsValid() {
				continue
			}
			var v *probed
			for ; len(was) > 0 && v == nil && compareProbed(was[0], l, f) <= 0; was = was[1:] {
				if compareProbed(was[0], l, f) == 0 {
					v = was[0]
				} else {
					p.leave(was[0])
				}
			}
			if v == nil {
				v = &probed{family: f, as: numberOf(status.PeerUsed), since: instantOf(now), due: instantOf(now.Add(rand.N(pause)))}
				heap.Push(&p.queue, v)
			} else if v.lease.PublicIP.Of(f) != l.PublicIP.Of(f) {
				v.answered = false
			}
			v.lease = l
			p.peers = append(p.peers, v)
		}
	}
	for _, v := range was {
		p.leave(v)
	}
}

// compareProbed orders peers by subnet and family.
func compareProbed(v *probed, l *subnet.Lease, f ip.Family) int {
	return cmp.Or(v.lease.Subnet.Compare(l.Subnet), cmp.Compare(v.family, f))
}

// leave lets go of a peer. The caller holds p.mu.
func (p *Prober) leave(v *probed) {
	v.left = true
	if v.place != outside {
		heap.Remove(&p.queue, int(v.place))
	}
	if v.said {
		p.log.Over(v.name())
	}
}

// pause is how long a peer that answers is left alone, with so many peers: a fifth of the
// budget is for those in trouble.
func (p *Prober) pause(peers int) time.Duration {
	return max(probeEvery, time.Duration(float64(peers)/(0.8*p.budget)*float64(time.Second)))
}

// step ends what has waited long enough, begins what is due, and returns when it is time for
// the next step.
func (p *Prober) step(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.sent) > 0 && now.Sub(p.sent[0].at) >= probeWait {
		r := p.sent[0]
		p.sent = p.sent[1:]
		if p.waiting[r.seq] == r {
			delete(p.waiting, r.seq)
			p.ended(r.of, now)
		}
	}
	p.tokens = min(p.tokens+p.budget*now.Sub(p.refilled).Seconds(), max(1, p.budget*probeTick.Seconds()))
	p.refilled = now
	for len(p.queue) > 0 && p.tokens >= 1 && p.queue[0].due <= instantOf(now) {
		p.begin(heap.Pop(&p.queue).(*probed), now)
	}
	p.tell(now)
	next := probeEvery
	if len(p.sent) > 0 {
		next = p.sent[0].at.Add(probeWait).Sub(now)
	}
	if len(p.queue) > 0 {
		next = min(next, time.Duration(p.queue[0].due-instantOf(now)))
	}
	return max(next, probeTick)
}

// begin begins a round. The caller holds p.mu.
func (p *Prober) begin(v *probed, now time.Time) {
	w := p.desired
	if !w.Host.Of(v.family).Up || p.sockets[v.family] == nil {
		p.rest(v, now, max(probeAgain, p.pause(len(p.peers))/2))
		return
	}
	a, ok := targetOf(w, v.family, v.lease)
	if !ok {
		if v.forget(now) {
			p.dirty = true
		}
		if v.said {
			v.said = false
			p.log.Over(v.name())
		}
		p.rest(v, now, p.pause(len(p.peers)))
		return
	}
	v.second, v.pending, v.gotSmall, v.gotUnder, v.failed, v.unsent = false, 0, false, false, nil, false
	p.send(v, askFull, a.over, w.Backend.MTU(w.Host), now)
	if v.pending == 0 {
		p.settle(v, now)
	}
}

// rest puts a peer back into the queue. The caller holds p.mu.
func (p *Prober) rest(v *probed, now time.Time, d time.Duration) {
	if !v.left {
		v.due = instantOf(now.Add(d))
		heap.Push(&p.queue, v)
	}
}

// send sends a request. The caller holds p.mu.
func (p *Prober) send(v *probed, what errand, to netip.Addr, size int, now time.Time) {
	p.tokens--
	p.seq++
	r := &request{of: v, errand: what, to: to, seq: p.seq, token: rand.Uint64(), size: size, at: now}
	if err := p.sockets[v.family].Send(to, r.seq, r.token, size); err != nil {
		if errors.Is(err, unix.EAGAIN) {
			v.unsent = true
		} else if what == askFull || what == askSmall {
			v.failed = &err
		}
		return
	}
	v.pending++
	p.waiting[r.seq] = r
	p.sent = append(p.sent, r)
}

// answered takes an answer.
func (p *Prober) answered(a echo.Answer, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.waiting[a.Seq]
	if r == nil || a.Token != r.token || a.From != r.to {
		return // to nobody, or from somebody else
	}
	delete(p.waiting, a.Seq)
	v := r.of
	if r.errand != askUnder {
		v.rtt, v.answered = now.Sub(r.at), true
		p.heard, p.failing = now, 0
	}
	switch r.errand {
	case askFull:
		v.pending--
		p.arrives(v, now)
		return
	case askSmall:
		v.gotSmall = true
	case askSize:
		v.passes = int32(r.size)
	case askUnder:
		v.gotUnder = true
	}
	p.ended(v, now)
}

// ended goes on after a request that was answered, or was not. The caller holds p.mu.
func (p *Prober) ended(v *probed, now time.Time) {
	if v.pending--; v.pending == 0 && !v.left {
		p.settle(v, now)
	}
}

// arrives ends a round in which a packet of full size came back. The caller holds p.mu.
func (p *Prober) arrives(v *probed, now time.Time) {
	if v.left {
		return
	}
	v.lost, v.small, v.under = 0, 0, 0
	if v.set(status.PeerReachable, now) {
		p.dirty = true
	}
	if v.said {
		v.said = false
		p.log.Over(v.name())
		p.note(v, fmt.Sprintf("peer %s is reachable again", v.name()))
	}
	p.rest(v, now, p.pause(len(p.peers)))
}

// note has a line be logged of a peer, unless it takes back another one that was not logged yet.
// The caller holds p.mu.
func (p *Prober) note(v *probed, text string) {
	if v.news != nil {
		v.news = nil
		return
	}
	v.news = &text
	p.news = append(p.news, v)
}

// settle goes on when nothing is waited for any more, and no packet of full size came back.
// The caller holds p.mu.
func (p *Prober) settle(v *probed, now time.Time) {
	w := p.desired
	a, ok := targetOf(w, v.family, v.lease)
	if !ok || !w.Host.Of(v.family).Up || v.unsent {
		p.rest(v, now, probeAgain)
		return
	}
	if !v.second {
		if v.second = true; !v.doubtful() && v.shouldAnswer(a) {
			p.failing++
		}
		p.send(v, askSmall, a.over, smallSize, now)
		if !a.direct() && a.under.IsValid() {
			p.send(v, askUnder, a.under, smallSize, now)
		}
		if v.tries = v.size(); v.tries > 0 {
			p.send(v, askSize, a.over, int(v.tries), now)
		}
		if v.pending > 0 {
			return
		}
		if v.unsent {
			p.rest(v, now, probeAgain)
			return
		}
	}
	v.lost = min(v.lost+1, 2*smallRounds)
	v.small, v.under = v.small<<1, v.under<<1
	if v.gotSmall {
		v.small |= 1
		if v.tries > v.passes {
			v.fails = v.tries
		}
	}
	if v.gotUnder {
		v.under |= 1
	}
	if v.set(v.judge(a), now) {
		if p.dirty = true; v.state() == status.PeerSmallOnly {
			v.passes, v.fails = smallSize, int32(w.Backend.MTU(w.Host))
		}
	}
	if is, maybe := p.silent(now); v.state().Troubled() && !v.said && !is && !maybe {
		reason, remedy := v.explain(w)
		text := fmt.Sprintf("peer %s is %s: %s; see: %s", v.name(), v.state(), reason, remedy)
		if v.said = p.log.State(v.name(), text); v.said {
			p.note(v, text)
		}
	}
	switch {
	case v.lost < smallRounds, v.size() > 0:
		p.rest(v, now, probeWait)
	case v.state().Troubled():
		p.rest(v, now, probeAgain)
	default:
		p.rest(v, now, p.pause(len(p.peers)))
	}
}

// silent reports whether nobody answers any more; maybe is set while that is not certain. The
// caller holds p.mu.
func (p *Prober) silent(now time.Time) (is, maybe bool) {
	since := now.Sub(p.heard)
	if len(p.peers) < aloneAfter || since < aloneFor {
		return false, false
	}
	return p.failing >= aloneAfter && since >= aloneSure, since < aloneSure
}

// tell reports and logs what is news. The caller holds p.mu.
func (p *Prober) tell(now time.Time) {
	if alone, _ := p.silent(now); alone != p.alone {
		const about = "all peers"
		if p.alone, p.dirty = alone, true; !alone {
			p.logged = now // the rounds that are on may take it back
			if p.log.Over(about) && p.failing == 0 {
				klog.Info("peers answer again")
			}
		} else if text := p.problem().Text; p.log.State(about, text) {
			klog.Warning(text)
		}
	}
	if p.dirty {
		p.dirty = false
		problem := p.problem()
		text := ""
		if problem != nil {
			text = problem.Text
		}
		if text != p.said {
			p.said = text
			p.report(problem)
		}
	}
	if len(p.news) > 0 && (p.logged.IsZero() || now.Sub(p.logged) >= probeLine) {
		var bad, good []string
		for _, v := range p.news {
			switch {
			case v.news == nil || v.left:
			case v.said:
				bad = append(bad, *v.news)
			default:
				good = append(good, *v.news)
			}
			v.news = nil
		}
		p.news = nil
		for _, text := range notice.Sum(bad) {
			p.logged = now
			klog.Warning(text)
		}
		for _, text := range notice.Sum(good) {
			p.logged = now
			klog.Info(text)
		}
	}
}

// problem says what is the matter with peers; nil for nothing. The caller holds p.mu.
func (p *Prober) problem() *status.Problem {
	const most = 3
	var all, troubled int
	var named []string
	for l, is := range p.states() {
		all++
		if !is.state().Troubled() {
			continue
		}
		if troubled++; troubled <= most {
			named = append(named, fmt.Sprintf("%s (%s)", l.Subnet, is.state()))
		}
	}
	text := fmt.Sprintf("packets do not get to %d of %d peers as they should: %s", troubled, all, strings.Join(named, ", "))
	switch {
	case p.alone:
		text = fmt.Sprintf("none of %d peers answers: the cause is probably on this host, or between it and all others", all)
	case troubled == 0:
		return nil
	case troubled > most:
		text += fmt.Sprintf(" and %d more", troubled-most)
	}
	return &status.Problem{Component: status.ComponentPeers, Text: text}
}

// states yields each peer, by subnet, with how it is in the family in which it is worst. The
// caller holds p.mu.
func (p *Prober) states() iter.Seq2[*subnet.Lease, *probed] {
	return func(yield func(*subnet.Lease, *probed) bool) {
		for i, v := range p.peers {
			if i > 0 && p.peers[i-1].lease == v.lease {
				continue
			}
			if i+1 < len(p.peers) && p.peers[i+1].lease == v.lease && worse(p.peers[i+1], v) {
				v = p.peers[i+1]
			}
			if !yield(v.lease, v) {
				return
			}
		}
	}
}

// Peers returns whether packets get to the peers that are probed, by subnet, and to how many
// they do. Those in no trouble are left out if they are not asked for; then what the trouble is
// is said of no more than status.NamedMost.
func (p *Prober) Peers(all bool) (peers []PeerReach, reachable int) {
	p.mu.Lock()
	w := p.desired
	var troubled []probed // copies, by their place in peers
	var places []int
	for l, v := range p.states() {
		if v.state() == status.PeerReachable {
			reachable++
		}
		is := v.state().Troubled()
		if !all && !is {
			continue
		}
		if is && (all || len(troubled) < status.NamedMost) {
			troubled, places = append(troubled, *v), append(places, len(peers))
		}
		peers = append(peers, PeerReach{Subnet: l.Subnet, State: v.state(), Since: v.since.time(), RTT: v.rtt})
	}
	p.mu.Unlock()
	for i, v := range troubled {
		peers[places[i]].Reason, peers[places[i]].Remedy = v.explain(w)
	}
	return peers, reachable
}

// probeQueue has the peers that no round is on with, the one that is due first at the top.
type probeQueue []*probed

func (q probeQueue) Len() int           { return len(q) }
func (q probeQueue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q probeQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = int32(i), int32(j)
}

// Push implements heap.Interface.
func (q *probeQueue) Push(v any) {
	v.(*probed).place = int32(len(*q))
	*q = append(*q, v.(*probed))
}

// Pop implements heap.Interface.
func (q *probeQueue) Pop() any {
	last := len(*q) - 1
	v := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	v.place = outside
	return v
}
