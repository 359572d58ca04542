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

	"flanneld/pkg/once"
	"flanneld/subnet"
	"flanneld/subnet/etcd"
)

// settle is how long after a long poll was taken up an event that had
// already happened may take to arrive.
const settle = 300 * time.Millisecond

// follow is etcd.Watch.Follow, by one long poll after the other.
func (s *Store) follow(ctx context.Context, v *etcd.View, deliver func(bool)) error {
	ctx, cancel := context.WithCancel(ctx)
	configs := make(chan configAt)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	after := v.Config
	following.Go(func() { s.followConfig(ctx, after, configs) })
	for {
		started := time.Now()
		rep, err := s.poll(ctx, v, configs, deliver)
		switch {
		case historyLost(err), err == nil && rep.cluster != v.Cluster:
			return etcd.ErrHistory
		case err != nil:
			return err
		case rep.Node == nil:
			// Nothing had happened up to when the poll was taken up.
			v.Revision = max(v.Revision, rep.index)
			if err := once.Sleep(ctx, etcd.Pace-time.Since(started)); err != nil {
				return err
			}
			if err := s.verify(ctx, v); err != nil {
				return err
			}
		default:
			v.Listed = apply(v, s.subnetsKey(), rep) && !behind(v, rep.index)
		}
		if !v.Listed {
			return etcd.ErrHistory
		}
		deliver(rep.Node != nil)
	}
}

// verify is etcd.Watch.Verify. It takes the configuration, too, which a listing has not. If
// all that the server lost is that keys were deleted, that shows with the next event of one
// of them only.
func (s *Store) verify(ctx context.Context, v *etcd.View) error {
	rep, err := s.get(ctx, s.configKey())
	if etcd.Unanswered(err) {
		return err
	}
	if c, known := stored(rep, err); known {
		v.Config = 0
		v.SetConfig(c.StoredConfig, c.index)
	}
	key, last := v.Last()
	if !v.Listed || key == "" {
		v.Listed = false // listing nothing costs no more than asking
		return nil
	}
	rep, err = s.get(ctx, s.subnetsKey()+"/"+key)
	switch {
	case code(err) == client.ErrorCodeKeyNotFound: // deleted meanwhile, or never there
		v.Listed = false
		return nil
	case err != nil:
		return err
	}
	// One that was written meanwhile is judged by the event of that.
	at := rep.Node.ModifiedIndex
	v.Listed = rep.cluster == v.Cluster && rep.index >= v.Revision && (at == last.Revision || at > v.Revision)
	v.Target = rep.index
	return nil
}

// configAt is the configuration as of an index.
type configAt struct {
	subnet.StoredConfig
	index uint64
}

// followConfig passes on the configuration as it becomes after an index, if that is known,
// until ctx ends. What goes wrong meanwhile is left to the watch for leases.
func (s *Store) followConfig(ctx context.Context, after uint64, found chan<- configAt) {
	for {
		began := time.Now()
		happened := false
		if after > 0 {
			limited, cancel := context.WithTimeout(ctx, s.pollLimit)
			rep, err := s.send(limited, s.endpoints[s.failover.Current()], request{
				method: http.MethodGet,
				key:    s.configKey(),
				query:  url.Values{"wait": {"true"}, "waitIndex": {strconv.FormatUint(after+1, 10)}},
			})
			cancel()
			happened = err == nil && rep.Node != nil
		}
		// Whatever it was, it is looked at; without an event, not at once.
		if !happened && once.Sleep(ctx, etcd.Pace-time.Since(began)) != nil {
			return
		}
		c, known := stored(s.get(ctx, s.configKey()))
		if after = c.index; known {
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

// poll waits for the next event of a view. It calls deliver, from the calling goroutine,
// when there is none so far, and with what comes from configs meanwhile.
func (s *Store) poll(ctx context.Context, v *etcd.View, configs <-chan configAt, deliver func(changed bool)) (*reply, error) {
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
			"waitIndex": {strconv.FormatUint(v.Revision+1, 10)},
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
				begun := time.Now()
				rep, err := s.ask(limited, e, request{method: http.MethodGet, key: s.configKey(), query: quorum})
				if err == nil {
					s.options.Lag.Note(time.Since(begun))
				}
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
			deliver(v.SetConfig(c.StoredConfig, c.index))
		case c := <-checked: // the server of the other poll may be deaf
			deliver(v.SetConfig(c.StoredConfig, c.index))
		case <-accepted:
			accepted = nil
			timer.Reset(settle)
		case <-timer.C:
			if accepted == nil {
				v.Target = 0 // what the server went on by is about other keys
				deliver(false)
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
