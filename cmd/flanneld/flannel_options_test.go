package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// The command line of a host's first flannel, what a unit makes of variables that are not
// set, and an environment file with all that a later flannel may be given.
func TestFlannelsOptionsAreTaken(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, hostGW, nil)
	h := n.addNode(lab.HostOptions{})
	h.args = []string{
		"", "-etcd-endpoints= http://" + n.server.Addr.String() + ":1 ,, " + n.server.Addr.String() + ":2379,", "--etcd-prefix=/coreos.com/network/",
		"-etcd-keyfile=", "-etcd-certfile", "", "--etcd-cafile=", "--etcd-username=", "--etcd-password=",
		"--iface=", "--iface-regex=", "--iface-can-reach=", "--public-ip=", "--public-ipv6=",
		"-ip-masq=", "-ip-masq-fully-random-disable=F", "--ip-blackhole-route=0", "--iptables-resync=0", "--iptables-forward-rules=True",
		"--subnet-lease-renew-margin=60", "--kube-subnet-mgr=false", "--kube-api-url", "", "--kubeconfig-file=", "--kube-annotation-prefix=flannel.alpha.coreos.com",
		"--net-config-path=/etc/kube-flannel/net-conf.json", "--set-node-network-unavailable=true", "--healthz-ip=0.0.0.0", "--healthz-port=0",
		"-subnet-dir=/run/flannel/networks", "-listen=", "-remote=", "-remote-keyfile=", "-remote-certfile=", "-remote-cafile=", "-networks=", "-watch-networks=false",
		"-logtostderr=false", "-alsologtostderr", "-stderrthreshold=2", "--log_dir=" + filepath.Join(h.Dir, "logs"), "--log_file=", "--log_file_max_size=1800",
		"--skip_headers=false", "--skip_log_headers", "--one_output=true", "--add_dir_header=0", "--legacy_stderr_threshold_behavior",
		"-v=0", "-vmodule=", "-log_backtrace_at=:0", "-version=false", "-help=false", "",
	}
	for _, o := range h.args {
		if name, value, ok := strings.Cut(strings.TrimLeft(o, "-"), "="); ok && !strings.HasPrefix(name, "etcd-endpoints") {
			h.env = append(h.env, "FLANNELD_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+value)
		}
	}
	h.env = append(h.env, "FLANNELD_IFACE= ", `FLANNELD_PUBLIC_IP=""`)
	h.start()
	h.waitReady()
	fromEnv := n.addNode(lab.HostOptions{})
	fromEnv.env = h.env
	fromEnv.start()
	fromEnv.waitReady()
	for _, h := range n.nodes {
		h.waitPeers(soon, h.others()...)
		for text, times := range map[string]int{
			"bootstrap done": 1,
			"the log goes to stderr alone, for the service manager to keep: without effect are -logtostderr=false, -log_dir=": 1,
			"ignoring the environment variable": 0,
		} {
			if c := strings.Count(h.daemon.Log(), text); c != times {
				t.Errorf("%s: the log says %d times %q", h.Name, c, text)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(h.Dir, "logs")); err == nil {
		t.Error("there is a folder for the log")
	}
}
