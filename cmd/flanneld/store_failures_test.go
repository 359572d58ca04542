package main_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flanneld/pkg/lab"
)

// storeFailure is one way in which etcd can fail a daemon, and what is said of it.
type storeFailure struct {
	name string
	apis string   // those that it is tried with
	args []string // of the daemon
	want []string // of one line of the log, of the status and of the errors of commands
	// of is what is wanted besides with one of the APIs.
	of map[string][]string
	// release is the APIs with which -release fails, too.
	release string
	// ends is set where the daemon ends with status 1, for it can never work.
	ends bool
}

// in adds what is said of the failure with one API.
func (r *storeFailure) in(api string, want ...string) *storeFailure {
	if r.of == nil {
		r.of = make(map[string][]string)
	}
	r.of[api] = append(r.of[api], want...)
	return r
}

// releaseFails names the APIs with which -release meets the failure.
func (r *storeFailure) releaseFails(apis string) { r.release = apis }

// storeFailures are hosts with servers that fail, and the host whose daemons ask them.
type storeFailures struct {
	*network
	client *lab.Host
	ca     *lab.CA
	rows   []*storeFailure
	ports  uint16

	mu   sync.Mutex
	said []string // all lines of logs that were wanted
}

const everyAPI = "2 3 auto"

func (f *storeFailures) add(name, apis string, args []string, want ...string) *storeFailure {
	row := &storeFailure{name: name, apis: apis, args: args, want: want, release: apis}
	f.rows = append(f.rows, row)
	return row
}

func (f *storeFailures) host(name string) *lab.Host {
	f.t.Helper()
	return must(f.lab.AddHost(name, f.sw, lab.HostOptions{}))(f.t)
}

// ownCertificate stands for a valid one of the host's address.
var ownCertificate = lab.CertFiles{Cert: "own"}

// etcds starts an etcd on a host of its own for each of the options.
func (f *storeFailures) etcds(of map[string]lab.EtcdOptions) map[string]*lab.Etcd {
	f.t.Helper()
	all := make(map[string]*lab.Etcd)
	hosts := make(map[string]*lab.Host)
	for name, opts := range of {
		hosts[name] = f.host(name)
		if opts.Server == ownCertificate {
			opts.Server = must(f.ca.Server(name, lab.Valid, hosts[name].Addr))(f.t)
			of[name] = opts
		}
	}
	var mu sync.Mutex
	var g sync.WaitGroup
	for name, opts := range of {
		g.Go(func() {
			e, err := f.lab.StartEtcd(f.ctx, hosts[name], opts)
			if err != nil {
				f.t.Errorf("starting %s: %v", name, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all[name] = e
		})
	}
	g.Wait()
	if f.t.Failed() {
		f.t.FailNow()
	}
	return all
}

// listen listens on a port of etcd's host that nobody else has.
func (f *storeFailures) listen() (net.Listener, string) {
	f.t.Helper()
	f.ports++
	addr := netip.AddrPortFrom(f.server.Addr, 3000+f.ports).String()
	var l net.Listener
	check(f.t, f.server.Do(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}))
	f.t.Cleanup(func() { _ = l.Close() })
	return l, addr
}

// web starts a web server that gives one answer to all requests.
func (f *storeFailures) web(config *tls.Config, answer http.HandlerFunc) string {
	f.t.Helper()
	l, addr := f.listen()
	scheme := "http://"
	s := &http.Server{Handler: answer, ReadHeaderTimeout: 5 * time.Second, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	if config != nil {
		scheme = "https://"
		l = tls.NewListener(l, config)
	}
	go func() { _ = s.Serve(l) }()
	f.t.Cleanup(func() { _ = s.Close() })
	return scheme + addr
}

func at(urls ...string) []string { return []string{"-etcd-endpoints=" + strings.Join(urls, ",")} }

// Whatever keeps a daemon from etcd, the log, the status and the commands name the
// endpoint or the key, what was seen there, and the next step.
func TestStoreFailuresAreNamed(t *testing.T) {
	t.Parallel()
	n := newLab(t, hostGW)
	f := &storeFailures{network: n}
	n.startEtcd(lab.EtcdOptions{})
	f.client = must(n.lab.AddHost("client", n.sw, lab.HostOptions{NoDefaultRoute: true}))(t)
	f.ca = must(lab.NewCA(t.TempDir(), "ca"))(t)
	f.onTheWay()
	f.certificates()
	f.certificateFiles()
	f.webServers()
	f.members()
	f.users()
	f.configurations()
	f.try()
	f.compareDocument()
}

// onTheWay adds what happens to packets and connections.
func (f *storeFailures) onTheWay() {
	server := f.server.Addr.String()
	f.nft("add table inet closed",
		"add chain inet closed out { type filter hook output priority 0; }",
		"add rule inet closed out tcp dport 4711 drop",
		"add rule inet closed out tcp dport 4712 reject with icmpx type admin-prohibited")
	f.add("packets dropped", everyAPI, at("http://"+server+":4711"),
		"http://"+server+":4711: no connection within 3s, i/o timeout (check that the host is up, and that firewalls let")
	f.add("packets rejected", everyAPI, at("http://"+server+":4712"),
		"http://"+server+":4712: no route to host (check that the host is up, that `ip route get "+server+"` shows a way")
	refused, unreachable := "http://"+server+":4713", "http://203.0.113.1:2379"
	f.add("connection refused", everyAPI, at(refused),
		refused+": connection refused (nothing listens there: start etcd", "--listen-client-urls", "or correct -etcd-endpoints")
	f.add("no route", everyAPI, at(unreachable), unreachable+": network is unreachable (", "`ip route get 203.0.113.1`")
	f.dns()
	f.add("name server that fails", everyAPI, at("http://broken.example:2379"),
		"http://broken.example:2379: the name broken.example does not resolve: the name server ", ": server misbehaving (the name servers in /etc/resolv.conf are at fault; or name an address in -etcd-endpoints)")
	f.add("name server that is silent", everyAPI, at("http://silent.example:2379"),
		"http://silent.example:2379: the name silent.example does not resolve: no name server answers (the name servers in /etc/resolv.conf are at fault")
	f.add("no such name", everyAPI, at("http://etcd.example:2379"),
		"http://etcd.example:2379: no such host: the name etcd.example does not resolve (correct -etcd-endpoints, or add the name to DNS or /etc/hosts)")
	listener, addr := f.listen()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	closing := "http://" + addr
	f.add("accepts and closes", everyAPI, at(closing), closing+": it closes the connection without an answer: EOF (", "-etcd-endpoints must name what etcd listens on")
	f.add("three endpoints, each for a reason", everyAPI, at(refused, unreachable, closing),
		refused+": connection refused (nothing listens there", "; "+unreachable+": network is unreachable (", "; "+closing+": it closes the connection without an answer: EOF (")
	f.add("three endpoints, one reason", everyAPI, at(refused, "http://"+server+":4714", "http://"+server+":4715"),
		refused+": connection refused (nothing listens there", "); http://"+server+":4714: connection refused; http://"+server+":4715: connection refused")
}

func (f *storeFailures) nft(lines ...string) {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "rules")
	check(f.t, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	p := must(f.client.Start("nft", []string{"nft", "-f", file}, nil, lab.ProcessOptions{}))(f.t)
	if code := must(p.Wait(f.ctx))(f.t); code != 0 {
		f.t.Fatalf("nft: %s", p.Log())
	}
}

// dns starts a resolver that knows no name, fails for some and is silent about others, where /etc/resolv.conf looks for one.
func (f *storeFailures) dns() {
	f.t.Helper()
	text := must(os.ReadFile("/etc/resolv.conf"))(f.t)
	addr := netip.MustParseAddr("127.0.0.1")
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "nameserver" {
			a := netip.MustParseAddr(fields[1]).WithZone("")
			if !a.IsLoopback() {
				check(f.t, f.client.AddAddr("lo", netip.PrefixFrom(a, a.BitLen())))
			}
			addr = a
			break
		}
	}
	var c net.PacketConn
	check(f.t, f.client.Do(func() (err error) {
		c, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, 53).String())
		return err
	}))
	f.t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			k, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if k < 4 || bytes.Contains(b[:k], []byte("silent")) {
				continue
			}
			b[2], b[3] = b[2]|0x80, 0x83 // an answer: there is no such name
			if bytes.Contains(b[:k], []byte("broken")) {
				b[3] = 0x82
			}
			_, _ = c.WriteTo(b[:k], from)
		}
	}()
}

// certificates adds what can be wrong with TLS.
func (f *storeFailures) certificates() {
	t := f.t
	other := must(lab.NewCA(t.TempDir(), "other"))(t)
	good := must(f.ca.Client("good", lab.Valid))(t)
	expired := must(f.ca.Client("expired", lab.Expired))(t)
	foreign := must(other.Client("foreign", lab.Valid))(t)
	elsewhere := netip.MustParseAddr("192.0.2.1")
	e := f.etcds(map[string]lab.EtcdOptions{
		"tls":       {Server: ownCertificate},
		"old":       {Server: must(f.ca.Server("old", lab.Expired, elsewhere))(t)},
		"young":     {Server: must(f.ca.Server("young", 96*time.Hour, elsewhere))(t)},
		"elsewhere": {Server: must(f.ca.Server("elsewhere", lab.Valid, elsewhere))(t)},
		"clients":   {Server: ownCertificate, ClientCA: f.ca.Cert, Client: good},
	})
	add := func(name, etcd, ca string, client lab.CertFiles, want ...string) {
		args := at(e[etcd].Endpoint())
		for _, a := range [][2]string{{"ca", ca}, {"cert", client.Cert}, {"key", client.Key}} {
			if a[1] != "" {
				args = append(args, "-etcd-"+a[0]+"file="+a[1])
			}
		}
		f.add(name, everyAPI, args, append(want, "etcd cannot be asked: "+e[etcd].Endpoint()+": ")...)
	}
	var none lab.CertFiles
	plain := func(url string) string { return strings.Replace(url, "https:", "http:", 1) }
	secure := func(url string) string { return strings.Replace(url, "http:", "https:", 1) }
	web := func(http.ResponseWriter, *http.Request) {}
	for name, url := range map[string]string{"etcd": e["tls"].Endpoint(), "a web server": f.web(f.goTLS(), web)} {
		f.add("http to the TLS of "+name, everyAPI, at(plain(url)),
			plain(url)+": it speaks TLS, and was asked in plain http: ", " (write https:// in -etcd-endpoints)")
	}
	for name, url := range map[string]string{"etcd": f.etcd.Endpoint(), "a web server": f.web(nil, web)} {
		f.add("https to the plain http of "+name, everyAPI, append(at(secure(url)), "-etcd-cafile="+f.ca.Cert),
			secure(url)+": it does not speak TLS: ", " (write http:// in -etcd-endpoints, or give etcd a certificate)")
	}
	add("unknown CA", "tls", "", none, "is not signed by a CA that this host trusts: x509: certificate signed by unknown authority (name its CA with -etcd-cafile)")
	add("other CA", "tls", other.Cert, none, "is not signed by the CA in -etcd-cafile "+other.Cert+": x509: certificate signed by unknown authority (name the file with the CA")
	add("server expired", "old", f.ca.Cert, none, "the server's certificate has expired: it was valid until 20", " (give etcd a new one; or this host's clock is wrong)")
	add("server not yet valid", "young", f.ca.Cert, none, "the server's certificate is not yet valid: it is from 20", " (this host's clock is wrong, or that of the host where the certificate was made)")
	add("server of another name", "elsewhere", f.ca.Cert, none, "the server's certificate is for another name: x509: certificate is valid for 192.0.2.1, not "+strings.TrimSuffix(strings.TrimPrefix(e["elsewhere"].Endpoint(), "https://"), ":2379"), " (name etcd in -etcd-endpoints as its certificate does")
	add("no client certificate", "clients", f.ca.Cert, none, "want", "a client certificate: ", "-etcd-certfile and -etcd-keyfile, signed by the CA in etcd's --trusted-ca-file)")
	add("client certificate expired", "clients", f.ca.Cert, expired, "the server refuses this host's client certificate, -etcd-certfile "+expired.Cert+": ", " (it expired at 20", ": replace the file, nothing has to be restarted)")
	add("client certificate of another CA", "clients", f.ca.Cert, foreign, "the server refuses this host's client certificate, -etcd-certfile "+foreign.Cert+": ", " (it must be signed by the CA in etcd's --trusted-ca-file")
}

// certificateFiles adds what can be wrong with the files that options name. The daemon can
// never work with these.
func (f *storeFailures) certificateFiles() {
	t := f.t
	good, another := must(f.ca.Client("one", lab.Valid))(t), must(f.ca.Client("another", lab.Valid))(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	garbage, empty := file("garbage.pem", "hello"), file("empty.pem", "")
	encrypted := file("encrypted.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIBvTBXBgkqhkiG9w0BBQ0wSjApBgkqhkiG9w0BBQwwHAQIAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
	for _, c := range []struct {
		name, ca, cert, key string
		want                string
	}{
		{"no CA file", "/no/such/ca.pem", "", "", "reading -etcd-cafile: open /no/such/ca.pem: no such file or directory (it must be a PEM file that the daemon's user may read)"},
		{"CA file is a directory", "/etc", "", "", "reading -etcd-cafile: read /etc: is a directory (it must be a PEM file"},
		{"CA file without a certificate", garbage, "", "", "-etcd-cafile " + garbage + " holds no PEM certificate: it is not PEM (name the file with the certificate of etcd's CA)"},
		{"CA file is empty", empty, "", "", "-etcd-cafile " + empty + " holds no PEM certificate: it is empty (name the file with the certificate of etcd's CA)"},
		{"CA file is a key", f.ca.Key, "", "", "-etcd-cafile " + f.ca.Key + ` holds no PEM certificate, but "EC PRIVATE KEY" (name the file`},
		{"no certificate file", f.ca.Cert, "/no/such/host.pem", good.Key, "reading -etcd-certfile: open /no/such/host.pem: no such file or directory (it must be a PEM file"},
		{"no key file", f.ca.Cert, good.Cert, "/no/such/key.pem", "reading -etcd-keyfile: open /no/such/key.pem: no such file or directory (it must be a PEM file"},
		{"key of another certificate", f.ca.Cert, good.Cert, another.Key, "-etcd-certfile " + good.Cert + " and -etcd-keyfile " + another.Key + " cannot be used together: tls: private key does not match public key (name two files that were made together)"},
		{"certificate and key exchanged", f.ca.Cert, good.Key, good.Cert, "-etcd-certfile " + good.Key + " is a key, and -etcd-keyfile " + good.Cert + " a certificate (exchange the two options' values)"},
		{"key is garbage", f.ca.Cert, good.Cert, garbage, "-etcd-keyfile " + garbage + " holds no PEM private key: it is not PEM (name the file with the key of -etcd-certfile " + good.Cert + ")"},
		{"certificate is garbage", f.ca.Cert, garbage, good.Key, "-etcd-certfile " + garbage + " holds no PEM certificate: it is not PEM (name the file with this host's certificate)"},
		{"key is encrypted", f.ca.Cert, good.Cert, encrypted, "-etcd-keyfile " + encrypted + " is encrypted (name a file with the key in plain; this writes one: openssl pkey -in " + encrypted + " -out FILE)"},
		{"certificate without key", f.ca.Cert, good.Cert, "", "-etcd-certfile is given without -etcd-keyfile: a client certificate needs both"},
		{"key without certificate", f.ca.Cert, "", good.Key, "-etcd-keyfile is given without -etcd-certfile: a client certificate needs both"},
	} {
		args := append(at("https://192.0.2.1:2379"), "-etcd-cafile="+c.ca, "-etcd-certfile="+c.cert, "-etcd-keyfile="+c.key)
		f.add(c.name, "auto", args, c.want).ends = true
	}
}

func (f *storeFailures) goTLS() *tls.Config {
	files := must(f.ca.Server("go", lab.Valid, f.server.Addr))(f.t)
	return &tls.Config{Certificates: []tls.Certificate{must(tls.LoadX509KeyPair(files.Cert, files.Key))(f.t)}}
}

func (f *storeFailures) webServers() {
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Server", "nginx/1.27")
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, "%s<!-- %s -->", body, time.Now()) // pages differ each time
		}
	}
	const notEtcd, proxy = "it is not etcd: ", "a proxy answers that does not reach etcd: "
	for _, c := range []struct {
		status     int
		body       string
		want, next string
	}{
		{200, "<html>\x1b[2JWelcome</html>\n", notEtcd + `200 OK of "nginx/1.27", text/html (`, "-etcd-endpoints must name what etcd listens on for clients, its --listen-client-urls)"},
		{404, "<html>no such page</html>\n", notEtcd + `404 Not Found of "nginx/1.27", text/html (`, "-etcd-endpoints must name what etcd listens on for clients, its --listen-client-urls)"},
		{502, "<html>bad gateway</html>\n", proxy + `502 Bad Gateway of "nginx/1.27", text/html (see the proxy's log`, "or name etcd itself in -etcd-endpoints)"},
		{503, "<html>unavailable</html>\n", proxy + `503 Service Unavailable of "nginx/1.27", text/html (see the proxy's log`, "or name etcd itself in -etcd-endpoints)"},
	} {
		for scheme, config := range map[string]*tls.Config{"http": nil, "https": f.goTLS()} {
			url := f.web(config, answer(c.status, c.body))
			f.add(fmt.Sprintf("%s answer %d", scheme, c.status), everyAPI, append(at(url), "-etcd-cafile="+f.ca.Cert), url+": "+c.want, c.next)
		}
	}
	old := f.web(nil, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			_, _ = w.Write([]byte(`{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}`))
			return
		}
		http.NotFound(w, r)
	})
	f.add("v3 too old", "3", at(old), old+": etcd 2.3.8 does not offer the v3 API as of etcd 3.4 (bring etcd to 3.4 or later, or say -etcd-api=2)")
	url := f.startHTTP1Proxy(2000, "https", f.goTLS())
	f.add("v3 behind HTTP/1", "3", append(at(url), "-etcd-cafile="+f.ca.Cert), url+": etcd 3.5", "is behind something that speaks no HTTP/2, so that its v3 API cannot be used", "no application protocol (let the proxy pass HTTP/2 on, or name etcd itself in -etcd-endpoints)")
}

// members adds servers that are etcd, and cannot do what they are asked.
func (f *storeFailures) members() {
	t := f.t
	e := f.etcds(map[string]lab.EtcdOptions{
		"new":     {Version: "3.7"},
		"frozen":  {},
		"full":    {Args: []string{"--quota-backend-bytes=1048576"}},
		"corrupt": {},
	})
	url := func(name string) string { return e[name].Endpoint() }
	f.add("no version 2", "2", at(url("new")), url("new")+": etcd 3.7", "does not offer the v2 API (it ended with etcd 3.5, where --enable-v2 turns it on: remove -etcd-api=2")
	for _, name := range []string{"full", "corrupt"} {
		c := must(e[name].ClientV3())(t)
		t.Cleanup(func() { _ = c.Close() })
		_, err := c.Put(f.ctx, keyPrefix+"/config", f.config(nil))
		check(t, err)
	}
	f.fill(e["full"])
	ctl := "etcdctl --endpoints=" + url("full")
	f.add("database full", "3", at(url("full")), url("full")+": etcd's database is full, and takes no writes: mvcc: database space exceeded (", ctl+" compact REVISION", ctl+" defrag", ctl+" alarm disarm").releaseFails("")
	f.corrupt(e["corrupt"])
	f.add("corrupt", "3", at(url("corrupt")), url("corrupt")+": etcd has found that the data of its members differ: corrupt cluster (replace the member that etcdctl --endpoints="+url("corrupt")+" alarm list names").releaseFails("")
	check(t, e["frozen"].Freeze())
	f.add("frozen", everyAPI, at(url("frozen")), url("frozen")+": no answer within 5s (it hangs or is overloaded, or packets are dropped: see etcd's log")

	hosts := []*lab.Host{f.host("member1"), f.host("member2"), f.host("member3")}
	members := must(f.lab.StartCluster(f.ctx, hosts, lab.EtcdOptions{}))(t)
	members[1].Kill()
	members[2].Kill()
	urls := members[0].Endpoints()
	noLeader := urls[0] + ": no answer within 5s (etcd has no leader: start the other members, so that a majority of the cluster is up"
	f.add("no quorum", everyAPI, at(urls[0]), noLeader)
	peers := strings.Replace(urls[0], ":2379", ":2380", 1)
	f.add("port for peers", everyAPI, at(peers), peers+": it is etcd's port for the other members, its --listen-peer-urls (-etcd-endpoints must name what etcd listens on for clients")
	f.add("no quorum, all endpoints", everyAPI, at(urls...), noLeader, "; "+urls[1]+": connection refused (nothing listens there", "; "+urls[2]+": connection refused")
}

// fill fills the database of an etcd until that raises its alarm.
func (f *storeFailures) fill(e *lab.Etcd) {
	f.t.Helper()
	c := must(e.ClientV3())(f.t)
	defer func() { check(f.t, c.Close()) }()
	for range 10 {
		if _, err := c.Put(f.ctx, "/elsewhere", string(make([]byte, 1<<19))); err != nil {
			break
		}
	}
	f.wait(soon, "the alarm of a full database", func() string {
		if _, err := c.Put(f.ctx, "/elsewhere/small", ""); err != nil {
			return ""
		}
		return "etcd takes writes"
	})
}

// corrupt raises the alarm of an etcd whose members differ.
func (f *storeFailures) corrupt(e *lab.Etcd) {
	f.t.Helper()
	c := must(e.ClientV3())(f.t)
	defer func() { check(f.t, c.Close()) }()
	status := must(c.Status(f.ctx, e.Endpoint()))(f.t)
	_, err := pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(f.ctx, &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: status.Header.MemberId, Alarm: pb.AlarmType_CORRUPT,
	})
	check(f.t, err)
}

const rootPassword = "root-password-1234"

// guarded starts an etcd with a configuration, and with users in both APIs: one who may
// use other keys, in version 3 one who may only read, and one without a role.
func (n *network) guarded(e *lab.Etcd) {
	t := n.t
	t.Helper()
	c := must(e.ClientV3())(t)
	_, err := c.Put(n.ctx, keyPrefix+"/config", n.config(nil))
	check(t, err)
	check(t, newAdminV2(t, e).put(n.ctx, keyPrefix+"/config", n.config(nil), 0))
	check(t, c.Close())
	check(t, e.EnableAuth(n.ctx, rootPassword))
	check(t, e.EnableAuthV3(n.ctx, rootPassword))
	check(t, e.AddUser(n.ctx, "elsewhere", "open-sesame", "/elsewhere/*"))
	check(t, e.AddUserV3(n.ctx, "elsewhere", "open-sesame", "/elsewhere/*"))
	c = must(e.ClientV3())(t)
	defer func() { check(t, c.Close()) }()
	_, err = c.RoleAdd(n.ctx, "readers")
	check(t, err)
	_, err = c.RoleGrantPermission(n.ctx, "readers", keyPrefix+"/", clientv3.GetPrefixRangeEnd(keyPrefix+"/"), clientv3.PermissionType(clientv3.PermRead))
	check(t, err)
	for _, user := range []string{"reader", "roleless"} {
		_, err = c.UserAdd(n.ctx, user, "open-sesame")
		check(t, err)
	}
	_, err = c.UserGrantRole(n.ctx, "reader", "readers")
	check(t, err)
}

// users adds what etcd does not permit.
func (f *storeFailures) users() {
	e := f.etcds(map[string]lab.EtcdOptions{"users": {}})["users"]
	f.guarded(e)
	url := e.Endpoint()
	as := func(user, password string) []string {
		return append(at(url), "-etcd-username="+user, "-etcd-password="+password)
	}
	ctl2, ctl3 := "ETCDCTL_API=2 etcdctl --endpoints="+url+" --username=root ", "etcdctl --endpoints="+url+" --user=root "
	f.add("no user", everyAPI, at(url), url+": etcd refuses the request to read ", ", as it asks for a user: ", " (give -etcd-username and -etcd-password of one that has readwrite permission on "+keyPrefix+"/)").
		in("2", "401 Unauthorized").in("3", "user name is empty")
	bad := func(user string) string { return url + ": etcd refuses the request of user " + user + " to read " }
	for name, user := range map[string]string{"wrong password": "elsewhere", "unknown user": "nobody"} {
		f.add(name, everyAPI, as(user, "guess-0815"), bad(`"`+user+`"`), " (wrong -etcd-username or -etcd-password").
			in("2", keyPrefix, ": 401 Unauthorized (").in("3", ": authentication failed, invalid user ID or password (", ctl3+"user add "+user, ctl3+"user passwd "+user)
	}
	f.add("no permission", everyAPI, as("elsewhere", "open-sesame"), bad(`"elsewhere"`)).
		in("2", ": 401 Unauthorized (", "or no permission", "grant it: "+ctl2+"role add flanneld; "+ctl2+"role grant flanneld --path '"+keyPrefix+"/*' --readwrite && "+ctl2+"user grant elsewhere --roles flanneld").
		in("3", ": permission denied (grant it: "+ctl3+"role grant-permission --prefix elsewhere readwrite "+keyPrefix+"/)")
	f.add("no role", "3", as("roleless", "open-sesame"), bad(`"roleless"`), ": permission denied (grant it: "+ctl3+"role add flanneld; "+ctl3+"role grant-permission --prefix flanneld readwrite "+keyPrefix+"/ && "+ctl3+"user grant-role roleless flanneld)")
	f.add("no permission to write", "3", as("reader", "open-sesame"), url+`: etcd refuses the request of user "reader" to write `+keyPrefix+"/subnets/: permission denied (grant it: "+ctl3+"role grant-permission --prefix readers readwrite "+keyPrefix+"/)").releaseFails("")
}

// configurations adds what can be wrong with keys.
func (f *storeFailures) configurations() {
	t := f.t
	v2, v3 := f.admin, newAdminV3(t, f.etcd)
	put := func(key, value string, in ...admin) {
		for _, a := range in {
			check(t, a.put(f.ctx, key, value, 0))
		}
	}
	url := f.etcd.Endpoint()
	prefix := func(p string) []string { return append(at(url), "-etcd-prefix="+p) }
	ctl2, ctl3 := "ETCDCTL_API=2 etcdctl --endpoints="+url+" ", "etcdctl --endpoints="+url+" "
	const example = ` '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'`
	f.add("no configuration", everyAPI, prefix("/none"), "no network configuration at /none/config in ", " of etcd's API at "+url+"; write one: ").
		in("2", "in version 2 of", ctl2+"set /none/config"+example).in("3", "in version 3 of", ctl3+"put /none/config"+example).in("auto", "in either version of", ctl3+"put /none/config"+example).
		releaseFails("auto")
	put("/bad/config", "{", v2, v3)
	f.add("invalid configuration", everyAPI, prefix("/bad"), `network configuration "{" not valid JSON at byte 1: unexpected end of JSON input; correct the key /bad/config, nothing has to be restarted`).
		releaseFails("")
	put("/dir/config/x", "{", v2)
	f.add("the configuration is a directory", "2 auto", prefix("/dir"), "no network configuration at /dir/config in version 2 of etcd's API at "+url+": it is a directory; replace it by a key: "+ctl2+"rm --recursive /dir/config && "+ctl2+"set /dir/config"+example).
		releaseFails("auto")
	put("/file", "x", v2)
	f.add("the prefix is a key", "2 auto", prefix("/file"), url+": /file is a key, and not a directory (delete it: "+ctl2+"rm /file)")
	put("/leases/config", f.config(nil), v2)
	put("/leases/subnets", "x", v2)
	f.add("the leases are a key", "2 auto", prefix("/leases"), "listing leases: "+url+": /leases/subnets is a key, and not a directory (delete it: "+ctl2+"rm /leases/subnets)")
	put("/only2/config", f.config(nil), v2)
	f.add("configuration in version 2", "3", prefix("/only2"), "no network configuration at /only2/config in version 3 of etcd's API, as -etcd-api says; version 2 has one: if that is the network's, say -etcd-api=2 or auto").releaseFails("")
	put("/only3/config", f.config(nil), v3)
	f.add("configuration in version 3", "2", prefix("/only3"), "no network configuration at /only3/config in version 2 of etcd's API, as -etcd-api says; version 3 has one: if that is the network's, say -etcd-api=3 or auto").releaseFails("")
}

// try tries each failure with each API, in the daemon and in the commands.
func (f *storeFailures) try() {
	const atOnce = 8
	slots := make(chan struct{}, atOnce)
	var g sync.WaitGroup
	defer g.Wait()
	inTurn := func(row *storeFailure, api string, try func(*storeFailure, string) error) {
		slots <- struct{}{}
		g.Go(func() {
			defer func() { <-slots }()
			if err := try(row, api); err != nil {
				f.t.Errorf("%s, -etcd-api=%s: %v", row.name, api, err)
			}
		})
	}
	for _, row := range f.rows {
		for _, api := range strings.Fields(row.apis) {
			inTurn(row, api, f.tryDaemon)
			if strings.Contains(row.release, api) {
				inTurn(row, api, f.tryRelease)
			}
			if api == "2" && strings.Contains(row.release, api) {
				inTurn(row, api, f.tryMigrate)
			}
		}
	}
}

// arguments are those of a program with one of the APIs, in a folder of its own.
func (f *storeFailures) arguments(row *storeFailure, api string) ([]string, error) {
	dir, err := os.MkdirTemp(f.client.Dir, "flanneld")
	return slices.Concat([]string{"-etcd-api=" + api, "-iface=eth0", "-subnet-file=" + filepath.Join(dir, "subnet.env"), "-state-dir=" + dir}, row.args), err
}

func (f *storeFailures) tryDaemon(row *storeFailure, api string) error {
	args, err := f.arguments(row, api)
	if err != nil {
		return err
	}
	d, err := f.client.StartFlanneld(daemonBinary, args...)
	if err != nil {
		return err
	}
	want := slices.Concat(row.want, row.of[api])
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		line, missing := findLine(d.Log(), want)
		switch status := d.Status(); {
		case row.ends:
		case missing == "":
			missing = lacksAll(status, want)
		case lacksAll(status, want) == "" && lacksAll(d.Log(), want) == "":
			// On a busy machine not all servers are heard of in time for the first line, which is
			// not logged again for each that is.
			line, missing = status, ""
		}
		if missing == "" {
			f.mu.Lock()
			f.said = append(f.said, line)
			f.mu.Unlock()
			break
		}
		if time.Since(begin) > 4*soon {
			err = fmt.Errorf("%s; the status is %q, and the log:\n%s", missing, d.Status(), d.Log())
			break
		}
	}
	if !row.ends {
		_, stopErr := d.Stop(soon)
		return errors.Join(err, stopErr)
	}
	if code, waitErr := d.Wait(f.ctx); code != 1 || waitErr != nil {
		err = errors.Join(err, fmt.Errorf("the exit status is %d, %w", code, waitErr))
	}
	return err
}

func (f *storeFailures) tryRelease(row *storeFailure, api string) error {
	return f.tryCommand(row, api, "-release")
}

func (f *storeFailures) tryMigrate(row *storeFailure, api string) error {
	return f.tryCommand(row, api, "-etcd-migrate")
}

// tryCommand checks that a command fails with what is wanted.
func (f *storeFailures) tryCommand(row *storeFailure, api, command string) error {
	args, err := f.arguments(row, api)
	if err != nil {
		return err
	}
	p, err := f.client.Start("flanneld", slices.Concat([]string{daemonBinary, command}, args), nil, lab.ProcessOptions{})
	if err != nil {
		return err
	}
	code, err := p.Wait(f.ctx)
	if err != nil {
		return err
	}
	_, missing := findLine(p.Log(), slices.Concat(row.want, row.of[api]))
	if code != 1 || missing != "" {
		return fmt.Errorf("%s: the exit status is %d, %s; it says:\n%s", command, code, missing, p.Log())
	}
	return nil
}

// findLine returns a line that has all that is wanted, or else what is missing.
func findLine(log string, want []string) (line, missing string) {
	missing = "nothing is logged"
	for line := range strings.Lines(log) {
		if missing = lacksAll(line, want); missing == "" {
			return strings.TrimSpace(line), ""
		}
	}
	return "", missing
}

func lacksAll(text string, want []string) string {
	for _, w := range want {
		if !strings.Contains(text, w) {
			return fmt.Sprintf("%q is missing", w)
		}
	}
	return ""
}

// compareDocument checks that each line which was logged is in the document, and that
// nothing else is said there to be.
func (f *storeFailures) compareDocument() {
	f.t.Helper()
	if f.t.Failed() {
		return
	}
	rows := logTable(f.t, "### When etcd cannot be used")
	said := make(map[string]bool)
	for _, line := range f.said {
		known := false
		for _, row := range rows {
			if row.pattern.MatchString(line) {
				known, said[row.text] = true, true
			}
		}
		if !known {
			f.t.Errorf("the document does not have the line %s", line)
		}
	}
	for _, row := range rows {
		if !said[row.text] {
			f.t.Errorf("nothing that was logged is like %q in the document", row.text)
		}
	}
}

// logLine is a line of the log as the document quotes it, with "…" for what differs.
type logLine struct {
	text    string
	pattern *regexp.Regexp
}

var quoted = regexp.MustCompile("`[^`]+`")

// logTable returns the lines in the first column of the table below a heading.
func logTable(t testing.TB, heading string) []logLine {
	t.Helper()
	_, text, found := strings.Cut(string(must(os.ReadFile("../../Documentation/running.md"))(t)), "\n"+heading+"\n")
	if !found {
		t.Fatalf("the document has no %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n#")
	var lines []logLine
	for row := range strings.Lines(text) {
		cells := strings.Split(row, " | ")
		if len(cells) < 2 {
			continue
		}
		for _, q := range quoted.FindAllString(cells[0], -1) {
			q = strings.Trim(q, "`")
			parts := strings.Split(q, "…")
			for i := range parts {
				parts[i] = regexp.QuoteMeta(strings.TrimSpace(parts[i]))
			}
			lines = append(lines, logLine{q, regexp.MustCompile(strings.Join(parts, ".*"))})
		}
	}
	if len(lines) == 0 {
		t.Fatalf("the table below %q is empty", heading)
	}
	return lines
}
