package etcdv2

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/printable"
	"flanneld/subnet/etcd"
)

var errRefused = errors.New("refused")

// code returns the error code that etcd answered with, or 0.
func code(err error) int {
	var e client.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// serverError is an answer that says that the server, or what is before it, failed.
type serverError struct {
	status int
	body   []byte
}

func (e *serverError) Error() string {
	return fmt.Sprintf("%d %s %s", e.status, http.StatusText(e.status), printable.Quote(strings.TrimSpace(string(e.body))))
}

// The codes from raftErrors on are of a server that cannot reach a majority.
const (
	raftErrors    = client.ErrorCodeRaftInternal
	endRaftErrors = client.ErrorCodeWatcherCleared
)

// diagnose returns what an answer that is an error means.
func (e *serverError) diagnose() etcd.Diagnosis {
	var answer client.Error
	if json.Unmarshal(e.body, &answer) == nil && answer.Code >= raftErrors && answer.Code < endRaftErrors {
		return etcd.NoLeader(fmt.Sprintf("error %d: %s: %s", answer.Code, printable.Name(answer.Message), printable.Name(answer.Cause)))
	}
	return etcd.Strange(e.Error())
}

// explain says what a failure of an endpoint means.
func (s *Store) explain(e endpoint, err error) error {
	var (
		op       *net.OpError
		redirect *redirectError
		server   *serverError
	)
	switch {
	case errors.As(err, &redirect):
		return s.options.Failed(e.Server, redirect.diagnose(), err, true)
	case errors.As(err, &server):
		return s.options.Failed(e.Server, server.diagnose(), err, false)
	case errors.Is(err, etcd.ErrNoAPI):
		return s.options.Failed(e.Server, etcd.NoAPI(err), err, false)
	}
	return s.options.Explain(e.Server, err, errors.As(err, &op) && op.Op == "dial")
}
