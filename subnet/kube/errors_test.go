package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/subnet/subnettest"
)

// says fails the test unless an error says all of that, in one line, and the same each time.
func says(t *testing.T, call func() error, texts ...string) {
	t.Helper()
	err := call()
	if err == nil {
		t.Errorf("no error, want one that says %q", texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not say %q", err, text)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is several lines", err)
	}
	if again := call(); again == nil || again.Error() != err.Error() {
		t.Errorf("%q, and then %v", err, again)
	}
}

func (r *room) lists(s *Store) func() error {
	return func() error {
		_, err := s.List(r.t.Context())
		return err
	}
}

func (r *room) with(o Options) *Store {
	r.t.Helper()
	o.AnnotationPrefix, o.NetConfigPath, o.NodeName = r.prefix, r.conf, r.node("own")
	s := must(New(o))(r.t)
	r.t.Cleanup(s.Close)
	return s
}

// What is missing is named, and no new store is needed once it is there.
func TestKubeconfigComesLate(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared.get(t))
	name := filepath.Join(t.TempDir(), "kubeconfig")
	s := r.with(Options{Kubeconfig: name})
	says(t, r.lists(s), "-kubeconfig-file", name, "no such file")
	check(t, os.WriteFile(name, []byte("clusters: ["), 0o600))
	says(t, r.lists(s), "-kubeconfig-file", name)
	check(t, os.WriteFile(name, nil, 0o600))
	says(t, r.lists(s), "-kubeconfig-file", name)

	// The token is wrong, then it is right.
	bad := must(os.ReadFile(r.kubeconfig("not-a-token")))(t)
	check(t, os.WriteFile(name, bad, 0o600))
	says(t, r.lists(s), "the Kubernetes API at "+r.proxy.URL, "list nodes", "it does not know us: Unauthorized", "-kubeconfig-file "+name)
	good := must(os.ReadFile(r.kubectl))(t)
	check(t, os.WriteFile(name, good, 0o600))
	check(t, r.lists(s)())
}

func TestNoPod(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared.get(t))
	says(t, r.lists(r.with(Options{})), "KUBERNETES_SERVICE_HOST", "-kubeconfig-file", "-kube-api-url")
}

// What may not be done is said in the words of a role, and who is to get it. Granting it heals.
func TestForbidden(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	r := newRoom(t, server)
	r.put(subnettest.Node{Name: "own", Subnet: sub("10.5.1.0/24")})
	s := r.open("own")
	check(t, r.lists(s)())
	account := `User "system:serviceaccount:kube-flannel:flannel"`
	check(t, server.Remove(t.Context(), bindings(t)))
	settles(t, r.lists(s), http.StatusForbidden)
	says(t, r.lists(s), "list nodes", "it refuses that", account, `cannot list resource "nodes"`, "a ClusterRole with the verb list on nodes")
	says(t, func() error { return s.SetNetworkAvailable(t.Context()) }, "NetworkUnavailable", r.node("own"), "patch nodes/status", account, "the verb patch on nodes/status")

	check(t, server.Apply(t.Context(), lab.FlannelRBAC))
	for deadline := time.Now().Add(patience); r.lists(s)() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after it was granted: %v", r.lists(s)())
		}
	}
	check(t, s.SetNetworkAvailable(t.Context()))
	is := must(r.Node(t.Context(), r.node("own")))(t)
	found := false
	for _, c := range is.Status.Conditions {
		found = found || c.Type == "NetworkUnavailable" && c.Status == "False" && c.Reason == "FlannelIsUp" && c.Message == "Flannel is running on this node" && !c.LastTransitionTime.IsZero()
	}
	if !found {
		t.Errorf("the conditions are %+v", is.Status.Conditions)
	}
}

// settles waits until the server goes by its roles.
func settles(t *testing.T, call func() error, codes ...int) {
	t.Helper()
	for deadline := time.Now().Add(patience); !answers(call(), codes...); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it goes on: %v", call())
		}
	}
}

// bindings is the part of the manifest that gives a daemon its rights.
func bindings(t *testing.T) []byte {
	t.Helper()
	for _, d := range strings.Split("\n"+string(lab.FlannelRBAC), "\n---\n") {
		if strings.Contains(d, "kind: ClusterRoleBinding") {
			return []byte(d)
		}
	}
	t.Fatal("there are none")
	return nil
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared.get(t))
	l := must(new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0"))(t)
	url := "https://" + l.Addr().String()
	check(t, l.Close())
	says(t, r.lists(r.with(Options{APIURL: url})), "the Kubernetes API at "+url, "list nodes", "connection refused", "nothing listens there", "-kube-api-url")
	says(t, r.lists(r.with(Options{APIURL: "https://no-such-host.invalid"})), "no-such-host.invalid", "does not resolve")
	noCA := filepath.Join(t.TempDir(), "kubeconfig")
	with := string(must(os.ReadFile(r.kubectl))(t))
	check(t, os.WriteFile(noCA, []byte(strings.Replace(with, "certificate-authority: ", "x: ", 1)), 0o600))
	says(t, r.lists(r.with(Options{Kubeconfig: noCA})), r.proxy.URL, "not signed by a CA that is trusted here", "certificate-authority")
	says(t, r.lists(r.with(Options{APIURL: "http" + strings.TrimPrefix(r.proxy.URL, "https")})), "400", "-kube-api-url")
	says(t, r.lists(r.with(Options{APIURL: "http://[::1"})), "http://[::1")

	name := filepath.Join(t.TempDir(), "kubeconfig")
	check(t, r.WriteKubeconfigFor(name, r.proxy.URL, r.token)) // the certificate is for another address
	says(t, r.lists(r.with(Options{Kubeconfig: name})), "its certificate is for another name", "127.0.0.1")

	// It is a server of another kind.
	other := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	says(t, r.lists(r.with(Options{APIURL: other.URL})), other.URL, "404", "must be the URL of the API server")

	// It accepts connections and says nothing.
	r.proxy.Stalled.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := r.open("own").List(ctx)
	if err == nil || !strings.Contains(err.Error(), "no answer in time") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("where nobody answers: %v", err)
	}
}

func TestNodeOfPod(t *testing.T) {
	t.Parallel()
	r := newRoom(t, shared.get(t))
	o := Options{Kubeconfig: r.kubectl}
	says(t, func() error {
		_, err := NodeOfPod(t.Context(), o, "kube-flannel", "no-such-pod")
		return err
	}, "kube-flannel/no-such-pod", "POD_NAME", "not found")
}
