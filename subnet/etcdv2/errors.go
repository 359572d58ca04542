package etcdv2

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	client "go.etcd.io/etcd/client/v2"
)

var (
	errRefused  = errors.New("etcd refuses the request")
	errNoV2     = errors.New("the server does not offer the v2 API: start etcd (3.5 or older) with --enable-v2")
	errNoAnswer = fmt.Errorf("no answer within %s", requestTimeout)
)

// unavailableError is the failure of each endpoint that was asked.
type unavailableError struct{ failures []error }

func (e *unavailableError) Error() string {
	texts := make([]string, len(e.failures))
	for i, f := range e.failures {
		texts[i] = f.Error()
	}
	return "etcd cannot be asked: " + strings.Join(texts, "; ")
}

func (e *unavailableError) Unwrap() []error { return e.failures }

// endpointError is the failure of one endpoint.
type endpointError struct {
	text  string
	cause error
}

func (e *endpointError) Error() string { return e.text }
func (e *endpointError) Unwrap() error { return e.cause }

// unanswered reports whether another endpoint may do better.
func unanswered(err error) bool {
	var e *endpointError
	return errors.As(err, &e)
}

// unsent reports whether err came before the request was sent.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// code returns the error code that etcd answered with, or 0.
func code(err error) int {
	var e client.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func (s *Store) refused(status int) error {
	if s.username == "" {
		return fmt.Errorf("%w (%d %s): it wants -etcd-username and -etcd-password, with permission on %s",
			errRefused, status, http.StatusText(status), s.prefix)
	}
	return fmt.Errorf("%w (%d %s) of user %q: wrong -etcd-username or -etcd-password, or no permission on %s",
		errRefused, status, http.StatusText(status), s.username, s.prefix)
}

// explain says what a failure of an endpoint means to the person who set the
// flags.
func (s *Store) explain(e endpoint, err error) error {
	// The library wraps what it met in an error that cannot be unwrapped.
	var cluster *client.ClusterError
	if errors.As(err, &cluster) && len(cluster.Errors) == 1 {
		err = cluster.Errors[0]
	}
	// Our own limit, bare; a dial that timed out is DeadlineExceeded wrapped.
	if err == context.DeadlineExceeded { //nolint:errorlint // see above
		err = errNoAnswer
	}
	return &endpointError{text: e.url + ": " + s.meaning(e, err), cause: err}
}

func (s *Store) meaning(e endpoint, err error) string {
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		op        *net.OpError
	)
	secure := strings.HasPrefix(e.url, "https:")
	switch {
	case errors.As(err, &authority) && s.caFile != "":
		return fmt.Sprintf("the server's certificate is not signed by the CA in -etcd-cafile %s: %v", s.caFile, err)
	case errors.As(err, &authority):
		return fmt.Sprintf("the server's certificate is not signed by a CA that this host trusts, name its CA with -etcd-cafile: %v", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the server's certificate has expired, or is not valid yet: %v", err)
	case errors.As(err, &op) && op.Op == "remote error" && strings.Contains(err.Error(), "certificate"):
		return fmt.Sprintf("the server refuses this host's client certificate (-etcd-certfile, -etcd-keyfile): %v", err)
	case secure && cut(err):
		// In TLS 1.3 the server judges the client's certificate only after the
		// client has begun to send, and its verdict may be lost.
		return fmt.Sprintf("the server closed the connection; it may refuse this host's client certificate (-etcd-certfile, -etcd-keyfile): %v", err)
	}
	return err.Error()
}

func cut(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}
