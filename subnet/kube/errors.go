package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flanneld/pkg/printable"
)

// Error is why the API could not be asked, or what it refuses. Its text is the same for as
// long as the failure lasts.
type Error struct {
	// Code is that of the answer in HTTP; 0 if there was none.
	Code int
	// lost: what passed meanwhile can't be had as events.
	lost  bool
	text  string
	cause error
}

func (e *Error) Error() string { return e.text }
func (e *Error) Unwrap() error { return e.cause }

// Steady returns the part of a message that stays the same for as long as the failure does.
func (e *Error) Steady() string { return e.text }

// answers reports whether an error is the API's answer with one of these codes.
func answers(err error, codes ...int) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.Code == c {
			return true
		}
	}
	return false
}

// say makes an Error: what was to be done, where, what was seen, and what to do about it.
func say(base *url.URL, r request, code int, cause error, seen, advice string) *Error {
	text := fmt.Sprintf("the Kubernetes API at %s, asked to %s %s: %s", base.Redacted(), r.verb, r.resource, seen)
	if advice != "" {
		text += " (" + advice + ")"
	}
	return &Error{Code: code, text: text, cause: cause}
}

// answered is an answer that is not what was asked for.
func (c *client) answered(base *url.URL, r request, resp *http.Response) error {
	status, other := statusOf(resp)
	code := resp.StatusCode
	seen := printable.Line(status.Message)
	if status.Status == "" {
		seen = fmt.Sprintf("it answers %s", resp.Status)
		if text := strings.TrimSpace(other); text != "" {
			seen += ": " + printable.Quote(text)
		}
	}
	advice := ""
	switch code {
	case http.StatusUnauthorized:
		seen = "it does not know us: " + seen
		advice = "what it was shown is " + c.credentials()
	case http.StatusForbidden:
		seen = "it refuses that: " + seen
		advice = fmt.Sprintf("grant it: a ClusterRole with the verb %s on %s, bound to this user; a host needs list and watch on nodes, and patch on nodes/status", r.verb, r.resource)
	case http.StatusNotFound:
		if status.Status == "" {
			advice = adviceURL
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusInternalServerError, http.StatusBadGateway:
		advice = "it is starting, overloaded, or without its etcd: see its log"
	default:
		if status.Status == "" {
			advice = adviceURL
		}
	}
	e := say(base, r, code, nil, seen, advice)
	e.lost = code == http.StatusGone || loses(&status)
	return e
}

// loses reports whether a refusal says that what passed meanwhile can't be had as events: it
// was too long ago, or the API has yet to come to what we know, as it was set back. A time-out
// of its own, or that of a proxy, has the same code as this, and says no such thing.
func loses(s *metav1.Status) bool {
	if s.Code == http.StatusGone {
		return true
	}
	const tooLarge = "Too large resource version" // all that older versions say
	return s.Code == http.StatusGatewayTimeout && (strings.Contains(s.Message, tooLarge) ||
		s.Details != nil && slices.ContainsFunc(s.Details.Causes, func(c metav1.StatusCause) bool { return c.Type == metav1.CauseTypeResourceVersionTooLarge }))
}

const (
	adviceURL      = "-kube-api-url, or the server in -kubeconfig-file, must be the URL of the API server"
	adviceFirewall = "check that the host is up, and that firewalls let this host's packets to that port through; behind a Service's address kube-proxy has to run first"
	adviceListens  = "nothing listens there: start the API server, or correct -kube-api-url or the server in -kubeconfig-file; behind a Service's address kube-proxy has to run first"
	adviceCA       = "name its CA in -kubeconfig-file, as certificate-authority"
)

// unanswered is the failure of a request that was not answered.
func (c *client) unanswered(base *url.URL, r request, err error) error {
	seen, advice := diagnose(base, err)
	return say(base, r, 0, err, seen, advice)
}

// broken is the failure of an answer that had begun.
func (c *client) broken(r request, err error) error {
	_, base, e := c.get()
	if e != nil {
		return &Error{text: e.Error(), cause: e}
	}
	return c.unanswered(base, r, err)
}

// diagnose finds out what is the matter with the network, or with TLS.
func diagnose(base *url.URL, err error) (seen, advice string) {
	var (
		dns       *net.DNSError
		op        *net.OpError
		record    tls.RecordHeaderError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		name      x509.HostnameError
	)
	isOp := errors.As(err, &op)
	switch {
	case isOp && op.Op == "proxyconnect":
		return "this host's HTTP proxy does not lead there: " + errno(op.Err), "correct HTTP_PROXY or HTTPS_PROXY in the daemon's environment, or name the API's host in NO_PROXY"
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %s does not resolve", printable.Name(dns.Name)), "this host's name servers are at fault, or the URL is; a Service's name is known to pods alone"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", adviceListens
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return errno(err), fmt.Sprintf("see `ip route get %s`, and whether a firewall rejects packets", printable.Word(base.Hostname()))
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EINVAL):
		return "packets to it are not let out: " + errno(err), fmt.Sprintf("see `ip route get %s`, and this host's firewall", printable.Word(base.Hostname()))
	case isOp && op.Op == "dial" && timedOut(err):
		return fmt.Sprintf("no connection within %s", dialTimeout), adviceFirewall
	case strings.Contains(err.Error(), "http2: client connection lost"): // as net/http has it
		return fmt.Sprintf("it was silent, and gives no sign of life within %s", pingTimeout), "it hangs, or packets are dropped"
	case timedOut(err):
		return "no answer in time", "it hangs or is overloaded, or packets are dropped: see its log"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "it does not speak TLS: " + err.Error(), "write http:// in its URL, or correct the port"
	case errors.As(err, &authority):
		return fmt.Sprintf("its certificate is not signed by a CA that is trusted here: %v", authority), adviceCA
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil && time.Now().Before(invalid.Cert.NotBefore):
		return "its certificate is valid from " + invalid.Cert.NotBefore.UTC().Format(time.RFC3339) + " on", "this host's clock is wrong, or that of the host where it was made"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		return "its certificate has expired: it was valid until " + invalid.Cert.NotAfter.UTC().Format(time.RFC3339), "renew it; or this host's clock is wrong"
	case errors.As(err, &invalid):
		return fmt.Sprintf("its certificate cannot be used: %v", invalid), "give the API server another one"
	case errors.As(err, &name):
		return fmt.Sprintf("its certificate is for another name: %v", name), "name the API server as its certificate does, or give it one that has this name or address"
	case isOp && op.Op == "remote error":
		return "it ended the TLS handshake: remote error: " + op.Err.Error(), "it may refuse the client certificate in -kubeconfig-file"
	case cut(err):
		return "it closes the connection without an answer", "it is shutting down, or something before it, a proxy or a firewall, closes it"
	}
	return printable.Line(errno(err)), "see its log, and that of this host"
}

func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// errno returns what the kernel said, without the addresses of this connection.
func errno(err error) string {
	if e := syscall.Errno(0); errors.As(err, &e) {
		return e.Error()
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err.Error()
	}
	return err.Error()
}

func cut(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		strings.Contains(err.Error(), "http2: server sent GOAWAY") ||
		strings.HasSuffix(err.Error(), "http: server closed idle connection")
}
