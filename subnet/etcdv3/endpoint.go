package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"flanneld/pkg/conns"
	"flanneld/subnet/etcd"
)

const (
	// A watch is quiet for hours. After pingAfter of silence the server is
	// pinged, and left if it does not answer within pingTimeout. etcd does not
	// put up with pings more often than every 5 s.
	pingAfter   = 10 * time.Second
	pingTimeout = 8 * time.Second
	// idleAfter is when a connection without a request on it is closed.
	idleAfter = time.Minute
	// redialMost is the longest time for which a server that could not be
	// reached is taken to be still out of reach.
	redialMost = time.Second
)

// endpoint is one server, and the connection to it.
type endpoint struct {
	etcd.Server
	conn *grpc.ClientConn

	answers atomic.Bool // has said how far a stream is

	mu    sync.Mutex
	met   []error // what befell the connections, the latest last
	token token
}

// token is what the server gave us for our password, if it asks for one.
type token struct {
	known bool
	text  string
}

func newEndpoint(server etcd.Server, open *conns.Set) (*endpoint, error) {
	e := &endpoint{Server: server}
	creds := insecure.NewCredentials()
	if server.URL.Scheme == "https" {
		creds = credentials.NewTLS(server.TLS)
	}
	dial := open.Dial(conns.NewDialer(etcd.DialTimeout))
	e.Dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
		return connect(ctx, conns.NewDialer(etcd.DialTimeout).DialContext, server, addr)
	}
	b := backoff.DefaultConfig
	b.BaseDelay, b.MaxDelay = 50*time.Millisecond, redialMost
	var err error
	e.conn, err = grpc.NewClient("passthrough:///"+etcd.Address(server.URL),
		grpc.WithTransportCredentials(witness{creds, e}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := connect(ctx, dial, server, addr)
			e.meet(err)
			return c, err
		}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: b, MinConnectTimeout: etcd.DialTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)), // all leases come in one message
		grpc.WithIdleTimeout(idleAfter),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", server.Name, err)
	}
	return e, nil
}

// witness takes note of what befalls connections: the library hands it on as
// text only.
type witness struct {
	credentials.TransportCredentials
	e *endpoint
}

func (w witness) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		err = &etcd.HandshakeError{Err: err}
		w.e.meet(err)
		return nil, nil, err
	}
	return witnessed{c, w.e}, info, nil
}

func (w witness) Clone() credentials.TransportCredentials {
	return witness{w.TransportCredentials.Clone(), w.e}
}

type witnessed struct {
	net.Conn
	e *endpoint
}

func (w witnessed) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.e.meet(err)
	return n, err
}

func (w witnessed) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	w.e.meet(err)
	return n, err
}

func (e *endpoint) meet(err error) {
	if err == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	const enough = 4
	e.met = append(e.met[max(0, len(e.met)-enough+1):], err)
}

// cause returns the error that a text of the library's is about, or nil.
func (e *endpoint) cause(text string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, err := range slices.Backward(e.met) {
		quoted := strconv.Quote(err.Error())
		if strings.Contains(text, err.Error()) || strings.Contains(text, quoted[1:len(quoted)-1]) {
			return err
		}
	}
	return nil
}

// as returns what makes a context one for requests as the user that e is asked
// as.
func (e *endpoint) as(ctx context.Context) (func(context.Context) context.Context, error) {
	e.mu.Lock()
	t := e.token
	e.mu.Unlock()
	if e.Username != "" && !t.known {
		resp, err := pb.NewAuthClient(e.conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: e.Username, Password: e.Password})
		if err != nil && !errors.Is(rpctypes.Error(err), rpctypes.ErrAuthNotEnabled) {
			return nil, err
		}
		t = token{true, resp.GetToken()}
		e.mu.Lock()
		e.token = t
		e.mu.Unlock()
	}
	return func(ctx context.Context) context.Context {
		if t.text == "" {
			return ctx
		}
		return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, t.text)
	}, nil
}

// users reports whether the server has users, if it was asked for a token.
func (e *endpoint) users() (has, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.token.text != "", e.token.known
}

// forget makes the next request ask for a new token.
func (e *endpoint) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.token = token{}
}

// exact reports whether the server says truly how far a stream is.
func (e *endpoint) exact(ctx context.Context) bool {
	resp, err := pb.NewMaintenanceClient(e.conn).Status(ctx, &pb.StatusRequest{})
	return err == nil && exactVersion(resp.Version)
}

// exactVersion is false before 3.5.8, which tells of what it has yet to send.
func exactVersion(version string) bool {
	var v [3]int
	_, err := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2])
	return err == nil && slices.Compare(v[:], []int{3, 5, 8}) >= 0
}
