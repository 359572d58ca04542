package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"flanneld/pkg/printable"
)

// What a server fails with, in the words of all messages, and what is to be done then.
// The network and TLS are the same for both of etcd's APIs: diagnose knows these. Each
// store knows the answers of its API, and takes its words from here.

// NoLeader is the diagnosis of a member that can do nothing, for a majority is missing.
func NoLeader(seen string) Diagnosis {
	return Diagnosis{
		Seen:   seen,
		Advice: "etcd has no leader: start the other members, so that a majority of the cluster is up and the members reach each other",
	}
}

// Full is the diagnosis of a database that has reached its quota.
func (o Options) Full(s Server, seen string) Diagnosis {
	root := o.asRoot(s)
	return Diagnosis{
		Seen: "etcd's database is full, and takes no writes: " + seen,
		Advice: fmt.Sprintf("have it compacted and defragmented, and its alarm disarmed: %s, with the revision that %s shows, then %s and %s; or start etcd with a larger --quota-backend-bytes",
			root.v3("compact", "REVISION"), root.v3("endpoint", "status", "-w", "json"), root.v3("defrag"), root.v3("alarm", "disarm")),
	}
}

// Corrupt is the diagnosis of members whose data differ.
func (o Options) Corrupt(s Server, seen string) Diagnosis {
	return Diagnosis{
		Seen:   "etcd has found that the data of its members differ: " + seen,
		Advice: fmt.Sprintf("replace the member that %s names by an empty one, or restore the cluster from a snapshot, and disarm the alarm", o.asRoot(s).v3("alarm", "list")),
	}
}

// Learner is the diagnosis of a member that does not serve clients yet.
func (o Options) Learner(s Server, seen string) Diagnosis {
	other := o.asRoot(o.otherThan(s)) // a learner answers neither
	return Diagnosis{
		Seen:   "it is a learner, which serves no clients: " + seen,
		Advice: fmt.Sprintf("name the other members in -etcd-endpoints, or promote it: %s, with the ID that %s shows", other.v3("member", "promote", "ID"), other.v3("member", "list")),
	}
}

// otherThan is another server than s; if none is known, one whose name stands for it.
func (o Options) otherThan(s Server) Server {
	servers, _ := o.Servers()
	for _, other := range servers {
		if other.name() != s.name() {
			return other
		}
	}
	s.Name = "MEMBER"
	return s
}

// Strange is the diagnosis of an answer that no etcd gives.
func Strange(seen string) Diagnosis {
	return Diagnosis{Seen: seen, Advice: adviceEndpoint, doubtful: true}
}

// noAnswer is what is seen of a server that accepts a connection and then says nothing.
var noAnswer = fmt.Sprintf("no answer within %s", RequestTimeout)

const (
	adviceEndpoint = "-etcd-endpoints must name what etcd listens on for clients, its --listen-client-urls"
	adviceFirewall = "check that the host is up, and that firewalls let this host's packets to that port through"
	adviceClosed   = "something closes it: etcd that is shutting down, a proxy or a firewall; " + adviceEndpoint
)

// HandshakeError is the failure of a connection before it was one of TLS.
type HandshakeError struct{ Err error }

func (e *HandshakeError) Error() string { return e.Err.Error() }
func (e *HandshakeError) Unwrap() error { return e.Err }

// diagnose finds out what is the matter with the network, or with TLS.
func (o Options) diagnose(s Server, err error) Diagnosis {
	var (
		dns    *net.DNSError
		op     *net.OpError
		record tls.RecordHeaderError
		proxy  *ProxyError
	)
	isOp := errors.As(err, &op)
	switch {
	case errors.As(err, &proxy):
		return Diagnosis{Seen: printable.Line(proxy.Error()), Advice: adviceProxy}
	case isOp && op.Op == "proxyconnect":
		return Diagnosis{
			Seen:   "this host's HTTP proxy does not lead there: " + errno(op.Err),
			Advice: adviceProxy,
		}
	case s.Socket != "" && errors.Is(err, syscall.ENOENT):
		return Diagnosis{Seen: "there is no such socket", Advice: "start etcd, and see that its --listen-client-urls has this path, or correct -etcd-endpoints"}
	case errors.As(err, &dns):
		return diagnoseName(dns)
	case errors.Is(err, syscall.ECONNREFUSED):
		return Diagnosis{Seen: "connection refused", Advice: "nothing listens there: start etcd, and see that its --listen-client-urls has this address and port, or correct -etcd-endpoints"}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return Diagnosis{Seen: errno(err), Advice: fmt.Sprintf("check that the host is up, that `ip route get %s` shows a way to it, and that no firewall rejects packets", destination(s, op))}
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EINVAL):
		return Diagnosis{Seen: "packets to it are not let out: " + errno(err), Advice: fmt.Sprintf("see `ip route get %s`, and this host's firewall", destination(s, op))}
	case isOp && op.Op == "dial" && timedOut(err):
		return Diagnosis{Seen: fmt.Sprintf("no connection within %s, i/o timeout", DialTimeout), Advice: adviceFirewall}
	case timedOut(err):
		return Diagnosis{Seen: noAnswer, Advice: "it hangs or is overloaded, or packets are dropped: see etcd's log, and whether it answers on its own host", doubtful: true}
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return Diagnosis{Seen: "it does not speak TLS: " + err.Error(), Advice: advicePlain}
	}
	if d, ok := o.diagnoseTLS(err); ok {
		return d
	}
	if cut(err) {
		return o.diagnoseCut(s, err)
	}
	return Diagnosis{Seen: printable.Line(errno(err)), Advice: "see etcd's log, and that of this host", doubtful: true}
}

const (
	advicePlain       = "write http:// in -etcd-endpoints, or give etcd a certificate"
	adviceCertificate = "give etcd another one, made for servers"
	adviceTLS         = "write https:// in -etcd-endpoints"
)

// destination is the address that could not be reached, as a word of a command.
func destination(s Server, op *net.OpError) string {
	if op != nil {
		if addr, ok := op.Addr.(*net.TCPAddr); ok {
			return printable.Word(addr.IP.String())
		}
	}
	return printable.Word(s.URL.Hostname())
}

func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout() ||
		errors.Is(err, net.ErrClosed) // by the library, when its time was over
}

// errno returns what the kernel said, without the addresses of this connection.
func errno(err error) string {
	if e := syscall.Errno(0); errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}

func diagnoseName(err *net.DNSError) Diagnosis {
	name := printable.Name(err.Name)
	switch {
	case err.IsNotFound:
		return Diagnosis{Seen: fmt.Sprintf("no such host: the name %s does not resolve", name), Advice: "correct -etcd-endpoints, or add the name to DNS or /etc/hosts"}
	case err.IsTimeout:
		return Diagnosis{Seen: fmt.Sprintf("the name %s does not resolve: no name server answers", name), Advice: adviceNames}
	}
	_, why, found := cutLast(err.Err, ": ") // without the addresses of this connection
	if !found {
		why = err.Err
	}
	return Diagnosis{Seen: fmt.Sprintf("the name %s does not resolve: the name server %s: %s", name, err.Server, why), Advice: adviceNames}
}

const adviceProxy = "correct HTTP_PROXY or HTTPS_PROXY in the daemon's environment, or name etcd's host in NO_PROXY"

const adviceNames = "the name servers in /etc/resolv.conf are at fault; or name an address in -etcd-endpoints"

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// diagnoseTLS knows what is wrong with certificates.
func (o Options) diagnoseTLS(err error) (d Diagnosis, ok bool) {
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		name      x509.HostnameError
		op        *net.OpError
		file      *fileError
	)
	switch {
	case errors.As(err, &file):
		return Diagnosis{Seen: file.Error()}, true
	case errors.As(err, &authority) && o.CAFile != "":
		return Diagnosis{
			Seen:   fmt.Sprintf("the server's certificate is not signed by the CA in -etcd-cafile %s: %v", o.CAFile, authority),
			Advice: "name the file with the CA that etcd's certificate comes from",
		}, true
	case errors.As(err, &authority):
		return Diagnosis{
			Seen:   fmt.Sprintf("the server's certificate is not signed by a CA that this host trusts: %v", authority),
			Advice: "name its CA with -etcd-cafile",
		}, true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil && time.Now().Before(invalid.Cert.NotBefore):
		return Diagnosis{
			Seen:   "the server's certificate is not yet valid: it is from " + invalid.Cert.NotBefore.UTC().Format(time.RFC3339) + " on",
			Advice: "this host's clock is wrong, or that of the host where the certificate was made",
		}, true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil: // the time of now, which it names, would be another each time
		return Diagnosis{
			Seen:   "the server's certificate has expired: it was valid until " + invalid.Cert.NotAfter.UTC().Format(time.RFC3339),
			Advice: "give etcd a new one; or this host's clock is wrong",
		}, true
	case errors.As(err, &invalid):
		return Diagnosis{Seen: fmt.Sprintf("the server's certificate cannot be used: %v", invalid), Advice: adviceCertificate}, true
	case errors.As(err, &name):
		return Diagnosis{
			Seen:   fmt.Sprintf("the server's certificate is for another name: %v", name),
			Advice: "name etcd in -etcd-endpoints as its certificate does, or give it one that has this name or address",
		}, true
	case errors.As(err, &op) && op.Op == "remote error":
		return o.diagnoseAlert(err, op)
	case strings.Contains(err.Error(), "x509: "):
		_, text, _ := strings.Cut(err.Error(), "x509: ")
		return Diagnosis{Seen: "the server's certificate cannot be used: x509: " + text, Advice: adviceCertificate}, true
	case strings.Contains(err.Error(), "tls: "):
		_, text, _ := strings.Cut(err.Error(), "tls: ")
		return Diagnosis{Seen: "no TLS could be agreed on: tls: " + text, Advice: "etcd, or the proxy before it, must speak TLS 1.2 or later"}, true
	}
	return d, false
}

// diagnoseAlert knows why a server ended the handshake.
func (o Options) diagnoseAlert(err error, alert *net.OpError) (d Diagnosis, ok bool) {
	seen := "remote error: " + alert.Err.Error()
	if strings.Contains(err.Error(), "certificate") {
		return o.ClientCertificate(seen), true
	}
	return Diagnosis{Seen: "the server ended the TLS handshake: " + seen, Advice: "etcd, or the proxy before it, must speak TLS 1.2 or later: see its log"}, true
}

// ClientCertificate is the diagnosis of a server that refuses our certificate, or that
// there is none.
func (o Options) ClientCertificate(seen string) Diagnosis {
	if o.CertFile == "" {
		return Diagnosis{
			Seen:   "the server wants a client certificate: " + seen,
			Advice: "give one with -etcd-certfile and -etcd-keyfile, signed by the CA in etcd's --trusted-ca-file",
		}
	}
	d := Diagnosis{
		Seen:   fmt.Sprintf("the server refuses this host's client certificate, -etcd-certfile %s: %s", o.CertFile, seen),
		Advice: "it must be signed by the CA in etcd's --trusted-ca-file, and be one for clients",
	}
	cert, err := o.clientCertificate()
	switch now := time.Now(); {
	case err != nil || cert.Leaf == nil:
	case now.After(cert.Leaf.NotAfter):
		d.Advice = fmt.Sprintf("it expired at %s: replace the file, nothing has to be restarted", cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.Leaf.NotBefore):
		d.Advice = fmt.Sprintf("it is valid from %s on: set this host's clock, or replace the file", cert.Leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return d
}

func refusesCertificate(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && strings.Contains(err.Error(), "certificate")
}

func cut(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		strings.HasSuffix(err.Error(), "http: server closed idle connection") // net/http does not export it
}

// closed is what is seen of a server that closes connections. Whether that shows as EOF
// or as a reset is chance.
const closed = "it closes the connection without an answer: EOF"

func (o Options) diagnoseCut(s Server, err error) Diagnosis {
	var handshake *HandshakeError
	switch {
	case s.URL.Scheme != "https":
		return Diagnosis{Seen: closed, Advice: adviceClosed, doubtful: true}
	case errors.As(err, &handshake):
		return Diagnosis{Seen: "it closes the connection during the TLS handshake: EOF", Advice: adviceClosed, doubtful: true}
	}
	// In TLS 1.3 the server judges the client's certificate only after the client has
	// begun to send, and its verdict may be lost.
	d := o.ClientCertificate(closed)
	d.doubtful = true
	if o.CertFile == "" {
		d.Seen = closed
		d.Advice = "it may want a client certificate: " + d.Advice
	}
	return d
}
