package etcdv3

import (
	"cmp"
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

	"flanneld/subnet/etcd"
)

var errNoV3 = fmt.Errorf("%w the v3 API: etcd 3.4 or later is needed, and -etcd-endpoints must name what it listens on for clients", etcd.ErrNoAPI)

// request is one request to one endpoint.
type request func(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) error

// call asks one endpoint after the other until one answers.
func (s *Store) call(ctx context.Context, write bool, r request) error {
	return s.failover.Do(ctx, write, func(k int) error { return s.ask(ctx, s.endpoints[k], r) })
}

// ask asks one endpoint, within etcd.RequestTimeout.
func (s *Store) ask(ctx context.Context, e *endpoint, r request) error {
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
		return s.judge(ctx, e, err, on.Addr == nil)
	}
}

// cluster returns the ID of the cluster of an endpoint, which it knows by itself.
func (s *Store) cluster(ctx context.Context, k int) (id string, err error) {
	r := &pb.RangeRequest{Key: []byte(s.configKey()), Serializable: true, CountOnly: true}
	err = s.ask(ctx, s.endpoints[k], func(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) error {
		resp, err := pb.NewKVClient(c).Range(ctx, r, o...)
		if number := resp.GetHeader().GetClusterId(); err == nil && number != 0 {
			id = strconv.FormatUint(number, 16)
		}
		return err
	})
	return id, err
}

func (s *Store) refused(e *endpoint, reason string) error {
	return s.options.Refused(e.Server, strings.TrimPrefix(reason, "etcdserver: "), cmp.Or(s.prefix, "all keys"))
}

// badToken reports whether a new token may help. Each of these is said before
// anything is done.
func badToken(err error) bool {
	err = rpctypes.Error(err)
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthOldRevision) || errors.Is(err, rpctypes.ErrUserEmpty)
}

// judge says what an error of an endpoint means: that it did not answer, that it
// refuses us, or else it is the answer.
func (s *Store) judge(ctx context.Context, e *endpoint, err error, unsent bool) error {
	if err == nil {
		return nil
	}
	text := status.Convert(err).Message()
	switch code := status.Code(err); {
	case code == codes.DeadlineExceeded && ctx.Err() != nil, code == codes.Canceled && ctx.Err() != nil:
		return s.options.Explain(e.Server, ctx.Err(), unsent)
	case badToken(err), code == codes.PermissionDenied, code == codes.Unauthenticated,
		errors.Is(rpctypes.Error(err), rpctypes.ErrAuthFailed):
		return s.refused(e, text)
	case code == codes.Unimplemented, strings.Contains(text, "HTTP/1"), strings.Contains(text, "ALPN"),
		strings.Contains(text, "no application protocol"):
		return s.options.Explain(e.Server, errNoV3, unsent)
	case code == codes.Unavailable, code == codes.Unknown, code == codes.Internal, code == codes.DataLoss,
		code == codes.DeadlineExceeded, code == codes.Canceled: // by the server
		return s.options.Explain(e.Server, e.cause(text), unsent)
	case text == rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner):
		return s.options.Explain(e.Server, errors.New(text), true)
	case errors.Is(rpctypes.Error(err), rpctypes.ErrNoSpace):
		return fmt.Errorf("%s: etcd's database is full, and takes no writes until it was compacted and defragmented and its alarm disarmed: %w", e.Name, rpctypes.Error(err))
	}
	return fmt.Errorf("%s: %w", e.Name, rpctypes.Error(err))
}
