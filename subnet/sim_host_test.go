package subnet_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/subnettest"
)

// simHost is a host in a history. All of it is under sim.mu.
type simHost struct {
	public string
	attrs  subnet.Attrs
	daemon *process  // nil while it does not run
	env    ip.Subnet // that subnet.env names
	saved  subnet.Saved
	link   link
	light  chan struct{} // closed when the link is dark no more
	broken chan struct{} // closed when the connections break
}

// process is a daemon from its start to its end, and a Store as it has it.
type process struct {
	sim    *sim
	host   *simHost
	client *subnettest.Memory // for the watch
	ctx    context.Context    // ends when the daemon does
	kill   func()             // ends it, and waits for that

	random, watchRandom *rand.Rand

	// Under sim.mu:
	holding  subnet.Holding
	frozen   chan struct{} // closed when it goes on; nil if it is not frozen
	free     chan struct{} // closed while the daemon asks for nothing
	minute   time.Time     // when the minute began that requests are counted in
	requests int
	calm     int // requests since all is well
	previous ip.Subnet
	// unclaimed: the previous subnet has been free since the start.
	unclaimed bool
	offline   bool            // it started with what was saved
	leases    []*subnet.Lease // of this host, which the daemon has to find when it starts
	listed    bool            // the store was asked for all leases
	disturbed bool            // since the start
	given     *subnet.Lease   // by the latest answer to Create
}

// start runs the daemon of a host, which knows its previous subnet if subnet.env
// is still there, and maybe what it held.
func (s *sim) start(h *simHost, knows bool) {
	time.Sleep(some(s.random, quick)) // not at the same time as another one
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{
		sim: s, host: h, client: s.store.Join(), ctx: ctx,
		random: s.source(), watchRandom: s.source(),
		free: make(chan struct{}), minute: time.Now(),
	}
	close(p.free)
	if knows {
		p.previous = h.env
	}
	stored := s.stored()
	_, taken := keys(stored)[p.previous]
	p.unclaimed = p.previous.IsValid() && !taken
	for _, l := range stored.Leases {
		if l.PublicIP == h.attrs.PublicIP {
			p.leases = append(p.leases, l)
		}
	}
	saved := h.saved
	if s.random.IntN(2) == 0 {
		saved = subnet.Saved{}
	}
	s.logLocked("%s starts, formerly %s, with %v saved", h.public, p.previous, saved.Own)
	h.daemon = p
	began := time.Now()
	k := &subnet.Keeper{
		Store:    p,
		Previous: p.previous,
		Margin:   simMargin,
		Prepare: func(context.Context, *subnet.Config, subnet.Snapshot) (subnet.Attrs, []netip.Prefix, error) {
			return h.attrs, nil, nil
		},
		Changed:  p.changed,
		Waiting:  p.waiting,
		Boottime: func() time.Duration { return time.Since(began) },
		Saved: func() (subnet.Saved, error) {
			if saved.Own == nil {
				return saved, errors.New("there is none")
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			p.offline = true
			return saved, nil
		},
		Random: s.source(),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = k.Run(ctx)
	}()
	p.kill = func() { cancel(); <-ended }
}

// stop ends the daemon of a host, as a crash or a person would: a Keeper leaves
// all as it is.
func (s *sim) stop(h *simHost) {
	s.mu.Lock()
	p := h.daemon
	h.daemon = nil
	s.logLocked("%s stops", h.public)
	s.mu.Unlock()
	p.kill()
}

func (s *sim) source() *rand.Rand { return rand.New(rand.NewPCG(s.random.Uint64(), s.random.Uint64())) }

// ended reports whether the daemon was ended. What its Keeper does after that counts for
// nothing: it may come to do it, or not.
func (p *process) ended() bool { return p.ctx.Err() != nil }

// waiting takes what the Keeper waits for.
func (p *process) waiting(text string) {
	if !p.ended() {
		p.sim.log("%s: %s", p.host.public, text)
	}
}

// changed takes what the Keeper hands out.
func (p *process) changed(h subnet.Holding) {
	p.sim.mu.Lock()
	defer p.sim.mu.Unlock()
	if p.ended() {
		return
	}
	first := p.holding.Own == nil
	p.holding = h
	p.host.saved = subnet.Saved{At: time.Now(), Holding: h}
	p.sim.logLocked("%s has %s of revision %d until %s, held by %q", p.host.public, h.Own.Subnet, h.Own.Revision, h.Own.Expires, h.Holder)
	if h.Holder == "" {
		p.host.env = h.Own.Subnet
	}
	if first && !p.offline {
		p.sim.checkRestart(p)
	}
	p.sim.checkOwners(p)
}

// awake waits for as long as the daemon is frozen, and then a moment: others may
// go on at the same time. If the daemon is ended meanwhile, ctx has when it returns.
func (p *process) awake(ctx context.Context, r *rand.Rand) {
	for {
		p.sim.mu.Lock()
		frozen := p.frozen
		p.sim.mu.Unlock()
		if frozen == nil {
			return
		}
		select {
		case <-frozen:
		case <-p.ctx.Done():
			<-ctx.Done() // a moment later
			return
		}
		time.Sleep(some(r, quick))
	}
}

// admit counts a request, and refuses it if it is one of a storm.
func (p *process) admit(what string) bool {
	p.sim.mu.Lock()
	defer p.sim.mu.Unlock()
	if now := time.Now(); now.Sub(p.minute) >= time.Minute {
		p.minute, p.requests = now, 0
	}
	p.requests++
	p.calm++
	if p.requests > requestsMost {
		p.sim.fail("%s made %d requests in a minute; the last one was to %s", p.host.public, p.requests, what)
		return false
	}
	return true
}

// enter and leave bracket a request that the Keeper waits for.
func (p *process) enter() {
	p.sim.mu.Lock()
	defer p.sim.mu.Unlock()
	p.free = make(chan struct{})
}

func (p *process) leave() {
	p.sim.mu.Lock()
	defer p.sim.mu.Unlock()
	close(p.free)
}

// idle returns what is closed while there is no such request.
func (p *process) idle() <-chan struct{} {
	p.sim.mu.Lock()
	defer p.sim.mu.Unlock()
	return p.free
}

// busy reports whether there is such a request.
func (p *process) busy() bool {
	select {
	case <-p.idle():
		return false
	default:
		return true
	}
}

// light returns what is closed when the link is dark no more; nil if it is not.
func (p *process) light() <-chan struct{} {
	p.sim.mu.Lock()
	defer p.sim.mu.Unlock()
	if !p.host.link.dark {
		return nil
	}
	return p.host.light
}

// connection returns the link, and what is closed when what goes by it breaks.
func (p *process) connection() (link, <-chan struct{}) {
	p.sim.mu.Lock()
	defer p.sim.mu.Unlock()
	return p.host.link, p.host.broken
}
