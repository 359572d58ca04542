package etcdv2

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/subnet"
	"flanneld/subnet/etcd"
)

const (
	// settle is how long after a long poll was taken up an event that had
	// already happened may take to arrive.
	settle = 300 * time.Millisecond
	// pace is the least time between two listings, and between two long polls
	// that bring nothing.
	pace = time.Second
)

// Watch implements subnet.Store. It returns an error when no endpoint answers,
// or when an endpoint breaks off one long poll after the other. What it knows
// is kept: the next Watch goes on from there without listing all leases again,
// unless the server's history does not reach back to it or is another one.
func (s *Store) Watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	return s.resume.Watch(ctx, func(v *view) error { return s.watch(ctx, v, yield) })
}

func (s *Store) watch(ctx context.Context, v *view, yield func(subnet.Snapshot)) error {
	if err := s.verify(ctx, v); err != nil {
		return err
	}
	c, known := stored(s.get(ctx, s.configKey()))
	if known {
		v.config = 0
		v.setConfig(c)
	}
	ctx, cancel := context.WithCancel(ctx)
	configs := make(chan configAt)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() { s.followConfig(ctx, c, known, configs) })
	owed := true // a snapshot, to the caller
	deliver := func() {
		if owed {
			owed = false
			yield(v.snapshot())
		}
	}
	reconfigured := func(c configAt) {
		if v.setConfig(c) && !owed {
			yield(v.snapshot())
		}
	}
	var listed time.Time
	for {
		if !v.listed {
			if err := etcd.Sleep(ctx, pace-time.Since(listed)); err != nil {
				return err
			}
			l, err := s.list(ctx)
			if err != nil {
				return err
			}
			listed = time.Now()
			v.reset(l)
			owed = true
		}
		if v.index >= v.target {
			deliver()
		}
		started := time.Now()
		rep, err := s.poll(ctx, v.index+1, deliver, configs, reconfigured)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case historyLost(err):
			v.listed = false
		case etcd.Unanswered(err) && time.Since(started) < pace:
			return err
		case etcd.Unanswered(err):
			if err := s.verify(ctx, v); err != nil {
				return err
			}
		case err != nil:
			return err
		case rep.cluster != v.cluster:
			v.listed = false
		case rep.Node == nil:
			// Nothing had happened up to when the poll was taken up.
			v.index = max(v.index, rep.index)
			if err := etcd.Sleep(ctx, pace-time.Since(started)); err != nil {
				return err
			}
			if err := s.verify(ctx, v); err != nil {
				return err
			}
		default:
			v.listed = v.apply(s.subnetsKey(), rep) && !v.behind(rep.index)
			owed = true
		}
	}
}

// verify finds out whether the server still has the history that v follows, and
// how far it has gone on. A server that was set back, to nothing or to a backup,
// would have us wait for an index that it has yet to reach, or bring only what came
// after that if it has passed it by now. If all that it lost is that keys were
// deleted, that shows with the next event of one of them only.
func (s *Store) verify(ctx context.Context, v *view) error {
	key, last := v.last()
	if !v.listed || key == "" {
		v.listed = false // listing nothing costs no more than asking
		return nil
	}
	rep, err := s.get(ctx, s.subnetsKey()+"/"+key)
	switch {
	case code(err) == client.ErrorCodeKeyNotFound: // deleted meanwhile, or never there
		v.listed = false
		return nil
	case err != nil:
		return err
	}
	// One that was written meanwhile is judged by the event of that.
	at := rep.Node.ModifiedIndex
	v.listed = rep.cluster == v.cluster && rep.index >= v.index && (at == last || at > v.index)
	v.target = rep.index
	return nil
}

// configAt is the configuration as of an index.
type configAt struct {
	subnet.StoredConfig
	index uint64
}

// followConfig passes on the configuration as it becomes after c, if that is known, until
// ctx ends. What goes wrong meanwhile is left to the watch for leases.
func (s *Store) followConfig(ctx context.Context, c configAt, known bool, found chan<- configAt) {
	for {
		began := time.Now()
		news := false
		if known {
			limited, cancel := context.WithTimeout(ctx, s.pollLimit)
			rep, err := s.send(limited, s.endpoints[s.failover.Current()], request{
				method: http.MethodGet,
				key:    s.configKey(),
				query:  url.Values{"wait": {"true"}, "waitIndex": {strconv.FormatUint(c.index+1, 10)}},
			})
			cancel()
			news = err == nil && rep.Node != nil
		}
		// Whatever it was, it is looked at; without an event, not at once.
		if !news && etcd.Sleep(ctx, pace-time.Since(began)) != nil {
			return
		}
		if c, known = stored(s.get(ctx, s.configKey())); known {
			select {
			case found <- c:
			case <-ctx.Done():
				return
			}
		}
	}
}

// stored returns the configuration that an answer holds, and whether it holds any.
func stored(rep *reply, err error) (c configAt, known bool) {
	switch {
	case code(err) == client.ErrorCodeKeyNotFound:
		return configAt{subnet.StoredConfig{Missing: true}, rep.index}, true
	case err != nil || rep.Node == nil || rep.Node.Dir:
		return c, false
	}
	return configAt{subnet.StoredConfig{Text: rep.Node.Value}, rep.index}, true
}

// poll waits for the first event from index on. It calls quiet, from the
// calling goroutine, when there is none so far, and reconfigured with what comes from
// configs meanwhile.
func (s *Store) poll(ctx context.Context, index uint64, quiet func(), configs <-chan configAt, reconfigured func(configAt)) (*reply, error) {
	k := s.failover.Current()
	e := s.endpoints[k]
	limited, cancel := context.WithTimeout(ctx, s.pollLimit)
	defer cancel()
	accepted := make(chan struct{})
	r := request{
		method: http.MethodGet,
		key:    s.subnetsKey(),
		query: url.Values{
			"wait":      {"true"},
			"recursive": {"true"},
			"waitIndex": {strconv.FormatUint(index, 10)},
		},
		accepted: sync.OnceFunc(func() { close(accepted) }),
	}
	type result struct {
		rep *reply
		err error
	}
	done := make(chan result, 1)
	go func() {
		rep, err := s.send(limited, e, r)
		done <- result{rep, err}
	}()

	var checking sync.WaitGroup
	defer checking.Wait()
	defer cancel()
	alive := make(chan error, 1)
	checked := make(chan configAt, 1)
	nextCheck := func() time.Duration { return s.pollCheck - rand.N(s.pollCheck/4) } // not all hosts at once
	check := time.NewTimer(nextCheck())
	defer check.Stop()

	timer := time.NewTimer(requestTimeout)
	defer timer.Stop()
	var res result
	for waiting := true; waiting; {
		select {
		case res = <-done:
			waiting = false
		case <-check.C:
			checking.Go(func() {
				rep, err := s.ask(limited, e, request{method: http.MethodGet, key: s.configKey(), query: quorum})
				if c, known := stored(rep, err); known {
					checked <- c
				}
				alive <- err
			})
		case err := <-alive:
			if etcd.Unanswered(err) {
				cancel()
				<-done
				res.err = err
				waiting = false
			}
			check.Reset(nextCheck())
		case c := <-configs:
			reconfigured(c)
		case c := <-checked: // the server of the other poll may be deaf
			reconfigured(c)
		case <-accepted:
			accepted = nil
			timer.Reset(settle)
		case <-timer.C:
			if accepted == nil {
				quiet()
				continue
			}
			cancel()
			<-done
			res.err = s.explain(e, context.DeadlineExceeded)
			waiting = false
		}
	}
	if etcd.Unanswered(res.err) && ctx.Err() == nil {
		s.failover.Leave(k)
	}
	return res.rep, res.err
}

// historyLost reports whether etcd has forgotten events that we have not seen.
func historyLost(err error) bool {
	return code(err) == client.ErrorCodeEventIndexCleared || code(err) == client.ErrorCodeWatcherCleared
}
