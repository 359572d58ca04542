package lab_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"

	client "go.etcd.io/etcd/client/v2"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

func get(t *testing.T, e *lab.Etcd, key string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(testContext(t), 2*time.Second)
	defer cancel()
	resp, err := must(e.Keys())(t).Get(ctx, key, nil)
	if err != nil {
		return "", err
	}
	return resp.Node.Value, nil
}

func put(t *testing.T, e *lab.Etcd, key, value string) {
	t.Helper()
	must(must(e.Keys())(t).Set(testContext(t), key, value, nil))(t)
}

func wantKey(t *testing.T, e *lab.Etcd, key, want string) {
	t.Helper()
	if got := must(get(t, e, key))(t); got != want {
		t.Fatalf("%s is %q, want %q", key, got, want)
	}
}

func TestEtcd(t *testing.T) {
	t.Parallel()
	l, h1, h2 := twoHosts(t)
	ctx := testContext(t)
	e := must(l.StartEtcd(ctx, h1, lab.EtcdOptions{}))(t)
	put(t, e, "/a", "1")
	wantKey(t, e, "/a", "1")

	check(t, e.Restart(ctx))
	wantKey(t, e, "/a", "1")
	e.Kill()
	if code := e.ExitCode(); code != 128+9 {
		t.Errorf("a killed etcd has exit code %d", code)
	}
	if _, err := get(t, e, "/a"); err == nil {
		t.Error("a killed etcd answers")
	}
	check(t, e.Start(ctx))
	wantKey(t, e, "/a", "1")

	check(t, e.Freeze())
	if _, err := get(t, e, "/a"); err == nil {
		t.Error("a frozen etcd answers")
	}
	check(t, e.Thaw())
	check(t, e.WaitHealthy(ctx))
	wantKey(t, e, "/a", "1")

	check(t, h1.CutOff("eth0")) // the lab itself still has access
	wantKey(t, e, "/a", "1")
	check(t, h1.Restore("eth0"))

	check(t, e.Wipe(ctx))
	if _, err := get(t, e, "/a"); !client.IsKeyNotFound(err) {
		t.Errorf("after a wipe: %v", err)
	}
	conn := must(h2.DialContext(ctx, "tcp", strings.TrimPrefix(e.Endpoint(), "http://")))(t)
	check(t, conn.Close())
}

func TestEtcdV3(t *testing.T) {
	t.Parallel()
	l, h1, h2 := twoHosts(t)
	ctx := testContext(t)
	for h, version := range map[*lab.Host]string{h1: "3.6", h2: "3.7"} {
		e := must(l.StartEtcd(ctx, h, lab.EtcdOptions{Version: version}))(t)
		if _, err := get(t, e, "/a"); err == nil {
			t.Errorf("etcd %s has a v2 API", version)
		}
		c := must(e.ClientV3())(t)
		must(c.Put(ctx, "/a", "1"))(t)
		status := must(c.Status(ctx, e.Endpoint()))(t)
		if !strings.HasPrefix(status.Version, version+".") {
			t.Errorf("etcd %s is %s", version, status.Version)
		}
		check(t, e.Restart(ctx))
		if resp := must(c.Get(ctx, "/a"))(t); len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "1" {
			t.Errorf("after a restart it has %v", resp.Kvs)
		}
		check(t, c.Close())
	}
}

func TestEtcdAuthV3(t *testing.T) {
	t.Parallel()
	l, h1, _ := twoHosts(t)
	ctx := testContext(t)
	e := must(l.StartEtcd(ctx, h1, lab.EtcdOptions{Version: "3.6"}))(t)
	guest := must(e.ClientV3())(t)
	defer func() { _ = guest.Close() }()
	check(t, e.EnableAuth(ctx, "secret"))
	check(t, e.AddUser(ctx, "flannel", "word", "/net/*"))
	if _, err := guest.Put(ctx, "/net/a", "1"); err == nil {
		t.Error("a guest may write")
	}
	root := must(e.ClientV3())(t)
	defer func() { _ = root.Close() }()
	must(root.Put(ctx, "/net/a", "1"))(t)
	user := must(clientv3.New(clientv3.Config{
		Endpoints: []string{e.Endpoint()}, Username: "flannel", Password: "word", Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return h1.DialContext(ctx, "tcp", addr)
		})},
	}))(t)
	defer func() { _ = user.Close() }()
	must(user.Put(ctx, "/net/b", "2"))(t)
	if _, err := user.Put(ctx, "/other", "2"); err == nil {
		t.Error("the user may write outside the pattern")
	}
}

func TestEtcdMissing(t *testing.T) {
	t.Parallel()
	l := must(lab.New(lab.Options{BinDir: t.TempDir()}))(t)
	defer l.Close()
	sw := must(l.AddSwitch("lan", netip.MustParsePrefix("192.168.50.0/24")))(t)
	h := must(l.AddHost("h", sw, lab.HostOptions{}))(t)
	_, err := l.StartEtcd(testContext(t), h, lab.EtcdOptions{})
	if err == nil || err.Error() != "build/etcd is missing: run `make build/etcd`" {
		t.Errorf("unexpected: %v", err)
	}
}

func TestEtcdAuth(t *testing.T) {
	t.Parallel()
	l, h1, _ := twoHosts(t)
	ctx := testContext(t)
	e := must(l.StartEtcd(ctx, h1, lab.EtcdOptions{}))(t)
	guest := must(e.Keys())(t)
	check(t, e.EnableAuth(ctx, "secret"))
	check(t, e.AddUser(ctx, "flannel", "word", "/net/*"))
	put(t, e, "/net/a", "1") // as root
	if _, err := guest.Get(ctx, "/net/a", nil); err == nil {
		t.Error("a guest may read")
	}
	transport := &http.Transport{DialContext: h1.DialContext}
	defer transport.CloseIdleConnections()
	c := must(client.New(client.Config{
		Endpoints: []string{e.Endpoint()}, Transport: transport, Username: "flannel", Password: "word",
	}))(t)
	user := client.NewKeysAPI(c)
	must(user.Set(ctx, "/net/b", "2", nil))(t)
	if _, err := user.Set(ctx, "/other", "2", nil); err == nil {
		t.Error("the user may write outside the pattern")
	}
}

func TestEtcdTLS(t *testing.T) {
	t.Parallel()
	l, h1, h2 := twoHosts(t)
	ctx := testContext(t)
	ca := must(lab.NewCA(l.Dir, "ca"))(t)
	server := must(ca.Server("server", lab.Valid, h1.Addr))(t)
	good := must(ca.Client("good", lab.Valid))(t)
	old := must(ca.Client("old", lab.Expired))(t)
	e := must(l.StartEtcd(ctx, h1, lab.EtcdOptions{Server: server, ClientCA: ca.Cert, Client: good}))(t)
	put(t, e, "/a", "1")

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(must(os.ReadFile(ca.Cert))(t))
	version := func(certs ...tls.Certificate) error {
		transport := &http.Transport{
			DialContext:     h2.DialContext,
			TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certs},
		}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get(e.Endpoint() + "/version")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	check(t, version(must(tls.LoadX509KeyPair(good.Cert, good.Key))(t)))
	if version() == nil {
		t.Error("no client certificate was needed")
	}
	if version(must(tls.LoadX509KeyPair(old.Cert, old.Key))(t)) == nil {
		t.Error("an expired client certificate was accepted")
	}
}
