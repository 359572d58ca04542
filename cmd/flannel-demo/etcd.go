package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/lab"
)

// etcd has the leases by itself.
type etcd struct{ *lab.Etcd }

func (*etcd) name() string  { return "etcd" }
func (e *etcd) url() string { return e.Endpoint() }

func (e *etcd) start(ctx context.Context, d *demo, config string) error {
	var err error
	if e.Etcd, err = d.lab.StartEtcd(ctx, d.server, lab.EtcdOptions{}); err != nil {
		return err
	}
	keys, err := e.Keys()
	if err != nil {
		return err
	}
	_, err = keys.Create(ctx, "/coreos.com/network/config", config)
	var exists client.Error
	if errors.As(err, &exists) {
		return fmt.Errorf("writing the configuration: %s", exists.Message)
	}
	return err
}

// add has nothing to do: the host chooses its subnet.
func (*etcd) add(context.Context, *lab.Host, string) (env, args []string, err error) {
	return nil, nil, nil
}

func (e *etcd) suggest(w io.Writer, enter string) {
	fmt.Fprintf(w, `  # the leases in etcd
  %s curl %s/v2/keys/coreos.com/network?recursive=true
`, enter, e.url())
}
