package etcdv2

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/lab"
	"flanneld/subnet"
	"flanneld/subnet/etcd/etcdtest"
)

func TestExpiresOfAnOldEvent(t *testing.T) {
	now := time.Now()
	server := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) // a clock far off ours
	in := func(d time.Duration) *time.Time { e := server.Add(d); return &e }
	for _, test := range []struct {
		name string
		node client.Node
		date time.Time
		want time.Duration
	}{
		{"fresh", client.Node{TTL: 100, Expiration: in(100 * time.Second)}, server, 100 * time.Second},
		{"after a wait", client.Node{TTL: 100, Expiration: in(150 * time.Second)}, server, 100 * time.Second},
		{"an hour old", client.Node{TTL: 7200, Expiration: in(time.Hour)}, server, time.Hour},
		{"long over", client.Node{TTL: 100, Expiration: in(-time.Hour)}, server, 0},
		{"no TTL left", client.Node{Expiration: in(0)}, server, 0},
		{"no date", client.Node{TTL: 100, Expiration: in(0)}, time.Time{}, 100 * time.Second},
	} {
		r := reply{date: test.date, since: now}
		if got := r.expires(&test.node); !got.Equal(now.Add(test.want)) {
			t.Errorf("%s: expires in %s, want %s", test.name, got.Sub(now), test.want)
		}
	}
	if r := (&reply{since: now}); !r.expires(&client.Node{}).IsZero() {
		t.Error("a node without expiration expires")
	}
}

// However long the answer takes, a lease does not seem to last longer than it does:
// another host may have the subnet by then.
func TestExpiresOfASlowAnswer(t *testing.T) {
	t.Parallel()
	const ttl = 100 * time.Second
	asked := make(chan time.Time, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- time.Now()
		time.Sleep(100 * time.Millisecond)
		node := `{"key":"/coreos.com/network/subnets/10.5.1.0-24","value":"{}","ttl":100,"expiration":"2001-01-01T00:01:40Z","modifiedIndex":7}`
		if r.Method == http.MethodGet {
			node = `{"key":"/coreos.com/network/subnets","dir":true,"nodes":[` + node + `]}`
		}
		w.Header()["Date"] = []string{"Mon, 01 Jan 2001 00:00:00 GMT"}
		_, _ = fmt.Fprintf(w, `{"action":"x","node":%s}`, node)
	}))
	defer server.Close()
	s := newStore(t, Options{Endpoints: []string{server.URL}})
	l, err := s.Create(t.Context(), subnet1, attrs1, ttl)
	if err != nil {
		t.Fatal(err)
	}
	if late := l.Expires.Sub((<-asked).Add(ttl)); late > 0 {
		t.Errorf("a lease that was written seems to last %s too long", late)
	}
	listed, err := s.Entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if late := listed[0].Expires.Sub((<-asked).Add(ttl)); late > 0 {
		t.Errorf("a lease that was listed seems to last %s too long", late)
	}
}

// A write whose answer is lost is not sent to the next endpoint: the second
// answer would be about the first one's work.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	p := etcdtest.NewProxy(t, server.Server)
	s := newStore(t, Options{Endpoints: []string{p.URL, server.URL}})
	s.failover.Pin(0)
	l, err := s.Create(t.Context(), subnet1, attrs1, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.DropAnswers.Store(true)
	_, err = s.Update(t.Context(), subnet1, l.Revision, attrs1, 0)
	if err == nil || errors.Is(err, subnet.ErrChanged) {
		t.Errorf("update whose answer was lost: %v, want that its outcome is unknown", err)
	}
	now, err := s.List(t.Context())
	if err != nil || len(now.Leases) != 1 || now.Leases[0].Revision == l.Revision {
		t.Errorf("after it: %+v, %v; want the lease, updated", now, err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := lab.NewCA(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Client("client", lab.Valid)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := files.Cert, files.Key
	garbage := dir + "/garbage"
	if err := os.WriteFile(garbage, []byte("no PEM here"), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := dir + "/missing"
	good := []string{"http://127.0.0.1:2379"}
	for _, test := range []struct {
		name string
		o    Options
		want []string // in the error; none for success
	}{
		{"plain", Options{Endpoints: good}, nil},
		{"CA alone", Options{Endpoints: good, CAFile: ca.Cert}, nil},
		{"all TLS files", Options{Endpoints: good, CAFile: ca.Cert, CertFile: cert, KeyFile: key}, nil},
		{"no endpoints", Options{Endpoints: []string{" ", ""}}, []string{"-etcd-endpoints"}},
		{"no scheme", Options{Endpoints: []string{"10.0.0.1:2379", "etcd.example", "[fe80::1%eth0]:2379", "unix:///run/etcd.sock"}}, nil},
		{"other scheme", Options{Endpoints: []string{"ftp://10.0.0.1"}}, []string{"-etcd-endpoints", "ftp://10.0.0.1"}},
		{"no host", Options{Endpoints: []string{"http://:2379"}}, []string{"-etcd-endpoints", "http://:2379"}},
		{"bad URL", Options{Endpoints: []string{"http://u:secret@a b%"}}, []string{"-etcd-endpoints"}},
		{"bad scheme with password", Options{Endpoints: []string{"ftp://u:secret@h"}}, []string{"ftp://u:xxxxx@h"}},
		{"cert without key", Options{Endpoints: good, CertFile: cert}, []string{"-etcd-certfile", "-etcd-keyfile"}},
		{"key without cert", Options{Endpoints: good, KeyFile: key}, []string{"-etcd-certfile", "-etcd-keyfile"}},
		{"missing CA", Options{Endpoints: good, CAFile: missing}, []string{"-etcd-cafile", missing}},
		{"garbage CA", Options{Endpoints: good, CAFile: garbage}, []string{"-etcd-cafile", garbage}},
		{"missing cert", Options{Endpoints: good, CertFile: missing, KeyFile: key}, []string{"-etcd-certfile", missing}},
		{"missing key", Options{Endpoints: good, CertFile: cert, KeyFile: missing}, []string{"-etcd-keyfile", missing}},
		{"garbage key", Options{Endpoints: good, CertFile: cert, KeyFile: garbage}, []string{"-etcd-keyfile", garbage}},
	} {
		_, err := New(test.o)
		if len(test.want) == 0 {
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		etcdtest.CheckError(t, test.name, err, test.want...)
	}
}
