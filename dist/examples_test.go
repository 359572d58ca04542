package dist_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// shown are what documents have that is not to be run: by document, the beginnings.
var shown = map[string][]string{
	"Documentation/aws-vpc.md":       {`{"Network": `, "this is the instance "},
	"Documentation/configuration.md": {"{\n", "network configuration: "},
	"Documentation/design.md":        {"subnet.Store ", "  TUN read "},
	"Documentation/leases.md":        {"waiting: ", "this subnet now belongs to "},
	"Documentation/masquerade.md":    {"rules for packets are ", "table ip ", "pods' packets are let through ", "forwarding by ", "packets are kept from "},
	"Documentation/running.md":       {"FLANNEL_NETWORK=", "using version 3 ", "ip link delete flannel0 ", "10.5.3.0/24: not reachable", "# /etc/systemd/networkd.conf"},
	"Documentation/systemd.md":       {"Active: ", "[Unit]\n", "[Service]\n"},
	"Documentation/vagrant.md":       {"waiting: "},
}

func isShown(document string, b block) bool {
	return slices.ContainsFunc(shown[document], func(s string) bool { return strings.HasPrefix(b.script, s) })
}

// elsewhere are commands that other tests run: by document and beginning, the test's
// name. Those which it does not read from the document it runs in some other form.
var elsewhere = map[[2]string]string{
	{"Documentation/aws-vpc.md", ""}:                         "TestAWSVPC",
	{"Documentation/cloud-config.md", "cloud-init schema"}:   "TestCloudConfigSchema",
	{"Documentation/cloud-config.md", "etcdctl put"}:         "TestFromScratch",
	{"Documentation/cloud-config.md", "cloud-init status"}:   "TestCloudConfig",
	{"Documentation/cni.md", "install"}:                      "TestCNIDocument",
	{"Documentation/cni.md", "$ ip address show"}:            "TestCNIDocument",
	{"Documentation/cni.md", "ip netns add pod"}:             "TestCNIDocument",
	{"Documentation/configuration.md", "$ kill -USR1"}:       "TestUDPRestart",
	{"Documentation/docker.md", "docker exec"}:               "TestDocker",
	{"Documentation/docker.md", "$ docker run"}:              "TestDocker",
	{"Documentation/docker.md", "mk-docker-opts.sh"}:         "TestDocker",
	{"Documentation/docker.md", "echo FLANNELD_IP_MASQ"}:     "TestDockerUnit",
	{"Documentation/docker.md", "iptables -t raw"}:           "TestDirectRouting",
	{"Documentation/docker.md", "systemctl"}:                 "TestDockerUnit",
	{"Documentation/installing.md", "docker"}:                "TestImage",
	{"Documentation/installing.md", "dpkg"}:                  "TestPackages",
	{"Documentation/installing.md", "systemctl"}:             "TestPackages",
	{"Documentation/installing.md", "sha256sum"}:             "TestReleaseIsReproducible",
	{"Documentation/installing.md", "tar"}:                   "TestArchive",
	{"Documentation/running.md", "flanneld -etcd-endpoints"}: "TestFromScratch",
	{"Documentation/docker.md", "rm "}:                       "TestDockerUnit",
	{"Documentation/systemd.md", "install"}:                  "TestBackends",
	{"Documentation/systemd.md", "mkdir -p /etc/systemd/"}:   "TestOrder",
	{"Documentation/systemd.md", "systemctl status"}:         "TestOrder",
	{"Documentation/systemd.md", "systemd-analyze security"}: "TestExposure",
	{"Documentation/vagrant.md", "flanneld"}:                 "TestSameAddressOnDefaultRoute",
	{"Documentation/vagrant.md", "$ vagrant"}:                "TestVagrantMachines", // as far as that goes without Vagrant
}

// varies is what differs from host to host, in the order in which it is looked for, and an
// expression for it. Backslashes are as regexp.QuoteMeta leaves them.
var (
	varies      = regexp.MustCompile(`[0-9a-f]{2}(?::[0-9a-f]{2}){5}|\b[0-9]+\b|\\\.\\\.\\\.|\s+`)
	alternative = map[byte]string{':': `[0-9a-f:]{17}`, '.': `.*`, ' ': `\s+`}
)

// shape is an expression for what looks like a line of a document: with other
// numbers and addresses, and with anything in the place of three dots.
func shape(line string) *regexp.Regexp {
	line = strings.ReplaceAll(strings.TrimSpace(line), "…", "...")
	return regexp.MustCompile(varies.ReplaceAllStringFunc(regexp.QuoteMeta(line), func(part string) string {
		for mark, text := range alternative {
			if strings.IndexByte(part, mark) >= 0 {
				return text
			}
		}
		return `[0-9]+`
	}))
}

// examples is a lab in which the commands of the documents have a meaning, and which of
// them were run.
type examples struct {
	*network
	blocks map[string][]block // by document
	ran    map[[2]string]bool // document and script
}

// find returns the first block of a document that begins so and was not run.
func (e *examples) find(document, beginning string) block {
	e.t.Helper()
	for _, b := range e.blocks[document] {
		if key := [2]string{document, b.script}; strings.HasPrefix(b.script, beginning) && !e.ran[key] {
			e.ran[key] = true
			return b
		}
	}
	e.t.Fatalf("%s has no commands that begin with %q", document, beginning)
	return block{}
}

// run runs a document's commands on a host. What the document shows as their output
// must be like what they print.
func (e *examples) run(h *host, document, beginning string) string {
	e.t.Helper()
	return e.show(document, e.find(document, beginning).script, h.shell)
}

// show runs what a document has as a script, by a shell.
func (e *examples) show(document, script string, shell func(string) string) string {
	e.t.Helper()
	if !strings.HasPrefix(script, "$ ") {
		return shell(script)
	}
	var all string
	for example := range strings.SplitSeq(strings.TrimPrefix(script, "$ "), "\n$ ") {
		command, shown, _ := strings.Cut(example, "\n")
		e.wait(soon, fmt.Sprintf("what %s shows", document), func() string {
			out := shell(command)
			for line := range strings.Lines(shown) {
				if !shape(line).MatchString(out) {
					return fmt.Sprintf("%q prints no %q but\n%s", command, line, out)
				}
			}
			all += out
			return ""
		})
	}
	return all
}

// shell runs commands. The etcd that they do not name is the lab's.
func (h *host) shell(script string) string {
	h.n.t.Helper()
	endpoint := h.n.etcd.Endpoint()
	out, err := h.sys.Run(h.n.ctx, "env", "ETCDCTL_ENDPOINTS="+endpoint, "FLANNELD_ETCD_ENDPOINTS="+endpoint,
		"/bin/sh", "-euc", "sudo() { exec \"$@\"; }\n"+script)
	if err != nil {
		h.n.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// daemons runs each line of a document, which starts a daemon, until that has written
// the subnet file. It returns what they logged.
func (e *examples) daemons(h *host, document, beginning string) string {
	e.t.Helper()
	var log string
	for line := range strings.Lines(e.find(document, beginning).script) {
		log += h.shell("rm -f /run/flannel/subnet.env\n" + strings.TrimSpace(line) + ` 2>&1 & daemon=$!
for try in $(seq 200); do
	[ ! -e /run/flannel/subnet.env ] || break
	sleep 0.1
done
kill $daemon
wait $daemon
[ -e /run/flannel/subnet.env ]
`)
	}
	return log
}

// The commands in the README and in the documents that are about the daemon itself work,
// and what is shown of their output is what they print.
func TestExamples(t *testing.T) {
	t.Parallel()
	e := newExamples(t)
	h, other := e.hosts[0], e.hosts[1]
	const (
		running, configuration = "Documentation/running.md", "Documentation/configuration.md"
		leases                 = "Documentation/leases.md"
		prefix                 = "/coreos.com/network"
	)
	restart := func() {
		for _, h := range e.hosts {
			h.run("systemctl", "restart", "flanneld")
		}
	}

	h.shell("etcdctl put " + prefix + `/config '{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}'`)
	for _, beginning := range []string{"flanneld -iface=", "flanneld -iface-regex="} {
		for line := range strings.Lines(e.daemons(h, running, beginning)) {
			if strings.Contains(line, "using interface") && !strings.Contains(line, "using interface eth1 with address 172.17.8.") {
				t.Errorf("with %s… the log has %s", beginning, line)
			}
		}
	}

	h.shell("etcdctl del --prefix " + prefix + "/subnets/") // with addresses of eth1
	restart()
	e.run(h, running, "$ systemctl status")
	e.run(h, configuration, "$ ip route show proto 70")
	e.run(h, leases, "$ etcdctl get --prefix "+prefix+"/subnets/")
	h.shell("etcdctl put " + prefix + `/config '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'`)
	restart()
	e.run(h, configuration, "$ ip -d link show flannel.1")
	h.shell("etcdctl put " + prefix + `/config '{"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}}'`)
	restart()
	e.run(h, configuration, "$ ip -d link show flannel0")
	e.run(h, leases, "etcdctl put "+prefix+"/subnets/")

	const copied = "0123456789abcdef0123456789abcdef"
	h.shell("echo " + copied + " >/etc/machine-id")
	e.run(h, leases, "rm -f /etc/machine-id")
	if id := h.shell("cat /etc/machine-id"); len(id) != len(copied+"\n") || strings.Contains(id, copied) {
		t.Errorf("the machine ID is %q", id)
	}

	h.shell("ip route add 10.5.77.0/24 dev eth0 proto boot")
	e.run(h, running, "ip route flush proto boot")
	if left := h.shell("ip route show 10.5.77.0/24"); left != "" {
		t.Errorf("there is still %s", left)
	}
	e.run(other, running, "systemctl disable --now flanneld")
	if _, err := os.Stat(filepath.Join(other.sys.Root, "run/flannel/subnet.env")); err == nil {
		t.Error("the subnet file is still there")
	}

	h.shell("systemctl stop flanneld; etcdctl del --prefix " + prefix)
	h.shell("ETCDCTL_API=2 etcdctl set " + prefix + `/config '{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}'`)
	e.run(h, running, "flanneld -etcd-migrate -dry-run")
	e.run(h, running, "ETCDCTL_API=2 etcdctl rm")
	if config := h.shell("etcdctl get --print-value-only " + prefix + "/config"); !strings.Contains(config, "host-gw") {
		t.Errorf("after the migration the configuration is %q", config)
	}
	e.run(h, running, "for i in")

	e.wantAll()
}

// newExamples returns a lab of two hosts like those of the documents: they are 192.168.0.2 and
// 192.168.0.3, etcd is on 192.168.0.10, and there is a network 172.17.8.0/24 on eth1.
func newExamples(t *testing.T) *examples {
	t.Helper()
	e := &examples{network: newLab(t), blocks: make(map[string][]block), ran: make(map[[2]string]bool)}
	documents, err := filepath.Glob("../Documentation/*.md")
	check(t, err)
	for _, path := range append(documents, "../README.md") {
		e.blocks[strings.TrimPrefix(path, "../")] = blocks(t, path)
	}
	sw, err := e.lab.AddSwitch("switch", netip.MustParsePrefix("192.168.0.0/24"))
	check(t, err)
	second, err := e.lab.AddSwitch("second", netip.MustParsePrefix("172.17.8.0/24"))
	check(t, err)
	for i := range e.hosts {
		h, err := e.lab.AddHost(fmt.Sprintf("host%d", i+1), sw, lab.HostOptions{})
		check(t, err)
		check(t, h.AddNIC("eth1", second, netip.Addr{}))
		e.hosts[i] = &host{Host: h, n: e.network}
	}
	server, err := e.lab.AddHost("server", sw, lab.HostOptions{NoAddress: true})
	check(t, err)
	server.Addr = netip.MustParseAddr("192.168.0.10")
	check(t, server.AddAddr("eth0", netip.PrefixFrom(server.Addr, 24)))
	e.etcd, err = e.lab.StartEtcd(e.ctx, server, lab.EtcdOptions{})
	check(t, err)
	for _, h := range e.hosts {
		h.boot(map[string]string{"/etc/flannel/options.env": e.options()}, "flanneld.service")
		h.run("systemctl", "stop", "flanneld")
	}
	return e
}

// wantAll checks that all commands in the documents were run, here or in another test.
func (e *examples) wantAll() {
	e.t.Helper()
	tests := allTests(e.t)
	for document, all := range e.blocks {
		for _, b := range all {
			if b.where != "" || e.ran[[2]string{document, b.script}] || isShown(document, b) {
				continue // what says where it is to be run has a test that runs it all
			}
			if strings.HasPrefix(b.script, "make ") {
				wantTargets(e.t, document, b.script)
				continue
			}
			e.wantElsewhere(document, b, tests)
		}
	}
}

// wantElsewhere checks that a test is known which runs the commands, and that it is there.
func (e *examples) wantElsewhere(document string, b block, tests string) {
	e.t.Helper()
	for at, test := range elsewhere {
		if at[0] == document && strings.HasPrefix(b.script, at[1]) {
			if !strings.Contains(tests, "func "+test+"(") {
				e.t.Errorf("there is no %s, which should run the commands of %s", test, document)
			}
			return
		}
	}
	e.t.Errorf("%s has this, which no test runs; what is not to be run is to be named in shown:\n%s", document, b.script)
}

// wantTargets checks that the Makefile has what the commands ask it for.
func wantTargets(t testing.TB, document, script string) {
	t.Helper()
	makefile := read(t, "../Makefile")
	for line := range strings.Lines(script) {
		words := strings.Fields(line)
		if words[0] == "make" && !strings.Contains(makefile, "\n"+words[1]+":") {
			t.Errorf("%s has %q, and the Makefile no such target", document, line)
		}
	}
}

// allTests is the text of all test files.
func allTests(t testing.TB) string {
	t.Helper()
	var all strings.Builder
	for _, pattern := range []string{"*_test.go", "../cmd/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		check(t, err)
		for _, file := range files {
			all.WriteString(read(t, file))
		}
	}
	return all.String()
}
