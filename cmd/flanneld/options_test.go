package main

import (
	"errors"
	"flag"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"flanneld/network"
	"flanneld/pkg/ip"
	"flanneld/subnet/etcd"
)

func defaults() options {
	return options{
		etcd: etcd.Options{
			Endpoints: []string{"http://127.0.0.1:4001", "http://127.0.0.1:2379"},
			Prefix:    "/coreos.com/network",
		},
		etcdAPI:     apiAuto,
		subnetFile:  "/run/flannel/subnet.env",
		stateDir:    "/var/lib/flannel",
		cniTemplate: "bridge",
		renewMargin: time.Hour,
		probe:       20,
		masqMode:    "auto", forwardRules: true, fullyRandom: true,
	}
}

// check runs parse, which must succeed, and compares.
func check(t *testing.T, args, environ []string, want options) {
	t.Helper()
	var out strings.Builder
	o, err := parse(append([]string{"/opt/bin/flanneld"}, args...), environ, &out)
	if err != nil || o == nil || out.String() != "" {
		t.Fatalf("parse = %v, %v; it printed %q", o, err, out.String())
	}
	diff := cmp.Diff(want, *o, cmp.AllowUnexported(options{}),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b *regexp.Regexp) bool { return a.String() == b.String() }))
	if diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
}

// logLevel is klog's, which is the process's.
func logLevel(t *testing.T) flag.Value {
	t.Helper()
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(fs)
	v := fs.Lookup("v").Value
	old := v.String()
	t.Cleanup(func() { _ = v.Set(old) })
	return v
}

func TestParseDefaults(t *testing.T) { check(t, nil, nil, defaults()) }

// Every flag, by argv, by environment, and by both.
func TestParseFlags(t *testing.T) {
	level := logLevel(t)
	for _, test := range []struct {
		flag, value, other string
		set                func(*options)
	}{
		{"etcd-endpoints", "https://a:1,http://[::1]:2", "http://z", func(o *options) { o.etcd.Endpoints = []string{"https://a:1", "http://[::1]:2"} }},
		{"etcd-endpoints", " http://a:1 , http://b:2 ", "http://z", func(o *options) { o.etcd.Endpoints = []string{"http://a:1", "http://b:2"} }},
		{"etcd-endpoints", "a:1,,b,[::1]:2,::1,unix:///run/etcd.sock,", "http://z", func(o *options) {
			o.etcd.Endpoints = []string{"a:1", "b", "[::1]:2", "::1", "unix:///run/etcd.sock"}
		}},
		{"etcd-api", "2", "3", func(o *options) { o.etcdAPI = apiV2 }},
		{"etcd-api", "3", "auto", func(o *options) { o.etcdAPI = apiV3 }},
		{"etcd-api", "auto", "3", func(*options) {}},
		{"etcd-prefix", "/a/b", "/z", func(o *options) { o.etcd.Prefix = "/a/b" }},
		{"etcd-keyfile", "/a", "/z", func(o *options) { o.etcd.KeyFile = "/a" }},
		{"etcd-certfile", "/a", "/z", func(o *options) { o.etcd.CertFile = "/a" }},
		{"etcd-cafile", "/a", "/z", func(o *options) { o.etcd.CAFile = "/a" }},
		{"etcd-username", "a", "z", func(o *options) { o.etcd.Username = "a" }},
		{"etcd-password", "a=b c", "z", func(o *options) { o.etcd.Password = "a=b c" }},
		{"iface", "eth0", "eth9", func(o *options) { o.iface.Ifaces = []string{"eth0"} }},
		{"iface", "eth0,eth1", "eth9", func(o *options) { o.iface.Ifaces = []string{"eth0,eth1"} }},
		{"iface", "enp0s31f6np0v1x", "eth9", func(o *options) { o.iface.Ifaces = []string{"enp0s31f6np0v1x"} }},
		{"iface", "2001:db8:1:2::1234", "eth9", func(o *options) { o.iface.Ifaces = []string{"2001:db8:1:2::1234"} }},
		{"iface-regex", "^a,b$", "z", func(o *options) { o.iface.Regexes = []*regexp.Regexp{regexp.MustCompile("^a,b$")} }},
		{"iface-can-reach", "192.0.2.1", "192.0.2.9", func(o *options) { o.iface.CanReach = ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")} }},
		{"public-ip", "192.0.2.1", "192.0.2.9", func(o *options) { o.iface.PublicIP = ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")} }},
		{"iface-ipv6", "eth1", "eth9", func(o *options) { o.iface.IPv6Ifaces = []string{"eth1"} }},
		{"iface-can-reach", "2001:db8::1", "2001:db8::9", func(o *options) { o.iface.CanReach = ip.Addrs{V6: netip.MustParseAddr("2001:db8::1")} }},
		{"public-ipv6", "2001:db8::1", "2001:db8::9", func(o *options) { o.iface.PublicIP = ip.Addrs{V6: netip.MustParseAddr("2001:db8::1")} }},
		{"subnet-file", "/a/b", "/z", func(o *options) { o.subnetFile = "/a/b" }},
		{"state-dir", "/a/b", "/z", func(o *options) { o.stateDir = "/a/b" }},
		{"subnet-lease-renew-margin", "1", "9", func(o *options) { o.renewMargin = time.Minute }},
		{"subnet-lease-renew-margin", "1439", "9", func(o *options) { o.renewMargin = 1439 * time.Minute }},
		{"probe", "0", "9", func(o *options) { o.probe = 0 }},
		{"probe", "1000", "9", func(o *options) { o.probe = 1000 }},
		{"ip-masq", "true", "false", func(o *options) { o.ipMasq = true }},
		{"ip-masq-fully-random-disable", "true", "false", func(o *options) { o.fullyRandom = false }},
		{"iptables-forward-rules", "false", "true", func(o *options) { o.forwardRules = false }},
		{"iptables-resync", "7", "9", func(*options) {}},
		{"masq-mode", "iptables", "nftables", func(o *options) { o.masqMode = "iptables" }},
		{"masq-mode", "nftables", "auto", func(o *options) { o.masqMode = "nftables" }},
		{"v", "3", "9", func(*options) {}},
		{"vmodule", "daemon=2", "daemon=9", func(*options) {}},
	} {
		t.Run(test.flag+"="+test.value, func(t *testing.T) {
			variable := func(value string) []string {
				return []string{"PATH=/bin", envPrefix + strings.ToUpper(strings.ReplaceAll(test.flag, "-", "_")) + "=" + value}
			}
			want := defaults()
			test.set(&want)
			if !strings.HasPrefix(test.flag, "ip-masq") && test.flag != "iptables-forward-rules" { // those of yes and no
				check(t, []string{"-" + test.flag, test.value}, nil, want)
			}
			check(t, []string{"--" + test.flag + "=" + test.value}, variable(""), want)
			check(t, []string{"-" + test.flag + "=" + test.value}, variable(test.other), want)
			check(t, nil, variable(test.value), want)
			check(t, nil, variable(""), defaults())
			if test.flag == "v" && level.String() != test.value {
				t.Errorf("the log level is %s", level)
			}
		})
	}
}

func TestParseRepeatable(t *testing.T) {
	want := defaults()
	want.iface = network.Selection{
		Ifaces:  []string{"eth0", "192.0.2.1"},
		Regexes: []*regexp.Regexp{regexp.MustCompile("^a"), regexp.MustCompile("b$")},
	}
	check(t, []string{"-iface=eth0", "--iface", "192.0.2.1", "-iface-regex", "^a", "-iface-regex=b$"},
		[]string{"FLANNELD_IFACE=eth9", "FLANNELD_IFACE_REGEX=z"}, want)
}

func TestParseUnknownVariables(t *testing.T) {
	want := defaults()
	want.unknown = []string{"FLANNELD_ETCD_ENDPOINT", "FLANNELD_"}
	check(t, nil, []string{
		"FLANNELD_ETCD_ENDPOINT=http://a", "FLANNELD_EMPTY=", "FLANNELD_=x", "FLANNEL_MTU=1", "flanneld_iface=x", "HOME=/",
	}, want)
}

// Flags that print something are obeyed before anything else is looked at.
func TestParsePrints(t *testing.T) {
	bad := []string{"FLANNELD_PUBLIC_IP=nonsense", "FLANNELD_ETCD_PASSWORD=hunter2"}
	for _, test := range []struct {
		arg  string
		want []string
	}{
		{"-version", []string{version + "\n"}},
		{"--version=true", []string{version + "\n"}},
		{"-help", []string{"Usage: /opt/bin/flanneld [OPTION]...\n", "-etcd-endpoints URLs", "-version", "-vmodule", "(default /run/flannel/subnet.env)"}},
		{"-h", []string{"Usage: /opt/bin/flanneld [OPTION]...\n"}},
	} {
		var out strings.Builder
		o, err := parse([]string{"/opt/bin/flanneld", "-etcd-password=hunter2", test.arg}, bad, &out)
		if o != nil || err != nil {
			t.Errorf("%s: parse = %v, %v", test.arg, o, err)
		}
		for _, part := range test.want {
			if text := strings.ReplaceAll(out.String(), `"`, ""); !strings.Contains(text, part) {
				t.Errorf("%s: %q does not hold %q", test.arg, text, part)
			}
		}
		if strings.Contains(out.String(), "hunter2") {
			t.Errorf("%s printed the password", test.arg)
		}
	}
	// From the environment they are no orders.
	check(t, []string{"-version=false", "-help=false"}, []string{"FLANNELD_VERSION=true", "FLANNELD_HELP=true"}, defaults())
}

// Only one of the things that are done instead of the daemon's work can be.
func TestParseActions(t *testing.T) {
	for _, test := range []struct {
		args []string
		set  func(*options)
	}{
		{[]string{"-cleanup"}, func(o *options) { o.cleanup = true }},
		{[]string{"--release", "-cleanup=false"}, func(o *options) { o.release = true }},
		{[]string{"-etcd-migrate"}, func(o *options) { o.migrate = true }},
		{[]string{"-dry-run", "-etcd-migrate"}, func(o *options) { o.migrate, o.dryRun = true, true }},
		{[]string{"-status"}, func(o *options) { o.status = true }},
		{[]string{"-check-config", "/net.json"}, func(o *options) { o.checkConfig = "/net.json" }},
		{[]string{"-check-config=-", "-o=json"}, func(o *options) { o.checkConfig, o.json = "-", true }},
		{[]string{"-doctor", "-o=json"}, func(o *options) { o.doctor, o.json = true, true }},
		{[]string{"-status", "-o=text"}, func(o *options) { o.status = true }},
		{[]string{"-status", "-o", "json"}, func(o *options) { o.status, o.json = true, true }},
	} {
		want := defaults()
		test.set(&want)
		check(t, test.args, nil, want)
	}
	check(t, nil, []string{"FLANNELD_CLEANUP=true", "FLANNELD_RELEASE=true", "FLANNELD_ETCD_MIGRATE=true", "FLANNELD_DRY_RUN=true", "FLANNELD_CHECK_CONFIG=-", "FLANNELD_DOCTOR=true"}, defaults())
	for _, args := range [][]string{{"-cleanup", "-release"}, {"-release", "-etcd-migrate"}, {"-etcd-migrate", "-cleanup"}, {"-cleanup", "-etcd-migrate", "-release"}, {"-status", "-check-config=-"}, {"-doctor", "-status"}} {
		rejected(t, args, nil, "only one of -check-config, -cleanup, -doctor, -etcd-migrate, -release and -status")
	}
	rejected(t, []string{"-status", "-o", "yaml"}, nil, "is neither text nor json")
	rejected(t, []string{"-o", "json"}, nil, "-o is for -check-config, -doctor and -status")
	for _, args := range [][]string{{"-dry-run"}, {"-dry-run", "-cleanup"}, {"-dry-run", "-release"}} {
		rejected(t, args, nil, "-dry-run is for -etcd-migrate alone")
	}
}

func TestParseRejects(t *testing.T) {
	logLevel(t)
	for _, test := range []struct{ flag, value string }{
		{"etcd-endpoints", "ftp://a:1"},
		{"etcd-endpoints", "http://"},
		{"etcd-endpoints", "http://a:b"},
		{"etcd-endpoints", "http:/a:1"},
		{"etcd-endpoints", "http:a:1"},
		{"etcd-endpoints", "a:b"},
		{"etcd-endpoints", "[::1"},
		{"etcd-endpoints", "http://a:1 http://b:1"},
		{"etcd-endpoints", "http://a:1;http://b:1"},
		{"etcd-endpoints", "unix://"},
		{"etcd-endpoints", "[abc]:1"},
		{"etcd-endpoints", "[192.0.2.1]:1"},
		{"etcd-endpoints", "http://[abc]:1"},
		{"etcd-endpoints", "http://[192.0.2.1]:1"},
		{"etcd-api", "v3"},
		{"etcd-api", "1"},
		{"http-addr", "8286"},
		{"http-addr", "localhost:8286"},
		{"http-addr", "127.0.0.1:0"},
		{"http-addr", "127.0.0.1:65536"},
		{"http-addr", "::1:8286"},
		{"http-addr", "224.0.0.1:8286"},
		{"probe", "-1"},
		{"probe", "1001"},
		{"probe", "true"},
		{"iface-regex", "("},
		{"iface-can-reach", "eth0"},
		{"public-ip", "nonsense"},
		{"public-ip", "fc00::1"},
		{"public-ip", "::ffff:192.0.2.1"},
		{"public-ip", "0.0.0.0"},
		{"public-ip", "127.0.0.1"},
		{"public-ip", "224.0.0.1"},
		{"public-ip", "255.255.255.255"},
		{"public-ip", "192.0.2.1/24"},
		{"masq-mode", "nft"},
		{"iptables-resync", "soon"},
		{"ip-masq", "maybe"},
		{"subnet-lease-renew-margin", "0"},
		{"subnet-lease-renew-margin", "1440"},
		{"subnet-lease-renew-margin", "-5"},
		{"subnet-lease-renew-margin", "60m"},
		{"subnet-lease-renew-margin", "60\n5"},
		{"subnet-lease-renew-margin", "99999999999999999999"},
		{"v", "x"},
		{"vmodule", "x"},
	} {
		t.Run(test.flag+"="+test.value, func(t *testing.T) {
			quoted := strings.ReplaceAll(test.value, "\n", `\n`)
			variable := envPrefix + strings.ToUpper(strings.ReplaceAll(test.flag, "-", "_"))
			rejected(t, []string{"-" + test.flag + "=" + test.value}, nil, "-"+test.flag, `"`+quoted+`"`)
			rejected(t, nil, []string{variable + "=" + test.value}, variable, `"`+quoted+`"`)
		})
	}
	rejected(t, []string{"-iface=enp0s31f6np0v1234"}, nil, "-iface", "enp0s31f6np0v1234", "15 characters")
	rejected(t, nil, []string{"FLANNELD_IFACE=eth0:1"}, "FLANNELD_IFACE", "eth0:1", "colon")
	rejected(t, []string{"-etcd-endpoints=http://192.0.2.1:65536"}, nil, "-etcd-endpoints", "65536", "between 1 and 65535")
	rejected(t, []string{"-etcd-endpoints=192.0.2.1:0"}, nil, "-etcd-endpoints", "port 0", "between 1 and 65535")
	rejected(t, []string{"-no-such-flag"}, nil, "-no-such-flag")
	rejected(t, []string{"-iface"}, nil, "-iface", "needs an argument")
	rejected(t, []string{"-version=maybe"}, nil, "-version", `"maybe"`)
	rejected(t, []string{"-iface", "eth0", "eth1"}, nil, `"eth1"`)
	rejected(t, []string{"start"}, nil, `"start"`)
}

// rejected checks that parse fails, and that what it prints holds the parts,
// says how to get help, and is short.
func rejected(t *testing.T, args, environ []string, parts ...string) {
	t.Helper()
	var out strings.Builder
	o, err := parse(append([]string{"/opt/bin/flanneld"}, args...), environ, &out)
	if o != nil || !errors.Is(err, errUsage) {
		t.Errorf("%q %q: parse = %v, %v, want errUsage", args, environ, o, err)
	}
	for _, part := range append(parts, "Usage: /opt/bin/flanneld [OPTION]...", "-help") {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q %q: printed %q, which does not tell %q", args, environ, out.String(), part)
		}
	}
	if strings.Count(out.String(), "\n") > 3 {
		t.Errorf("%q %q: printed %q", args, environ, out.String())
	}
}

// A URL may hold a password, and a bad one may hold it anywhere.
func TestParseKeepsPasswords(t *testing.T) {
	for _, url := range []string{"htp://root:hunter2@a", "root:hunter2@a", "root:hunter2@a:1", "http://root:hunter2@a:b", "http://root:hun/hunter2@a", "http://root:x,hunter2@a", "http://root:hunter2,y@a", `http://root:"hunter2"@a:b`} {
		for _, args := range [][]string{{"-etcd-endpoints", url}, {"-etcd-endpoints=http://a," + url}, nil} {
			environ := []string{"FLANNELD_ETCD_PASSWORD=hunter2"}
			if args == nil {
				environ = append(environ, "FLANNELD_ETCD_ENDPOINTS="+url)
			}
			var out strings.Builder
			if _, err := parse(append([]string{"flanneld"}, args...), environ, &out); err == nil {
				t.Errorf("%s was accepted", url)
			}
			if strings.Contains(out.String(), "hunter2") || !strings.Contains(out.String(), "ETCD_ENDPOINTS") && !strings.Contains(out.String(), "etcd-endpoints") {
				t.Errorf("%s: printed %q", url, out.String())
			}
		}
	}
}
