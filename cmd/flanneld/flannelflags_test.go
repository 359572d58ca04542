package main

import (
	"flag"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"
)

// Spellings of nothing: what templates, environment files and manifests make of a variable
// that is not set.
var blank = []string{"", " ", "\t", "\n", `""`, "''", `" "`, "\"\"\n"}

// Spellings of no and yes that Go's flag package knows.
var (
	no  = []string{"false", "False", "FALSE", "f", "F", "0", " false ", "false\n", `"false"`}
	yes = []string{"true", "True", "TRUE", "t", "T", "1", " true ", "true\n", "'true'"}
)

func with(lists ...[]string) []string { return slices.Concat(lists...) }

// flannelOptions are all options of flannel 0.4 to 0.28: values that ask for nothing, and
// for nothing but the default, and values that ask for what is not here, with a word of the
// remedy.
var flannelOptions = []struct {
	name    string
	isBool  bool
	nothing []string
	refused []string
	remedy  string
	argv    bool // not an option of the environment
}{
	{name: "etcd-endpoints", nothing: with(blank, []string{
		",", " , ", "http://127.0.0.1:4001,http://127.0.0.1:2379", "http://127.0.0.1:4001,http://127.0.0.1:2379,",
		" http://127.0.0.1:4001 , http://127.0.0.1:2379 ,, ", `"http://127.0.0.1:4001, http://127.0.0.1:2379"`,
	})},
	{name: "etcd-prefix", nothing: []string{"/coreos.com/network", " /coreos.com/network\n", `"/coreos.com/network"`}},
	{name: "etcd-keyfile", nothing: blank},
	{name: "etcd-certfile", nothing: blank},
	{name: "etcd-cafile", nothing: blank},
	{name: "etcd-username", nothing: blank},
	{name: "etcd-password", nothing: []string{""}},
	{name: "iface", nothing: blank},
	{name: "iface-regex", nothing: blank},
	{name: "iface-can-reach", nothing: blank},
	{name: "public-ip", nothing: blank},
	{name: "public-ipv6", nothing: blank},
	{name: "subnet-file", nothing: with(blank, []string{"/run/flannel/subnet.env", `"/run/flannel/subnet.env"`, "/run/flannel/subnet.env\n"})},
	{name: "subnet-dir", nothing: with(blank, []string{"/run/flannel/networks", "/else/where"})},
	{name: "ip-masq", isBool: true, nothing: with(blank, no)},
	{name: "ip-masq-fully-random-disable", isBool: true, nothing: with(blank, no)},
	{name: "ip-blackhole-route", isBool: true, nothing: with(blank, no), refused: yes, remedy: "leave it out"},
	{name: "iptables-resync", nothing: with(blank, []string{"5", "0", "60", "0x10", "-1", " 5 ", "5\n"}), refused: []string{"often"}},
	{name: "iptables-forward-rules", isBool: true, nothing: with(blank, yes)},
	{name: "subnet-lease-renew-margin", nothing: with(blank, []string{"60", "060"[1:], "0x3c", " 60\n", `"60"`}), refused: []string{"0", "1440"}, remedy: "1 to 1439"},
	{name: "kube-api-url", nothing: with(blank, []string{"https://10.0.0.1:6443"})},
	{name: "kubeconfig-file", nothing: with(blank, []string{"/etc/kubernetes/admin.conf"})},
	{name: "kube-annotation-prefix", nothing: with(blank, []string{"flannel.alpha.coreos.com"})},
	{name: "net-config-path", nothing: with(blank, []string{"/etc/kube-flannel/net-conf.json", "/else/where"})},
	{name: "set-node-network-unavailable", isBool: true, nothing: with(blank, yes, no), refused: []string{"perhaps"}},
	{name: "healthz-ip", nothing: with(blank, []string{"0.0.0.0", "127.0.0.1", "::"}), refused: []string{"eth0", "192.0.2.1:8081", "224.0.0.1"}, remedy: "is not an IP address"},
	{name: "healthz-port", nothing: with(blank, []string{"0", "00", "0x0", " 0 ", "0\n"}), refused: []string{"-1", "65536", "http"}, remedy: "is not a port, 0 to 65535"},
	{name: "listen", nothing: with(blank, []string{","}), refused: []string{"0.0.0.0:8888", "fd://"}, remedy: "-etcd-endpoints"},
	{name: "remote", nothing: with(blank, []string{","}), refused: []string{"10.0.0.1:8888"}, remedy: "-etcd-endpoints"},
	{name: "remote-keyfile", nothing: with(blank, []string{"/etc/ssl/key.pem"})},
	{name: "remote-certfile", nothing: with(blank, []string{"/etc/ssl/cert.pem"})},
	{name: "remote-cafile", nothing: with(blank, []string{"/etc/ssl/ca.pem"})},
	{name: "networks", nothing: with(blank, []string{",", " , "}), refused: []string{"blue", "blue,green"}, remedy: "-etcd-prefix"},
	{name: "watch-networks", isBool: true, nothing: with(blank, no), refused: yes, remedy: "leave it out"},
	{name: "v", nothing: with(blank, []string{"0", " 0\n"}), refused: []string{"much"}},
	{name: "vmodule", nothing: with(blank, []string{","}), refused: []string{"daemon"}},
	{name: "log_backtrace_at", nothing: with(blank, []string{":0"}), refused: []string{"daemon:x"}},
	{name: "logtostderr", isBool: true, nothing: with(blank, yes), refused: []string{"maybe"}},
	{name: "alsologtostderr", isBool: true, nothing: with(blank, yes, no), refused: []string{"maybe"}},
	{name: "stderrthreshold", nothing: with(blank, []string{"2", "ERROR", "error"}), refused: []string{"LOUD"}},
	{name: "log_dir", nothing: blank},
	{name: "log_file", nothing: blank},
	{name: "log_file_max_size", nothing: with(blank, []string{"1800", "0", "10"}), refused: []string{"large"}},
	{name: "skip_headers", isBool: true, nothing: with(blank, no), refused: []string{"maybe"}},
	{name: "skip_log_headers", isBool: true, nothing: with(blank, yes, no), refused: []string{"maybe"}},
	{name: "one_output", isBool: true, nothing: with(blank, yes, no), refused: []string{"maybe"}},
	{name: "add_dir_header", isBool: true, nothing: with(blank, no), refused: []string{"maybe"}},
	{name: "legacy_stderr_threshold_behavior", isBool: true, nothing: with(blank, yes), refused: []string{"maybe"}},
	{name: "alsologtostderrthreshold", nothing: with(blank, []string{"INFO"})},
	{name: "version", isBool: true, nothing: with(blank, no), refused: []string{"maybe"}, argv: true},
	{name: "help", isBool: true, nothing: with(blank, no), refused: []string{"maybe"}, argv: true},
}

func variableOf(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// keepLogging restores klog's flags, which are the process's.
func keepLogging(t *testing.T) {
	t.Helper()
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(fs)
	fs.VisitAll(func(f *flag.Flag) {
		was := f.Value.String()
		if f.Name == "log_backtrace_at" {
			was = "" // it does not take what it says
		}
		t.Cleanup(func() { _ = f.Value.Set(was) })
	})
}

// Whatever option a flannel has had is taken with a value that asks for nothing, by all ways
// to give it; and one that asks for what is not here is refused, with the way out.
func TestOptionsOfEveryFlannel(t *testing.T) {
	keepLogging(t)
	for _, o := range flannelOptions {
		t.Run(o.name, func(t *testing.T) {
			for _, v := range o.nothing {
				check(t, []string{"-" + o.name + "=" + v}, nil, defaults())
				check(t, []string{"--" + o.name + "=" + v}, nil, defaults())
				check(t, nil, []string{variableOf(o.name) + "=" + v}, defaults())
				if !o.isBool {
					check(t, []string{"-" + o.name, v, "-ip-masq=false"}, nil, defaults())
					check(t, []string{"--" + o.name, v}, nil, defaults())
				}
			}
			if o.isBool && slices.Contains(o.nothing, "true") {
				check(t, []string{"-" + o.name}, nil, defaults())
			}
			for _, v := range o.refused {
				quoted := strings.ReplaceAll(v, "\n", `\n`)
				rejected(t, []string{"-" + o.name + "=" + v}, nil, "-"+o.name, `"`+quoted+`"`, o.remedy)
				rejected(t, []string{"--" + o.name + "=" + v}, nil, "-"+o.name, `"`+quoted+`"`, o.remedy)
				if !o.argv {
					rejected(t, nil, []string{variableOf(o.name) + "=" + v}, variableOf(o.name), `"`+quoted+`"`, o.remedy)
				}
			}
			if o.isBool && slices.Contains(o.refused, "true") {
				rejected(t, []string{"-" + o.name}, nil, "flag "+o.name, o.remedy)
			}
		})
	}
}

// All of them at once, on the command line and in the environment.
func TestAllOptionsOfFlannelAtOnce(t *testing.T) {
	keepLogging(t)
	for i := range max(len(blank), len(no)) {
		var args, environ []string
		for _, o := range flannelOptions {
			v := o.nothing[i%len(o.nothing)]
			args = append(args, "--"+o.name+"="+v)
			environ = append(environ, variableOf(o.name)+"="+v)
		}
		check(t, args, nil, defaults())
		check(t, nil, environ, defaults())
		check(t, args, environ, defaults())
	}
}

// Values come with what manifests and files leave around them.
func TestValuesAreTrimmed(t *testing.T) {
	want := defaults()
	want.iface.Ifaces = []string{"eth1"}
	want.iface.Regexes = []*regexp.Regexp{regexp.MustCompile("^eth|^ens")}
	want.subnetFile = "/a/subnet.env"
	want.renewMargin = 30 * time.Minute
	want.ipMasq = true
	want.etcd.Prefix = "/a"
	want.etcd.Username = "flannel"
	want.etcd.Password = " \"as it is\"\n"
	check(t, []string{
		`--iface="eth1"`, "--iface=", "-iface-regex= ^eth|^ens\n", `--subnet-file='/a/subnet.env'`, "-subnet-lease-renew-margin", " 30",
		"--ip-masq= True ", `-etcd-prefix="/a"`, "-etcd-username=flannel\n", "-etcd-password= \"as it is\"\n",
	}, nil, want)
	check(t, nil, []string{
		"FLANNELD_IFACE=\"eth1\"", "FLANNELD_IFACE_REGEX= ^eth|^ens", "FLANNELD_SUBNET_FILE='/a/subnet.env'\n",
		"FLANNELD_SUBNET_LEASE_RENEW_MARGIN=30\n", "FLANNELD_IP_MASQ='True'", "FLANNELD_ETCD_PREFIX=/a ",
		"FLANNELD_ETCD_USERNAME='flannel'", "FLANNELD_ETCD_PASSWORD= \"as it is\"\n",
	}, want)
}

// An empty value means something on the command line alone.
func TestEmptyPrefixAndFolder(t *testing.T) {
	want := defaults()
	want.etcd.Prefix, want.stateDir = "", ""
	check(t, []string{"-etcd-prefix=", "-state-dir", ""}, nil, want)
	check(t, nil, []string{"FLANNELD_ETCD_PREFIX=", "FLANNELD_STATE_DIR=\"\""}, defaults())
}

// A unit's ${VARIABLE} that is not set is an empty argument.
func TestEmptyArguments(t *testing.T) {
	want := defaults()
	want.iface.Ifaces = []string{"eth1"}
	want.ipMasq = true
	check(t, []string{"", "-iface=eth1", " ", `""`, "-ip-masq", ""}, nil, want)
	rejected(t, []string{"", "start"}, nil, `"start"`)
	rejected(t, []string{"-ip-masq", "true", "-iface=eth1"}, nil, `"true"`, "-ip-masq=true")
	rejected(t, []string{"-iface", "eth0", "true"}, nil, `"true"`)
}

// What the older loggers' options ask for is done, or there is a word on it.
func TestLoggersOptions(t *testing.T) {
	keepLogging(t)
	want := defaults()
	want.logFiles = []string{"-logtostderr=false", "-log_dir=/var/log", "-log_file=/a"}
	check(t, []string{"--logtostderr=false", "-log_dir", "/var/log", "-log_file=/a", "-alsologtostderr", "-stderrthreshold=INFO"}, nil, want)
	want.logFiles = []string{"-logtostderr=0", "-log_dir=/var/log"}
	check(t, nil, []string{"FLANNELD_LOGTOSTDERR=0", "FLANNELD_LOG_DIR=/var/log", "FLANNELD_ALSOLOGTOSTDERR=true"}, want)

	check(t, []string{"-skip_headers", "-add_dir_header", "-stderrthreshold=WARNING", "-legacy_stderr_threshold_behavior=false"}, nil, defaults())
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(fs)
	for name, want := range map[string]string{"skip_headers": "true", "add_dir_header": "true", "stderrthreshold": "1", "legacy_stderr_threshold_behavior": "false", "logtostderr": "true"} {
		if is := fs.Lookup(name).Value.String(); is != want {
			t.Errorf("%s of the logger is %s, want %s", name, is, want)
		}
	}
}
