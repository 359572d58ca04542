package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
)

// KubeOptions are the ways in which a Kubernetes API may be special.
type KubeOptions struct {
	// Addr is the address at which it serves; if there is none, the host's.
	Addr netip.Addr
	// Args are more arguments for it.
	Args []string
}

// serviceRanges are the networks of services. The first has the family of the server's address.
func (k *Kube) serviceRanges() string {
	if k.opts.Addr.Is4() {
		return "10.96.0.0/16,fd96::/112"
	}
	return "fd96::/112,10.96.0.0/16"
}

// Kube is a Kubernetes API server with an etcd of its own, without the rest of a cluster. Who
// may do what is decided by roles.
type Kube struct {
	*Process // the current one; a new one after each start
	// REST is the client of an administrator, from inside the server's own host.
	REST *rest.RESTClient
	// Etcd is where the server keeps its objects.
	Etcd *Etcd
	// AdminToken is that of someone who may do everything.
	AdminToken string
	// CA signed the server's certificate.
	CA *CA

	heartbeats atomic.Int64

	host   *Host
	binDir string
	opts   KubeOptions
	files  struct {
		server, accounts CertFiles // accounts is what tokens of service accounts are signed with
		tokens           string
	}
	transport *http.Transport
}

// StartKube starts a Kubernetes API and its etcd on a host and waits until it answers. It
// does not become the lab's etcd.
func (l *Lab) StartKube(ctx context.Context, on *Host, opts KubeOptions) (*Kube, error) {
	if !opts.Addr.IsValid() {
		opts.Addr = on.Addr
	}
	k := &Kube{host: on, binDir: l.binDir, opts: opts, AdminToken: "lab-admin"}
	if err := k.writeFiles(); err != nil {
		return nil, err
	}
	if err := k.makeClient(); err != nil {
		return nil, err
	}
	var err error
	if k.Etcd, err = l.newEtcd(on, EtcdOptions{Version: "3.6", Addr: opts.Addr}); err != nil {
		return nil, err
	}
	if err := k.Etcd.Start(ctx); err != nil {
		return nil, err
	}
	return k, k.Start(ctx)
}

// writeFiles writes certificates, keys and the administrator's token.
func (k *Kube) writeFiles() error {
	dir := filepath.Join(k.host.Dir, "kube")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("preparing the Kubernetes API: %w", err)
	}
	var err error
	if k.CA, err = NewCA(dir, "ca"); err != nil {
		return err
	}
	if k.files.server, err = k.CA.Server("apiserver", Valid, k.opts.Addr); err != nil {
		return err
	}
	if k.files.accounts, err = k.CA.Client("accounts", Valid); err != nil {
		return err
	}
	k.files.tokens = filepath.Join(dir, "tokens.csv")
	line := k.AdminToken + ",admin,admin,system:masters\n"
	if err := os.WriteFile(k.files.tokens, []byte(line), 0o600); err != nil {
		return fmt.Errorf("preparing the Kubernetes API: %w", err)
	}
	return nil
}

func (k *Kube) makeClient() error {
	pem, err := os.ReadFile(k.CA.Cert)
	if err != nil {
		return fmt.Errorf("reading the certificate authority of the Kubernetes API: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	k.transport = &http.Transport{
		DialContext:         k.host.DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: roots},
		MaxIdleConnsPerHost: 32,
	}
	if _, err := k.host.onClose(k.transport.CloseIdleConnections); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return err
	}
	k.REST, err = rest.RESTClientForConfigAndClient(&rest.Config{
		Host:    k.URL(),
		APIPath: "/api",
		ContentConfig: rest.ContentConfig{
			GroupVersion:         &corev1.SchemeGroupVersion,
			NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion(),
		},
		QPS: -1, // no limit
	}, &http.Client{Transport: transport.NewBearerAuthRoundTripper(k.AdminToken, k.transport)})
	if err != nil {
		return fmt.Errorf("making a client for the Kubernetes API: %w", err)
	}
	return nil
}

// URL is where the API is.
func (k *Kube) URL() string { return fmt.Sprintf("https://%s", netip.AddrPortFrom(k.opts.Addr, 6443)) }

// Start starts the server on the data it had and waits until it answers.
func (k *Kube) Start(ctx context.Context) error {
	if err := k.launch(); err != nil { //nolint:contextcheck // the server outlives ctx
		return err
	}
	return k.WaitReady(ctx)
}

// Restart stops the server and starts it on the same data.
func (k *Kube) Restart(ctx context.Context) error {
	k.Kill()
	return k.Start(ctx)
}

func (k *Kube) launch() error {
	bin, err := k.binary("kube-apiserver")
	if err != nil {
		return err
	}
	argv := []string{
		bin,
		"--etcd-servers=" + k.Etcd.Endpoint(),
		"--bind-address=" + k.opts.Addr.String(),
		"--advertise-address=" + k.opts.Addr.String(),
		"--secure-port=6443",
		"--cert-dir=" + filepath.Join(k.host.Dir, "kube"),
		"--tls-cert-file=" + k.files.server.Cert,
		"--tls-private-key-file=" + k.files.server.Key,
		"--token-auth-file=" + k.files.tokens,
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + k.files.accounts.Key,
		"--service-account-signing-key-file=" + k.files.accounts.Key,
		"--service-cluster-ip-range=" + k.serviceRanges(),
		"--disable-admission-plugins=ServiceAccount", // nobody makes the accounts that it demands of pods
		"--endpoint-reconciler-type=none",
	}
	k.Process, err = k.host.Start("kube-apiserver", append(argv, k.opts.Args...), nil, ProcessOptions{})
	return err
}

// binary finds one that `make` builds.
func (k *Kube) binary(name string) (string, error) {
	bin := filepath.Join(k.binDir, name)
	if _, err := os.Stat(bin); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("build/%s is missing: run `make build/%[1]s`", name)
		}
		return "", fmt.Errorf("starting %s: %w", name, err)
	}
	return bin, nil
}

// WaitReady waits until the server says that it is.
func (k *Kube) WaitReady(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := k.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-k.Exited():
			return fmt.Errorf("waiting for the Kubernetes API: %w", k.endedError())
		case <-ctx.Done():
			return fmt.Errorf("waiting for the Kubernetes API: %w: %w; its log ends with:\n%s", ctx.Err(), err, k.logTail())
		}
	}
}

func (k *Kube) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return k.REST.Get().AbsPath("/readyz").MaxRetries(0).Do(ctx).Error()
}

// StartControllerManager starts the part of Kubernetes that gives each Node a subnet of a
// network, or of one of each family with a comma between, on the API's host.
func (k *Kube) StartControllerManager(network string, args ...string) (*Process, error) {
	bin, err := k.binary("kube-controller-manager")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(k.host.Dir, "kube", "controller-manager.kubeconfig")
	if err := k.WriteKubeconfig(config, k.AdminToken); err != nil {
		return nil, err
	}
	return k.host.Start("kube-controller-manager", append([]string{
		bin,
		"--kubeconfig=" + config,
		"--controllers=node-ipam-controller",
		"--allocate-node-cidrs",
		"--cluster-cidr=" + network,
		"--leader-elect=false",
		"--secure-port=0",
	}, args...), nil, ProcessOptions{})
}
