package etcdv3

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"k8s.io/klog/v2"

	"flanneld/pkg/printable"
	"flanneld/subnet/etcd"
)

const (
	// catchUp is how often the server is asked how far the stream is, until it
	// is where it must be. It does not answer while it has events to send.
	catchUp = 50 * time.Millisecond
	// progress is how often it is found out later whether the stream still brings
	// what happens. A view that moves on is one that a compaction of the server's
	// history does not overtake, too.
	progress = time.Minute
	// answer is what the answers bear for the number of a watch.
	answer = -1
	// configWatch is the number of the watch for the configuration. That for leases has
	// the one that the server gives it, which is 0.
	configWatch = 1
	// backlog is how many responses may wait to become one snapshot.
	backlog = 1000
)

// errStuck is of a stream that brings nothing where there is something.
var errStuck = fmt.Errorf("the watch stays behind for more than %s", etcd.RequestTimeout)

// follow opens a stream of events from where v is, and brings v up to date with
// it until it ends. It calls deliver, with whether anything is new, from the calling
// goroutine.
func (s *Store) follow(ctx context.Context, v *etcd.View, deliver func(bool)) error {
	k := s.failover.Current()
	st := &stream{s: s, e: s.endpoints[k], v: v}
	ctx, cancel := context.WithCancel(ctx)
	defer st.running.Wait()
	defer cancel()
	err := st.open(ctx)
	if err == nil {
		err = st.take(ctx, deliver)
	}
	if etcd.Unanswered(err) && ctx.Err() == nil {
		s.failover.Leave(k)
	}
	return err
}

// stream is a stream of events.
type stream struct {
	s *Store
	e *endpoint
	v *etcd.View

	watch     pb.Watch_WatchClient
	exact     bool // the server says truly how far the stream is
	missed    bool // the configuration may have changed before its watch began
	responses chan *pb.WatchResponse
	ended     chan error // holds why, when responses is closed
	running   sync.WaitGroup
}

func (st *stream) open(ctx context.Context) error {
	limited, expire := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer expire()
	as, err := st.e.as(limited)
	if err != nil {
		return st.s.judge(limited, st.e, reads(st.s.subnetsKey()), err, true)
	}
	st.exact = st.e.exact(as(limited))
	if !st.exact && st.v.Revision < st.v.Target {
		return etcd.ErrHistory
	}
	// A server without a leader ends such a stream: it would bring nothing.
	st.watch, err = pb.NewWatchClient(st.e.conn).Watch(metadata.AppendToOutgoingContext(as(ctx), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader))
	if err != nil {
		return st.s.judge(ctx, st.e, reads(st.s.subnetsKey()), err, true)
	}
	// If sending fails, receiving says why.
	_ = st.watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key:            []byte(st.s.subnetsKey()),
		RangeEnd:       []byte(end(st.s.subnetsKey())),
		StartRevision:  int64(st.v.Revision) + 1,
		ProgressNotify: true,
	}}})
	_ = st.watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key:     []byte(st.s.configKey()),
		WatchId: configWatch,
		// It begins with what comes next: one that has to catch up could be overtaken by a
		// compaction, and one that begins later keeps the server from saying how far it is.
	}}})
	st.responses = make(chan *pb.WatchResponse, backlog)
	st.ended = make(chan error, 1)
	st.running.Go(func() {
		for {
			resp, err := st.watch.Recv()
			if err != nil {
				st.ended <- err
				close(st.responses)
				return
			}
			select {
			case st.responses <- resp:
			case <-ctx.Done():
			}
		}
	})
	return nil
}

// ask asks how far the stream is.
func (st *stream) ask() {
	_ = st.watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// check is how far the server is, from where the stream was to go then, and what the
// configuration is.
type check struct {
	at     *pb.ResponseHeader
	config []*mvccpb.KeyValue
	only   bool // about the configuration
	from   uint64
	err    error
}

// check asks the server itself.
func (st *stream) check(ctx context.Context, from uint64, only bool) check {
	c := check{from: from, only: only}
	begun := time.Now()
	c.err = st.s.ask(ctx, st.e, reads(st.s.configKey()), func(ctx context.Context, conn *grpc.ClientConn, o ...grpc.CallOption) error {
		resp, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte(st.s.configKey())}, o...)
		c.at, c.config = resp.GetHeader(), resp.GetKvs()
		return err
	})
	if c.err == nil {
		st.s.options.Lag.Note(time.Since(begun))
	}
	return c
}

// pause is how long to wait for the next check.
func (st *stream) pause() time.Duration {
	pause := st.s.progress
	if st.s.options.Lag.Doubtful() { // it is soon known whether that was once
		pause /= 6
	}
	return pause - rand.N(pause/4) // not all hosts at once
}

// take takes what the stream brings until it ends, or turns out to be stuck.
func (st *stream) take(ctx context.Context, deliver func(bool)) error {
	limit := time.NewTimer(etcd.RequestTimeout) // to open the stream, and to catch up
	defer limit.Stop()
	tick := time.NewTicker(catchUp)
	defer tick.Stop()
	checks := make(chan check)
	look := func(only bool) {
		from := st.v.Revision
		st.running.Go(func() {
			c := st.check(ctx, from, only)
			select {
			case checks <- c:
			case <-ctx.Done():
			}
		})
	}
	target := st.v.Target
	opened, first, behind := false, true, true
	for {
		select {
		case resp, ok := <-st.responses:
			if !ok {
				return st.s.judge(ctx, st.e, reads(st.s.subnetsKey()), <-st.ended, false)
			}
			created, updated, err := st.apply(ctx, resp)
			if err != nil {
				return err
			}
			opened = opened || created
			deliver(updated)
			if st.missed {
				st.missed = false
				look(true)
			}
			if behind && opened && st.v.Revision >= target {
				first, behind = false, false
				limit.Stop()
				tick.Reset(st.pause())
			}
		case <-tick.C:
			if opened && st.exact {
				st.ask()
			}
			if opened && !behind {
				look(false)
			}
		case c := <-checks:
			switch {
			case etcd.Unanswered(c.err):
				return c.err
			case st.v.Refuse(c.err): // which is no reason to give up what there is
				deliver(true)
			}
			if !behind {
				tick.Reset(st.pause())
			}
			switch {
			case c.err != nil:
			case cluster(c.at) != st.v.Cluster, uint64(c.at.Revision) < c.from:
				return etcd.ErrHistory
			case setConfig(st.v, c.config, c.at.Revision): // its watch missed that, or was ended
				deliver(true)
			case c.only:
			case st.exact && st.e.answers.Load() && uint64(c.at.Revision) > st.v.Revision:
				target, behind = uint64(c.at.Revision), true
				st.ask()
				tick.Reset(catchUp)
				limit.Reset(etcd.RequestTimeout)
			}
		case <-limit.C:
			switch {
			case !opened:
				return st.s.options.Explain(st.e.Server, context.DeadlineExceeded, false)
			case first: // a server that knows no such question, or has too much to send
				return etcd.ErrHistory
			}
			return st.s.options.Failed(st.e.Server, etcd.Diagnosis{Seen: errStuck.Error(), Advice: "it is overloaded, or cut off from the other members: see etcd's log"}, errStuck, false)
		}
	}
}

// apply takes a response and all others that are there already, so that they make
// one snapshot. It reports whether one of them opened the stream, and whether it
// changed the view.
func (st *stream) apply(ctx context.Context, resp *pb.WatchResponse) (opened, updated bool, err error) {
	for more := true; more; {
		changed, err := st.s.apply(ctx, st.e, st.v, resp)
		if err != nil {
			return opened, updated, err
		}
		if resp.Created && resp.WatchId == configWatch {
			st.missed = uint64(resp.Header.Revision) > st.v.Config
		} else {
			opened = opened || resp.Created
		}
		updated = updated || changed
		if resp.WatchId == answer {
			st.e.answers.Store(true)
		}
		select {
		case resp, more = <-st.responses:
		default:
			more = false
		}
	}
	return opened, updated, nil
}

// apply takes one response, and reports whether it changed the view. The error
// is etcd.ErrHistory where the response does not continue the view.
func (s *Store) apply(ctx context.Context, e *endpoint, v *etcd.View, resp *pb.WatchResponse) (bool, error) {
	switch {
	case resp.CompactRevision != 0:
		return false, etcd.ErrHistory
	case resp.Canceled && resp.WatchId == configWatch:
		// The leases are not to be lost over that. Each check looks at it.
		klog.V(1).Infof("the watch for %s was ended: %s", s.configKey(), resp.CancelReason)
		return false, nil
	case resp.Canceled:
		return false, s.cancelled(e, resp.CancelReason)
	case cluster(resp.Header) != v.Cluster, resp.Created && resp.WatchId != configWatch && uint64(resp.Header.Revision) < v.Revision:
		return false, etcd.ErrHistory
	case resp.Created:
		return false, nil
	case resp.WatchId == configWatch:
		changed := false
		for _, event := range resp.Events {
			kvs := []*mvccpb.KeyValue{event.Kv}
			if event.Type == mvccpb.DELETE {
				kvs = nil
			}
			changed = setConfig(v, kvs, event.Kv.ModRevision) || changed
		}
		return changed, nil
	case len(resp.Events) == 0:
		v.Revision = max(v.Revision, uint64(resp.Header.Revision))
		return false, nil
	}
	revision := v.Revision
	for _, event := range resp.Events {
		key := s.below(event.Kv)
		revision = max(revision, uint64(event.Kv.ModRevision))
		if !continues(v, key, event) {
			return false, etcd.ErrHistory
		}
		if event.Type == mvccpb.DELETE {
			v.Remove(key)
			continue
		}
		ends, err := s.expires(ctx, event.Kv, v)
		if err != nil {
			return false, err
		}
		v.Put(entry(key, event.Kv, ends), event.Kv.Version)
	}
	v.Revision = revision // not before all is taken: several may have one revision
	return true, nil
}

// cancelled is the error of a watch that the server ended for a reason of its
// own.
func (s *Store) cancelled(e *endpoint, reason string) error {
	for refusal, why := range map[error]etcd.Refusal{
		rpctypes.ErrGRPCPermissionDenied: etcd.Denied,
		rpctypes.ErrGRPCInvalidAuthToken: etcd.UnknownUser,
		rpctypes.ErrGRPCAuthOldRevision:  etcd.UnknownUser,
		rpctypes.ErrGRPCUserEmpty:        etcd.NoUser,
	} {
		if desc := rpctypes.ErrorDesc(refusal); strings.Contains(reason, desc) {
			return s.options.Refused(e.Server, why, reads(s.subnetsKey()), s.prefix, strings.TrimPrefix(desc, "etcdserver: "))
		}
	}
	return s.options.Answered(e.Server, etcd.Diagnosis{Seen: "the server ended the watch: " + printable.Name(reason), Advice: "see etcd's log"}, nil)
}
