package etcd

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
)

// Errors of the stores that Choose knows.
var (
	// ErrNoAPI: the server answers, and does not have the store's API.
	ErrNoAPI = errors.New("the server does not offer")
	// ErrRefused: the server wants another user, or does not permit the request.
	ErrRefused = errors.New("etcd refuses the request")

	errNoAnswer = fmt.Errorf("no answer within %s", RequestTimeout)
)

// UnavailableError is the failure of each endpoint that was asked.
type UnavailableError struct{ failures []error }

func (e *UnavailableError) Error() string {
	texts := make([]string, len(e.failures))
	for i, f := range e.failures {
		texts[i] = f.Error()
	}
	return "etcd cannot be asked: " + strings.Join(texts, "; ")
}

func (e *UnavailableError) Unwrap() []error { return e.failures }

// endpointError is the failure of one endpoint.
type endpointError struct {
	text   string
	cause  error
	unsent bool // the request never left
}

func (e *endpointError) Error() string { return e.text }
func (e *endpointError) Unwrap() error { return e.cause }

// Unanswered reports whether another endpoint may do better.
func Unanswered(err error) bool {
	var e *endpointError
	return errors.As(err, &e)
}

func unsent(err error) bool {
	var e *endpointError
	return errors.As(err, &e) && e.unsent
}

// Refused is the refusal of a request of server s about keys below root, in the words of
// reason.
func (o Options) Refused(s Server, reason, root string) error {
	if s.Username == "" {
		return fmt.Errorf("%w (%s): it wants -etcd-username and -etcd-password, with permission on %s", ErrRefused, reason, root)
	}
	return fmt.Errorf("%w (%s) of user %q: wrong -etcd-username or -etcd-password, or no permission on %s", ErrRefused, reason, s.Username, root)
}

// Explain says what a failure of server s means to the person who set the flags.
// Another server may do better.
func (o Options) Explain(s Server, err error, unsent bool) error {
	// Our own limit, bare; a dial that timed out is DeadlineExceeded wrapped.
	if err == context.DeadlineExceeded { //nolint:errorlint // see above
		err = errNoAnswer
	}
	return &endpointError{text: s.Name + ": " + o.meaning(s, err), cause: err, unsent: unsent}
}

func (o Options) meaning(s Server, err error) string {
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		op        *net.OpError
	)
	switch {
	case errors.As(err, &authority) && o.CAFile != "":
		return fmt.Sprintf("the server's certificate is not signed by the CA in -etcd-cafile %s: %v", o.CAFile, err)
	case errors.As(err, &authority):
		return fmt.Sprintf("the server's certificate is not signed by a CA that this host trusts, name its CA with -etcd-cafile: %v", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the server's certificate has expired, or is not valid yet: %v", err)
	case errors.As(err, &op) && op.Op == "remote error" && strings.Contains(err.Error(), "certificate"):
		return fmt.Sprintf("the server refuses this host's client certificate (-etcd-certfile, -etcd-keyfile): %v", err)
	case s.URL.Scheme == "https" && cut(err):
		// In TLS 1.3 the server judges the client's certificate only after the
		// client has begun to send, and its verdict may be lost.
		return fmt.Sprintf("the server closed the connection; it may refuse this host's client certificate (-etcd-certfile, -etcd-keyfile): %v", err)
	}
	return err.Error()
}

func cut(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}
