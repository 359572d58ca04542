package lab

import (
	"context"
	"fmt"

	client "go.etcd.io/etcd/client/v2"
)

// Client speaks the version 2 API from inside the server's own host, so it
// works while that host is cut off. With authentication on it is root.
func (e *Etcd) Client() (client.Client, error) {
	cfg := client.Config{Endpoints: []string{e.Endpoint()}, Transport: e.transport}
	if e.rootPassword != "" {
		cfg.Username, cfg.Password = "root", e.rootPassword
	}
	c, err := client.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("making an etcd client: %w", err)
	}
	return c, nil
}

// Keys reads and writes keys through Client.
func (e *Etcd) Keys() (client.KeysAPI, error) {
	c, err := e.Client()
	if err != nil {
		return nil, err
	}
	return client.NewKeysAPI(c), nil
}

// EnableAuth makes a user root with a password, turns authentication on and
// takes from guests all that they may do by default. Each API has users of its
// own: these are those of the version 2 API if the server has it.
func (e *Etcd) EnableAuth(ctx context.Context, rootPassword string) error {
	if e.opts.Version != "" {
		return e.EnableAuthV3(ctx, rootPassword)
	}
	c, err := e.Client()
	if err != nil {
		return err
	}
	if err := client.NewAuthUserAPI(c).AddUser(ctx, "root", rootPassword); err != nil {
		return fmt.Errorf("adding etcd user root: %w", err)
	}
	if err := client.NewAuthAPI(c).Enable(ctx); err != nil {
		return fmt.Errorf("enabling etcd authentication: %w", err)
	}
	e.rootPassword = rootPassword
	if c, err = e.Client(); err != nil {
		return err
	}
	if err := client.NewAuthRoleAPI(c).RemoveRole(ctx, "guest"); err != nil {
		return fmt.Errorf("removing etcd role guest: %w", err)
	}
	return nil
}

// AddUser adds a user and a role of the same name that may read and write the
// keys that match a pattern, such as /coreos.com/network/*. See EnableAuth.
func (e *Etcd) AddUser(ctx context.Context, name, password, keys string) error {
	if e.opts.Version != "" {
		return e.AddUserV3(ctx, name, password, keys)
	}
	c, err := e.Client()
	if err != nil {
		return err
	}
	roles, users := client.NewAuthRoleAPI(c), client.NewAuthUserAPI(c)
	if err := roles.AddRole(ctx, name); err != nil {
		return fmt.Errorf("adding etcd role %s: %w", name, err)
	}
	if _, err := roles.GrantRoleKV(ctx, name, []string{keys}, client.ReadWritePermission); err != nil {
		return fmt.Errorf("granting %s to etcd role %s: %w", keys, name, err)
	}
	if err := users.AddUser(ctx, name, password); err != nil {
		return fmt.Errorf("adding etcd user %s: %w", name, err)
	}
	if _, err := users.GrantUser(ctx, name, []string{name}); err != nil {
		return fmt.Errorf("granting a role to etcd user %s: %w", name, err)
	}
	return nil
}
