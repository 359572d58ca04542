package etcdtest

import (
	"strings"
	"testing"

	"flanneld/pkg/lab"
	"flanneld/subnet/etcd"
)

// A server is reached by each form of an endpoint that a client of etcd's takes.
func testEndpointForms(t *testing.T, a API) {
	socket := t.TempDir() + "/etcd.sock"
	port := FreeAddr(t)[len("127.0.0.1:"):]
	v6 := "[::1]:" + port
	server := a.Start(t, Config{})
	server.Kill()
	server.Args = append(server.Args, "--listen-client-urls="+strings.Join([]string{server.URL, "http://" + v6, "unix://" + socket}, ","))
	server.Restart(t)
	server.Put(t, Prefix+"/config", "{}", 0)
	addr := strings.TrimPrefix(server.URL, "http://")
	for _, endpoint := range []string{addr, "localhost" + addr[len("127.0.0.1"):], v6, "http://" + v6, "unix://" + socket, addr + "/"} {
		s := a.open(t, endpoint)
		Eventually(t, "the configuration is read at "+endpoint, func() bool {
			c, err := s.Config(t.Context())
			return err == nil && string(c) == "{}"
		})
		l, err := s.Create(t.Context(), Subnet1, Attrs1, 0)
		if err != nil {
			t.Errorf("%s: %v", endpoint, err)
			continue
		}
		if err := s.Delete(t.Context(), Subnet1, l.Revision); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
		w := Watch(t, s)
		w.Until(t, "nothing", Leases(0))
		s.Reconnect() // which is about addresses of this host
		server.Put(t, LeaseKey(2), Value(2), 0)
		w.Until(t, "the lease", Leases(1))
		w.Stop()
		server.Delete(t, LeaseKey(2))
	}
	server.Kill()
	for _, endpoint := range []string{addr, "unix://" + socket} {
		_, err := a.open(t, endpoint).Config(t.Context())
		CheckError(t, endpoint, err, endpoint)
	}
}

// With the files for it, an endpoint without a scheme is one with TLS. A certificate is
// checked against the name of a socket's file.
func testEndpointFormsTLS(t *testing.T, a API) {
	ca := must(lab.NewCA(t.TempDir(), "ca"))(t)
	server := a.startTLS(t, must(ca.Server("server", lab.Valid, loopback))(t), trusting())
	socket := t.TempDir() + "/etcd.sock"
	server.Kill()
	server.Args = append(server.Args, "--listen-client-urls="+server.URL+",unixs://"+socket)
	server.Restart(t)
	untilConfig(t, a.New(t, etcd.Options{Endpoints: []string{strings.TrimPrefix(server.URL, "https://")}, CAFile: ca.Cert}))
	err := a.configError(t, etcd.Options{Endpoints: []string{"unixs://" + socket}, CAFile: ca.Cert})
	CheckError(t, "a certificate of another name", err, "unixs://"+socket, "valid", "etcd.sock")
}

// Version 2 has a tree of keys, so a slash more or less in the prefix makes no difference.
// In version 3, one in front does.
func testPrefixes(t *testing.T, a API) {
	server := a.Start(t, Config{})
	for _, c := range []struct{ prefix, v2, v3 string }{
		{"/a/net", "/a/net/", "/a/net/"},
		{"/b/net/", "/b/net/", "/b/net/"},
		{"//c//net//", "/c/net/", "/c/net/"},
		{"d/net", "/d/net/", "d/net/"},
		{"e/net/", "/e/net/", "e/net/"},
		{"/", "/", "/"},
		{".", "/", ""},
	} {
		root := c.v2
		if a.Flat {
			root = c.v3
		}
		server.Put(t, root+"config", `{"of":"`+c.prefix+`"}`, 0)
		s := a.New(t, etcd.Options{Endpoints: []string{server.URL}, Prefix: c.prefix})
		if text, err := s.Config(t.Context()); err != nil || string(text) != `{"of":"`+c.prefix+`"}` {
			t.Errorf("prefix %q: the configuration is %q, %v", c.prefix, text, err)
		}
		if _, err := s.Create(t.Context(), Subnet1, Attrs1, 0); err != nil {
			t.Errorf("prefix %q: %v", c.prefix, err)
			continue
		}
		if l, err := s.List(t.Context()); err != nil || len(l.Leases) != 1 {
			t.Errorf("prefix %q: leases %v, %v", c.prefix, l.Leases, err)
		}
		server.Delete(t, root+"subnets/"+Subnet1.Key())
		if l, err := s.List(t.Context()); err != nil || len(l.Leases) != 0 {
			t.Errorf("prefix %q: the lease is not under %ssubnets/: %v, %v", c.prefix, root, l.Leases, err)
		}
		server.Put(t, root+"subnets/"+Subnet1.Key(), Value(1), 0)
		if l, err := s.List(t.Context()); err != nil || len(l.Leases) != 1 {
			t.Errorf("prefix %q: leases %v, %v", c.prefix, l.Leases, err)
		}
		server.Delete(t, root+"subnets/"+Subnet1.Key())
		server.Delete(t, root+"config")
	}
}
