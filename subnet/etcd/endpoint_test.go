package etcd

import (
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

func TestEndpoints(t *testing.T) {
	t.Parallel()
	ca, err := lab.NewCA(t.TempDir(), "ca")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text, url, tls, socket, name string // with tls, there is a CA
	}{
		{text: "http://192.0.2.1:2379", url: "http://192.0.2.1:2379"},
		{text: "HTTPS://etcd.example:2379", url: "https://etcd.example:2379"},
		{text: "http://etcd.example", url: "http://etcd.example"},
		{text: "https://etcd.example/etcd/", url: "https://etcd.example/etcd/"},
		{text: "http://[::1]:2379", url: "http://[::1]:2379"},
		{text: "192.0.2.1:2379", url: "http://192.0.2.1:2379", tls: "https://192.0.2.1:2379"},
		{text: "192.0.2.1:4001/", url: "http://192.0.2.1:4001", tls: "https://192.0.2.1:4001"},
		{text: "192.0.2.1", url: "http://192.0.2.1:2379", tls: "https://192.0.2.1:2379"},
		{text: "localhost:2379", url: "http://localhost:2379", tls: "https://localhost:2379"},
		{text: "etcd_1.example", url: "http://etcd_1.example:2379", tls: "https://etcd_1.example:2379"},
		{text: "[::1]:4001", url: "http://[::1]:4001", tls: "https://[::1]:4001"},
		{text: "[::1]", url: "http://[::1]:2379", tls: "https://[::1]:2379"},
		{text: "2001:db8::1", url: "http://[2001:db8::1]:2379", tls: "https://[2001:db8::1]:2379"},
		{text: "[fe80::1%eth0]:2379", url: "http://[fe80::1%25eth0]:2379", tls: "https://[fe80::1%25eth0]:2379"},
		{text: "unix:///run/etcd.sock", url: "http://localhost", socket: "/run/etcd.sock", name: "unix:///run/etcd.sock"},
		{text: "unixs:///run/etcd.sock", url: "https://localhost", socket: "/run/etcd.sock", name: "unixs:///run/etcd.sock"},
		{text: "unix://localhost:2379", url: "http://localhost", socket: "localhost:2379", name: "unix://localhost:2379"},
		{text: "unix:etcd.sock", url: "http://localhost", socket: "etcd.sock", name: "unix:etcd.sock"},
	} {
		for _, o := range []Options{{}, {CAFile: ca.Cert}} {
			want := c.url
			if o.CAFile != "" && c.tls != "" {
				want = c.tls
			}
			name := want
			if c.name != "" {
				name = c.name
			}
			o.Endpoints = []string{" ", c.text + " "}
			s, err := o.Servers()
			if err != nil || len(s) != 1 {
				t.Errorf("%s: %v, %v", c.text, s, err)
				continue
			}
			if s[0].URL.String() != want || s[0].Socket != c.socket || s[0].Name != name {
				t.Errorf("%s: %s, socket %q, called %s; want %s, %q, %s", c.text, s[0].URL, s[0].Socket, s[0].Name, want, c.socket, name)
			}
		}
	}
	for _, text := range []string{
		"ftp://a", "http://", "https://:2379", "http:/a:1", "http:a:1", "http:192.0.2.1:2379", "http//a:1", "a:b", "a:1:2", "a/b", "a?b", "a#b", ":2379", "[::1", "[a", "::g", "a b", "http://a http://b",
		"http://a;http://b", "unix:", "unix://", "unixs:", "u@a", "u:secret@a:1", "%", "http://u:secret@a:b", "ftp://u:secret@a",
	} {
		if s, err := (Options{Endpoints: []string{text}}).Servers(); err == nil {
			t.Errorf("%s is taken as %s", text, s[0].URL)
		} else if err != nil && (!strings.Contains(err.Error(), "-etcd-endpoints") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
