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
	"google.golang.org/grpc/metadata"

	"flanneld/subnet/etcd"
)

const (
	// catchUp is how often the server is asked how far the stream is, until it
	// is where it must be for the first snapshot. It does not answer while it
	// has events to send.
	catchUp = 50 * time.Millisecond
	// progress is how often it is asked that later. A view that moves on is one
	// that a compaction of the server's history does not overtake.
	progress = time.Minute
	// backlog is how many responses may wait to become one snapshot.
	backlog = 1000
)

// follow opens a stream of events from where v is, and brings v up to date with
// it until it ends. It calls deliver, with whether there is news, from the calling
// goroutine.
func (s *Store) follow(ctx context.Context, v *view, deliver func(bool)) error {
	k := s.failover.Current()
	e := s.endpoints[k]
	err := s.stream(ctx, e, v, deliver)
	if etcd.Unanswered(err) && ctx.Err() == nil {
		s.failover.Leave(k)
	}
	return err
}

func (s *Store) stream(ctx context.Context, e *endpoint, v *view, deliver func(bool)) error {
	var receiving sync.WaitGroup
	defer receiving.Wait()
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limited, expire := context.WithTimeout(sctx, etcd.RequestTimeout)
	as, err := e.as(limited)
	if err != nil {
		err = s.judge(limited, e, err, true)
	}
	expire()
	if err != nil {
		return err
	}
	// A server without a leader ends such a stream: it would bring nothing.
	stream, err := pb.NewWatchClient(e.conn).Watch(metadata.AppendToOutgoingContext(as(sctx), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader))
	if err != nil {
		return s.judge(ctx, e, err, true)
	}
	// If sending fails, receiving says why.
	_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key:            []byte(s.subnetsKey()),
		RangeEnd:       []byte(end(s.subnetsKey())),
		StartRevision:  v.revision + 1,
		ProgressNotify: true,
	}}})
	ask := func() {
		_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	}

	responses := make(chan *pb.WatchResponse, backlog)
	ended := make(chan error, 1)
	receiving.Go(func() {
		for {
			resp, err := stream.Recv()
			if err != nil {
				ended <- err
				close(responses)
				return
			}
			select {
			case responses <- resp:
			case <-sctx.Done():
			}
		}
	})

	limit := time.NewTimer(etcd.RequestTimeout) // to open the stream, and to catch up
	defer limit.Stop()
	tick := time.NewTicker(catchUp)
	defer tick.Stop()
	opened, behind := false, true
	for {
		select {
		case resp, ok := <-responses:
			if !ok {
				return s.judge(ctx, e, <-ended, false)
			}
			news := false
			// All that is there already becomes one snapshot.
			for more := true; more; {
				changed, err := s.apply(ctx, e, v, resp)
				if err != nil {
					return err
				}
				news = news || changed
				opened = opened || resp.Created
				select {
				case resp, more = <-responses:
				default:
					more = false
				}
			}
			deliver(news)
			if behind && opened && v.revision >= v.target {
				behind = false
				limit.Stop()
				tick.Reset(progress - rand.N(progress/4)) // not all hosts at once
			}
		case <-tick.C:
			if opened {
				ask()
			}
		case <-limit.C:
			if opened { // a server that knows no such question
				return errHistory
			}
			return s.options.Explain(e.Server, context.DeadlineExceeded, false)
		}
	}
}

// apply takes one response, and reports whether it changed the view. The error
// is errHistory where the response does not continue the view.
func (s *Store) apply(ctx context.Context, e *endpoint, v *view, resp *pb.WatchResponse) (bool, error) {
	switch {
	case resp.CompactRevision != 0:
		return false, errHistory
	case resp.Canceled:
		return false, s.cancelled(e, resp.CancelReason)
	case resp.Header.ClusterId != v.cluster, resp.Created && resp.Header.Revision < v.revision:
		return false, errHistory
	case resp.Created:
		return false, nil
	case len(resp.Events) == 0:
		v.revision = max(v.revision, resp.Header.Revision)
		return false, nil
	}
	for _, event := range resp.Events {
		key := s.below(event.Kv)
		if !v.continues(key, event) {
			return false, errHistory
		}
		if event.Type == mvccpb.DELETE {
			v.remove(key, event.Kv)
			continue
		}
		ends, err := s.expires(ctx, event.Kv, v)
		if err != nil {
			return false, err
		}
		v.put(key, event.Kv, ends)
	}
	return true, nil
}

// cancelled is the error of a watch that the server ended for a reason of its
// own.
func (s *Store) cancelled(e *endpoint, reason string) error {
	for _, refusal := range []error{rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCUserEmpty} {
		if strings.Contains(reason, rpctypes.ErrorDesc(refusal)) {
			return s.options.Refused(e.Server, strings.TrimPrefix(rpctypes.ErrorDesc(refusal), "etcdserver: "))
		}
	}
	return fmt.Errorf("%s: the server ended the watch: %s", e.URL, reason)
}
