package etcdv2

import (
	"errors"
	"fmt"
	"net"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/subnet/etcd"
)

var (
	errRefused = errors.New("refused")
	errNoV2    = fmt.Errorf("%w the v2 API: start etcd (3.5 or older) with --enable-v2", etcd.ErrNoAPI)
)

// code returns the error code that etcd answered with, or 0.
func code(err error) int {
	var e client.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// explain says what a failure of an endpoint means.
func (s *Store) explain(e endpoint, err error) error {
	// The library wraps what it met in an error that cannot be unwrapped.
	var cluster *client.ClusterError
	if errors.As(err, &cluster) && len(cluster.Errors) == 1 {
		err = cluster.Errors[0]
	}
	var op *net.OpError
	unsent := errors.As(err, &op) && op.Op == "dial" || errors.As(err, new(*redirectError))
	return s.options.Explain(e.Server, err, unsent)
}
