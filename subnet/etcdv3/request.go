package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"flanneld/pkg/printable"
	"flanneld/subnet/etcd"
)

// request is one request to one endpoint.
type request func(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) error

// call asks one endpoint after the other until one answers. A write is not sent again if
// it may have been done.
func (s *Store) call(ctx context.Context, write bool, a etcd.Access, r request) error {
	return s.failover.Do(ctx, write, func(ctx context.Context, k int) error { return s.ask(ctx, s.endpoints[k], a, r) })
}

// ask asks one endpoint, within etcd.RequestTimeout.
func (s *Store) ask(ctx context.Context, e *endpoint, a etcd.Access, r request) error {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	for first := true; ; first = false {
		var on peer.Peer // set once there is a connection to send the request on
		as, err := e.as(ctx)
		if err == nil {
			err = r(as(ctx), e.conn, grpc.Peer(&on))
		}
		if e.Username != "" && first && badToken(err) {
			e.forget() // a token lasts for minutes
			continue
		}
		return s.judge(ctx, e, a, err, on.Addr == nil)
	}
}

// cluster returns the ID of the cluster of an endpoint, which it knows by itself.
func (s *Store) cluster(ctx context.Context, k int) (id string, err error) {
	r := &pb.RangeRequest{Key: []byte(s.configKey()), Serializable: true, CountOnly: true}
	err = s.ask(ctx, s.endpoints[k], reads(s.configKey()), func(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) error {
		resp, err := pb.NewKVClient(c).Range(ctx, r, o...)
		if number := resp.GetHeader().GetClusterId(); err == nil && number != 0 {
			id = strconv.FormatUint(number, 16)
		}
		return err
	})
	return id, err
}

// badToken reports whether a new token may help. Each of these is said before
// anything is done.
func badToken(err error) bool {
	err = rpctypes.Error(err)
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthOldRevision) || errors.Is(err, rpctypes.ErrUserEmpty)
}

// reads and writes are what a request for a key, or for a prefix, needs permission for.
func reads(key string) etcd.Access { return etcd.Access{Key: printable.Name(key)} }

func writes(key string) etcd.Access { return etcd.Access{Write: true, Key: printable.Name(key)} }

// judge says what an error of an endpoint means: that it did not answer, that it
// refuses us, or else it is the answer.
func (s *Store) judge(ctx context.Context, e *endpoint, a etcd.Access, err error, unsent bool) error {
	if err == nil {
		return nil
	}
	code, text := status.Code(err), status.Convert(err).Message()
	if (code == codes.DeadlineExceeded || code == codes.Canceled) && ctx.Err() != nil {
		return s.options.Explain(e.Server, ctx.Err(), unsent)
	}
	known := rpctypes.Error(err)
	words := strings.TrimPrefix(text, "etcdserver: ")
	switch {
	case errors.Is(known, rpctypes.ErrUserEmpty):
		return s.options.Refused(e.Server, etcd.NoUser, a, s.prefix, words)
	case errors.Is(known, rpctypes.ErrAuthFailed), badToken(err):
		return s.options.Refused(e.Server, etcd.UnknownUser, a, s.prefix, words)
	case code == codes.PermissionDenied, code == codes.Unauthenticated:
		return s.options.Refused(e.Server, etcd.Denied, a, s.prefix, printable.Line(words), s.roles(ctx, e)...)
	case errors.Is(known, rpctypes.ErrNoSpace):
		return s.options.Answered(e.Server, s.options.Full(e.Server, words), known)
	case lacksMajority(known):
		return s.options.Failed(e.Server, etcd.NoLeader(words), err, unsent)
	case errors.Is(known, rpctypes.ErrCorrupt):
		return s.options.Failed(e.Server, s.options.Corrupt(e.Server, words), err, unsent)
	case text == rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner):
		return s.options.Failed(e.Server, s.options.Learner(e.Server, words), err, true)
	case strings.HasPrefix(text, "etcdserver: ") && code == codes.Unavailable:
		return s.options.Failed(e.Server, etcd.Diagnosis{Seen: printable.Line(text), Advice: "see etcd's log"}, err, unsent)
	}
	if hint, lacks := lacksAPI(code, text); lacks {
		err := fmt.Errorf("%w: %s", etcd.ErrNoV3, hint)
		return s.options.Failed(e.Server, etcd.NoAPI(err), err, unsent)
	}
	switch code { //nolint:exhaustive // the others are answers
	case codes.DeadlineExceeded, codes.Canceled: // by the server
		return s.options.Explain(e.Server, context.DeadlineExceeded, unsent)
	case codes.Unavailable, codes.Unknown, codes.Internal, codes.DataLoss:
		if cause := e.cause(text); cause != nil {
			return s.options.Explain(e.Server, cause, unsent)
		}
		return s.options.Failed(e.Server, etcd.Strange(printable.Quote(text)), err, unsent)
	}
	return s.options.Answered(e.Server, etcd.Diagnosis{Seen: printable.Line(text)}, known)
}

// lacksMajority reports whether a member says that it cannot reach the others.
func lacksMajority(err error) bool {
	for _, e := range []error{
		rpctypes.ErrNoLeader, rpctypes.ErrNotLeader, rpctypes.ErrLeaderChanged, rpctypes.ErrTimeout,
		rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrUnhealthy,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// lacksAPI reports whether an error is of a server that does not speak gRPC, or not
// etcd's, and returns how that shows.
func lacksAPI(code codes.Code, text string) (hint string, lacks bool) {
	switch {
	case strings.Contains(text, "no application protocol"), strings.Contains(text, "ALPN"):
		return "no application protocol", true
	case strings.Contains(text, "HTTP/1"):
		return "it speaks HTTP/1", true
	}
	return "unimplemented", code == codes.Unimplemented
}

// roles are those of the user that we ask as, or nothing if that cannot be known: a user
// may ask about itself.
func (s *Store) roles(ctx context.Context, e *endpoint) []string {
	if e.Username == "" {
		return nil
	}
	as, err := e.as(ctx)
	if err != nil {
		return nil
	}
	resp, err := pb.NewAuthClient(e.conn).UserGet(as(ctx), &pb.AuthUserGetRequest{Name: e.Username})
	if err != nil {
		return nil
	}
	return resp.Roles
}
