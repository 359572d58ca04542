package lab

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	client "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// ClientV3 speaks the version 3 API from inside the server's own host, so it
// works while that host is cut off. Its calls wait for the server. With
// authentication on it is root. The caller closes it.
func (e *Etcd) ClientV3() (*client.Client, error) {
	b := backoff.DefaultConfig
	b.BaseDelay, b.MaxDelay = 10*time.Millisecond, 100*time.Millisecond // back as soon as the server is
	cfg := client.Config{
		Endpoints:   e.Endpoints(),
		DialTimeout: 10 * time.Second,
		TLS:         e.transport.TLSClientConfig,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				return e.host.DialContext(ctx, "tcp", addr)
			}),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: b, MinConnectTimeout: time.Second}),
			grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		},
	}
	if e.rootPassword != "" {
		cfg.Username, cfg.Password = "root", e.rootPassword
	}
	c, err := client.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("making an etcd client: %w", err)
	}
	return c, nil
}

// EnableAuthV3 is EnableAuth for the users of the version 3 API, which has no guests.
func (e *Etcd) EnableAuthV3(ctx context.Context, rootPassword string) error {
	c, err := e.ClientV3()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.UserAdd(ctx, "root", rootPassword); err != nil {
		return fmt.Errorf("adding etcd user root: %w", err)
	}
	if _, err := c.UserGrantRole(ctx, "root", "root"); err != nil {
		return fmt.Errorf("granting a role to etcd user root: %w", err)
	}
	if _, err := c.AuthEnable(ctx); err != nil {
		return fmt.Errorf("enabling etcd authentication: %w", err)
	}
	e.rootPassword = rootPassword
	return nil
}

// AddUserV3 is AddUser for the users of the version 3 API.
func (e *Etcd) AddUserV3(ctx context.Context, name, password, keys string) error {
	c, err := e.ClientV3()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.RoleAdd(ctx, name); err != nil {
		return fmt.Errorf("adding etcd role %s: %w", name, err)
	}
	prefix := strings.TrimSuffix(keys, "*")
	if _, err := c.RoleGrantPermission(ctx, name, prefix, client.GetPrefixRangeEnd(prefix), client.PermissionType(client.PermReadWrite)); err != nil {
		return fmt.Errorf("granting %s to etcd role %s: %w", keys, name, err)
	}
	if _, err := c.UserAdd(ctx, name, password); err != nil {
		return fmt.Errorf("adding etcd user %s: %w", name, err)
	}
	if _, err := c.UserGrantRole(ctx, name, name); err != nil {
		return fmt.Errorf("granting a role to etcd user %s: %w", name, err)
	}
	return nil
}
