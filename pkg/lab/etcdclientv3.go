package lab

import (
	"context"
	"fmt"
	"net"
	"time"

	client "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// ClientV3 speaks the version 3 API from inside the server's own host, so it
// works while that host is cut off. The caller closes it.
func (e *Etcd) ClientV3() (*client.Client, error) {
	c, err := client.New(client.Config{
		Endpoints:   []string{e.Endpoint()},
		DialTimeout: 10 * time.Second,
		TLS:         e.transport.TLSClientConfig,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return e.host.DialContext(ctx, "tcp", addr)
		})},
	})
	if err != nil {
		return nil, fmt.Errorf("making an etcd client: %w", err)
	}
	return c, nil
}
