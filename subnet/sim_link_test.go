package subnet_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// link is what happens to messages between a host and the store.
type link struct {
	lost   float64       // this share of requests never arrives
	mute   float64       // this share of answers never arrives
	late   float64       // this share of requests arrives when nobody waits for it any more
	refuse bool          // the host learns at once of a request that is lost
	slow   time.Duration // how long a message takes, at most
	dark   bool          // the watch brings nothing, and does not end
}

const (
	quick = 20 * time.Millisecond // what a message takes, at most, if all is well
	// lateMost is how late a request arrives.
	lateMost = 20 * time.Second
	// requestsMost is how many requests a daemon may make in a minute: when it
	// waits for a subnet to become free, it asks for three things a second.
	requestsMost = 250
)

var errCut = errors.New("the store cannot be reached")

// some returns a time up to most. Two things happen at the same time with hardly
// any seed, so that the order of all that happens follows from the seed.
func some(r *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(1 + r.Int64N(int64(most)))
}

// trip is what becomes of one request.
type trip struct {
	arrives, answered bool
	there, back       time.Duration
	refused           bool // the host learns that it does not arrive
	latest            bool // an answer is taken although the time for it is over
}

// trip draws what becomes of a request. Where the link is well it arrives at once:
// the way back is long enough for others to do something meanwhile.
func (p *process) trip() trip {
	p.sim.mu.Lock()
	defer p.sim.mu.Unlock()
	l, r := p.host.link, p.random
	t := trip{
		arrives:  r.Float64() >= l.lost,
		answered: r.Float64() >= l.mute,
		back:     some(r, max(quick, l.slow)),
		latest:   r.IntN(2) == 0,
	}
	t.refused = !t.arrives && l.refuse
	if l.slow > 0 {
		t.there = some(r, l.slow)
	}
	if r.Float64() < l.late {
		t.there = some(r, lateMost)
	}
	if arrival := time.Now().Add(t.there); t.arrives && arrival.After(p.sim.quietFrom) {
		p.sim.quietFrom = arrival
	}
	return t
}

// ask makes one request of the store, which is done when it arrives there,
// whatever has become of the daemon by then.
func ask[T any](ctx context.Context, p *process, what string, do func() (T, error)) (T, error) {
	var answer, none T
	var err error
	if p.ended() {
		return none, p.ctx.Err()
	}
	if !p.admit(what) {
		<-ctx.Done()
		return none, ctx.Err()
	}
	p.enter()
	defer p.leave()
	p.awake(ctx, p.random)
	t := p.trip()
	arrive := func() {
		p.sim.mu.Lock()
		defer p.sim.mu.Unlock()
		answer, err = do()
		p.sim.logLocked("%s: %s: %v %v", p.host.public, what, answer, err)
	}
	var done, refused <-chan time.Time
	switch {
	case t.refused:
		refused = time.After(t.back)
	case !t.arrives:
	case t.there == 0:
		arrive()
		if t.answered {
			done = time.After(t.back)
		}
	default:
		answered := make(chan time.Time, 1)
		time.AfterFunc(t.there, func() {
			arrive()
			if t.answered {
				time.AfterFunc(t.back, func() { answered <- time.Now() })
			}
		})
		done = answered
	}
	came := false
	select {
	case <-done:
		came = true
	case <-ctx.Done():
	case <-refused:
		return none, errCut
	}
	p.awake(ctx, p.random)
	if !came {
		select {
		case <-done:
			came = true
		default:
		}
	}
	if !came || ctx.Err() != nil && (p.ctx.Err() != nil || !t.latest) {
		return none, ctx.Err()
	}
	return answer, err
}

// Config implements subnet.Store.
func (p *process) Config(ctx context.Context) ([]byte, error) {
	return ask(ctx, p, "config", func() ([]byte, error) { return p.sim.store.Config(context.Background()) })
}

// List implements subnet.Store.
func (p *process) List(ctx context.Context) (subnet.Snapshot, error) {
	s, err := ask(ctx, p, "list", func() (subnet.Snapshot, error) {
		p.listed = true
		return p.sim.store.List(context.Background())
	})
	if err != nil { // it lists them again
		p.sim.mu.Lock()
		defer p.sim.mu.Unlock()
		p.listed = false
	}
	return s, err
}

// Create implements subnet.Store.
func (p *process) Create(ctx context.Context, s ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	sent := time.Now()
	given, err := ask(ctx, p, "create", func() (*subnet.Lease, error) {
		l, err := p.sim.store.Create(context.Background(), s, a, min(ttl, simTTL))
		if err == nil {
			p.sim.wrote(p, nil, l)
		}
		return fromWhenSent(l, sent), err
	})
	if err == nil {
		p.sim.mu.Lock()
		defer p.sim.mu.Unlock()
		p.given = given
	}
	return given, err
}

// Update implements subnet.Store.
func (p *process) Update(ctx context.Context, s ip.Subnet, revision uint64, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	sent, sure := time.Now(), p.sure()
	return ask(ctx, p, "update", func() (*subnet.Lease, error) {
		was := p.sim.stored().Find(s)
		l, err := p.sim.store.Update(context.Background(), s, revision, a, min(ttl, simTTL))
		if err == nil {
			p.sim.wrote(p, was, l)
			if was == nil && !sure {
				p.sim.fail("%s wrote over %s, which cannot be read and may be another's", p.host.public, s)
			}
		}
		return fromWhenSent(l, sent), err
	})
}

// Move implements subnet.Store, as one of two APIs: all at once, or the new lease before the
// old one goes. The server may end in between.
func (p *process) Move(ctx context.Context, from ip.Subnet, revision uint64, to ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	sent, store := time.Now(), p.sim.store
	way := p.random.IntN(4)
	return ask(ctx, p, "move", func() (l *subnet.Lease, err error) {
		was := p.sim.stored().Find(from)
		if way < 2 {
			l, err = store.Move(context.Background(), from, revision, to, a, min(ttl, simTTL))
		} else if l, err = store.Create(context.Background(), to, a, min(ttl, simTTL)); err == nil {
			if way == 3 {
				err = errCut
			} else if err = store.Delete(context.Background(), from, revision); err != nil {
				_ = store.Delete(context.Background(), to, l.Revision)
			}
		}
		if err == nil || errors.Is(err, errCut) {
			p.sim.wrote(p, was, l)
		}
		if err != nil {
			return nil, err
		}
		return fromWhenSent(l, sent), nil
	})
}

// Delete implements subnet.Store.
func (p *process) Delete(ctx context.Context, s ip.Subnet, revision uint64) error {
	_, err := ask(ctx, p, "delete", func() (struct{}, error) {
		was := p.sim.stored().Find(s)
		err := p.sim.store.Delete(context.Background(), s, revision)
		if err == nil {
			p.sim.checkOverwritten(p, was)
		}
		return struct{}{}, err
	})
	return err
}

// Reconnect implements subnet.Store.
func (p *process) Reconnect() {}

// fromWhenSent counts a lease's time from when it was asked for, as a Store does.
func fromWhenSent(l *subnet.Lease, sent time.Time) *subnet.Lease {
	if l == nil || l.Reserved() {
		return l
	}
	counted := *l
	counted.Expires = l.Expires.Add(-time.Since(sent))
	return &counted
}

// Watch implements subnet.Store. A snapshot is on its way for a while, and then
// waits until the daemon has its answer if it is asking for something: what is
// to be looked at first would be a matter of chance.
func (p *process) Watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	if !p.admit("watch") {
		<-ctx.Done()
		return ctx.Err()
	}
	r := p.watchRandom
	p.awake(ctx, r)
	l, broken := p.connection()
	if l.dark && l.refuse {
		time.Sleep(some(r, quick))
		return errCut
	}
	if err := p.pass(ctx, broken, some(r, max(quick, l.slow))); err != nil {
		return err
	}
	var latest subnet.Snapshot // under sim.mu
	arrived := make(chan struct{}, 1)
	ended := make(chan struct{})
	inner, cancel := context.WithCancel(ctx)
	defer func() { cancel(); <-ended }()
	go func() {
		defer close(ended)
		_ = p.client.Watch(inner, func(s subnet.Snapshot) {
			p.sim.mu.Lock()
			defer p.sim.mu.Unlock()
			latest = s
			select {
			case arrived <- struct{}{}:
			default:
			}
		})
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-broken:
			return errCut
		case <-arrived:
		}
		select {
		case <-broken: // at the same time
			return errCut
		default:
		}
		// What happens at one time comes as one.
		if err := p.pass(ctx, broken, some(r, quick)); err != nil {
			return err
		}
		p.sim.mu.Lock()
		s, slow := latest, p.host.link.slow
		select {
		case <-arrived:
		default:
		}
		p.sim.mu.Unlock()
		if slow > 0 {
			if err := p.pass(ctx, broken, some(r, slow)); err != nil {
				return err
			}
		}
		p.awake(ctx, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for p.busy() {
			<-p.idle()
			if err := p.pass(ctx, broken, some(r, time.Millisecond)); err != nil {
				return err
			}
		}
		p.sim.log("%s: watch: %v", p.host.public, s)
		yield(s)
	}
}

// pass waits for d, and for as long as the link is dark.
func (p *process) pass(ctx context.Context, broken <-chan struct{}, d time.Duration) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-broken:
			return errCut
		case <-time.After(d):
		}
		light := p.light()
		if light == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-broken:
			return errCut
		case <-light:
		}
	}
}
