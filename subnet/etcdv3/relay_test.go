package etcdv3

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

// relay passes on what is asked of a server to read, call by call, as a load
// balancer does.
type relay struct {
	pb.UnimplementedKVServer
	pb.UnimplementedMaintenanceServer

	url     string
	backend *grpc.ClientConn
	mute    atomic.Int32 // when raised, watches that are open bring nothing more, not even their end
	version string       // the server's, if not its own; then it answers as that one does
}

// newRelay starts a relay before a server. It ends with the test.
func newRelay(t *testing.T, s *etcdtest.Server, version string) *relay {
	t.Helper()
	l := must(new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0"))(t)
	r := &relay{url: "http://" + l.Addr().String(), version: version}
	r.backend = must(grpc.NewClient("passthrough:///"+strings.TrimPrefix(s.URL, "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig()))(t)
	server := grpc.NewServer()
	pb.RegisterKVServer(server, r)
	pb.RegisterMaintenanceServer(server, r)
	pb.RegisterWatchServer(server, r)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
		_ = r.backend.Close()
	})
	return r
}

func (r *relay) Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	return pb.NewKVClient(r.backend).Range(ctx, req)
}

func (r *relay) Txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	return pb.NewKVClient(r.backend).Txn(ctx, req)
}

func (r *relay) Status(ctx context.Context, req *pb.StatusRequest) (*pb.StatusResponse, error) {
	resp, err := pb.NewMaintenanceClient(r.backend).Status(ctx, req)
	if err == nil && r.version != "" {
		resp.Version = r.version
	}
	return resp, err
}

func (r *relay) Watch(in pb.Watch_WatchServer) error {
	md, _ := metadata.FromIncomingContext(in.Context())
	out, err := pb.NewWatchClient(r.backend).Watch(metadata.NewOutgoingContext(in.Context(), md))
	if err != nil {
		return err
	}
	var sending sync.Mutex
	send := func(resp *pb.WatchResponse) error {
		sending.Lock()
		defer sending.Unlock()
		return in.Send(resp)
	}
	go func() { // until the call ends
		for {
			req, err := in.Recv()
			if err != nil {
				return
			}
			if r.version != "" && req.GetProgressRequest() != nil {
				if now, err := r.Range(in.Context(), &pb.RangeRequest{Key: []byte("x")}); err == nil {
					_ = send(&pb.WatchResponse{Header: now.Header, WatchId: answer})
				}
				continue
			}
			_ = out.Send(req)
		}
	}()
	opened := r.mute.Load()
	for {
		resp, err := out.Recv()
		switch {
		case r.mute.Load() != opened:
			<-in.Context().Done()
			return nil
		case err != nil:
			return err
		case r.version != "" && len(resp.Events) > 0:
			time.Sleep(300 * time.Millisecond) // as may be where there are many streams
		}
		if err := send(resp); err != nil {
			return err
		}
	}
}

// A server that lives on and brings nothing is not waited for.
func TestWatchIsStuck(t *testing.T) {
	t.Parallel()
	for _, replaced := range []bool{false, true} {
		server := plainEtcd(t)
		for n := range 5 {
			server.put(t, leaseKey(n), value(1), 0)
		}
		r := newRelay(t, server.Server, "")
		s := storeOf(t, r.url)
		s.progress = 200 * time.Millisecond
		w := etcdtest.Watch(t, s)
		w.Until(t, "the leases", etcdtest.Leases(5))
		server.put(t, "/elsewhere", "x", 0)
		etcdtest.Eventually(t, "the server has said how far the stream is", func() bool { return s.endpoints[0].answers.Load() })
		r.mute.Add(1)
		if replaced {
			server.Kill()
			server.Dir = t.TempDir()
			server.Restart(t)
			w.Until(t, "nothing", etcdtest.Leases(0))
			continue
		}
		server.put(t, leaseKey(5), value(1), 0)
		w.Until(t, "the lease", etcdtest.Leases(6))
		if n := s.lists.Load(); n != 1 {
			t.Errorf("all leases were listed %d times, want once", n)
		}
		if n := w.Errors(); n != 0 {
			t.Errorf("the watch ended %d times", n)
		}
	}
}

// Before etcd 3.5.8 a server says that a stream is where the server is, and has yet
// to send what was before that.
func TestWatchBreakOfAnOldServer(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	server.put(t, leaseKey(1), value(1), 0)
	s := storeOf(t, newRelay(t, server.Server, "3.5.7").url)
	s.progress = 200 * time.Millisecond
	w := etcdtest.Watch(t, s)
	w.Until(t, "the lease", etcdtest.Leases(1))
	for n := range 3 {
		w.Stop()
		server.put(t, leaseKey(2+n), value(2), 0)
		var first []*subnet.Lease
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := s.Watch(ctx, func(s subnet.Snapshot) { first = s.Leases; cancel() })
		if err != context.Canceled || len(first) != 2+n {
			t.Errorf("the first snapshot has %v, %v", first, err)
		}
	}
	w = etcdtest.Watch(t, s)
	w.Until(t, "all leases", etcdtest.Leases(4))
	lists := s.lists.Load()
	for n := range 5 {
		server.put(t, leaseKey(5+n), value(2), 0)
		w.Until(t, "one more lease", etcdtest.Leases(5+n))
	}
	if s.lists.Load() != lists {
		t.Error("the events were not taken")
	}
}

func TestExactVersions(t *testing.T) {
	for version, want := range map[string]bool{
		"3.4.23": false, "3.4.99": false, "3.5.7": false, "3.5.8": true, "3.5.35": true, "3.6.0-rc.1": true, "3.7.3": true, "4.0.0": true,
		"": false, "new": false, "3": false,
	} {
		if got := exactVersion(version); got != want {
			t.Errorf("%q: %t", version, got)
		}
	}
}
