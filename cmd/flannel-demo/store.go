package main

import (
	"context"
	"io"

	"flanneld/pkg/lab"
)

// store is where the hosts have their subnets from.
type store interface {
	name() string
	// start starts it on the demo's server, with the network's configuration.
	start(ctx context.Context, d *demo, config string) error
	// add adds a host, with its subnet where the store gives subnets out, and returns the
	// environment and the arguments of the daemon there.
	add(ctx context.Context, h *lab.Host, subnet string) (env, args []string, err error)
	url() string
	// suggest says what there is to try with it; enter is what has a command run on the server.
	suggest(w io.Writer, enter string)
}

// stores are those that there are.
var stores = map[string]func() store{
	"etcd": func() store { return &etcd{} },
	"kube": func() store { return &kube{} },
}
