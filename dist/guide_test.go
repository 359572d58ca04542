package dist_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// substitution is a text of a document that is replaced, and the reason.
type substitution struct{ document, text, by, why string }

// substitutions are all that is changed in commands before they are run. Where by is empty,
// it is known when the test runs.
var substitutions = []substitution{
	{"README.md", "make demo\n", "make demo ONCE=1\n", "it stays up until Ctrl-C"},
	{"Documentation/cloud-config.md", "https://github.com/etcd-io/etcd/releases/download/v3.6.16/", "", "in dist/cloud-config.yaml, which the document is about: there may be no internet"},
	{"Documentation/vagrant.md", "flanneld -iface", "FLANNELD_ETCD_ENDPOINTS=http://172.17.8.101:2379 flanneld -iface", oneOption},
	{"Documentation/vagrant.md", "10.5.34.2", "", "the container's address"},
	{"Documentation/vagrant.md", "ARCHES=amd64", "ARCHES=" + runtime.GOARCH, "tests run on other machines, too"},
	{"Documentation/installing.md", "make release\n", "make release ARCHES=" + runtime.GOARCH + "\n", "all architectures take minutes"},
	{"Documentation/installing.md", "amd64", runtime.GOARCH, "tests run on other machines, too"},
	{"Documentation/installing.md", "192.168.0.2:2379", "", "systemd.md has another address of etcd"},
	{"Documentation/docker.md", "10.5.50.2", "", "the other container's address"},
	{"Documentation/aws-vpc.md", "rtb-0123456789abcdef0", "", newIDs},
	{"Documentation/aws-vpc.md", "rtb-0fedcba9876543210", "", newIDs},
	{"Documentation/aws-vpc.md", "eni-0123456789abcdef0", "", newIDs},
	{"Documentation/aws-vpc.md", "eni-0fedcba9876543210", "", newIDs},
	{"Documentation/aws-vpc.md", "i-0123456789abcdef0", "", newIDs},
	{"Documentation/aws-vpc.md", "10.5.34.0/24", "", "the subnet that a host has drawn"},
	{"Documentation/aws-vpc.md", "10.5.12.0/24", "", "the subnet that a host has drawn"},
	{"Documentation/kubernetes.md", "kubectl apply -f -", "kubectl apply --dry-run=server -f -", "the example's cluster keeps the network that it has"},
	{"Documentation/kubernetes.md", "ctr --namespace k8s.io run", "ctr --namespace k8s.io run --cpu-shares=0", "the lab's systemd has no control group of processors"},
	{"Documentation/running.md", "flanneld -iface", "FLANNELD_ETCD_ENDPOINTS=http://192.168.0.2:2379 flanneld -iface", oneOption},
}

const (
	noKubelet = "the lab has Kubernetes' API and controllers, and not kubeadm, kubelet and a scheduler, which take the whole machine"
	noK3s     = "k3s is no part of the lab, as it cannot be built from Go's modules alone"
)

const oneOption = "the commands show one option, beside those that a host has"

const newIDs = "the cloud has IDs of its own"

// unrun are the blocks that are not run, by document and beginning.
var unrun = []struct{ document, beginning, why string }{
	{"README.md", "make test", "it would run this test"},
	{"Documentation/contributing.md", "make build", "build, demo and release are run for README.md and installing.md; test would run this test, and bench and lint take minutes"},
	{"Documentation/design.md", "subnet.Store ", "a picture"},
	{"Documentation/design.md", "etcd ──► ", "a picture"},
	{"Documentation/design.md", "  TUN read ", "a picture"},
	{"Documentation/kubernetes.md", "kubeadm init", noKubelet},
	{"Documentation/kubernetes.md", "kubectl run one", noKubelet},
	{"Documentation/kubernetes.md", "k3s server", noK3s},
	{"Documentation/kubernetes.md", "mkdir -p /opt/cni/bin", noK3s},
	{"Documentation/kubernetes.md", "k3s ctr images import", noK3s},
	{"Documentation/kubernetes.md", "kubectl create namespace", "there is no helm; the chart is rendered by Helm's Go module, and what that makes is applied to a real API"},
	{"Documentation/kubernetes.md", "FROM debian", "it takes an image of Debian, and there may be no internet"},
	{"Documentation/kubernetes.md", "kubectl --namespace kube-flannel get pods", noKubelet},
	{"Documentation/kubernetes.md", "kubectl --namespace kube-flannel exec POD", noKubelet + "; TestDaemonSet has Docker run what is run in the pod"},
	{"Documentation/performance.md", "make bench", "it takes half an hour"},
}

// standIns are programs on the hosts that stand for those which a reader has, and a lab
// does not. Each gets its script's text, with what is known when the test runs in its
// environment.
var standIns = map[string]struct{ script, why string }{
	"sudo": {"exec \"$@\"\n", "commands are run by root, and sudo may not be installed"},
	"scp": {`to=${2#root@}
mkdir -p "/copied/${to%%:*}/$(dirname "${to#*:}")"
cp "$1" "/copied/${to%%:*}/${to#*:}"
`, "there is no sshd on the hosts; the test brings the files to where they are for"},
	"cloud-init": {"PYTHONPATH=/build/cloud-init/usr/lib/python3/dist-packages exec /usr/bin/python3 /build/cloud-init/usr/bin/cloud-init \"$@\"\n", "it is unpacked, and not installed"},
	"vagrant": {`case $1 in
up) ls Vagrantfile flanneld_*.deb ;;
ssh) exec $(cat "$(dirname "$0")/$2") sh -c "$4" ;;
esac
`, "there are no virtual machines: hosts of the lab run what the Vagrantfile has the machines run"},
	"apt-get": {`for name; do
	case $name in *.deb) exec dpkg -i "$name" ;; esac
done
`, "there may be no internet: what other packages have is in this machine's /usr"},
}

// guide follows a document: it runs its blocks one after the other.
type guide struct {
	*network // has nothing before lay

	t      *testing.T
	name   string
	blocks []block // that are left
	used   map[string]bool

	builds bool               // hosts have Go
	nodes  []*host            // all hosts for containers
	places map[string][]*host // by what follows "# on "
	dirs   map[*host]string   // where a reader's shell is
	serial int
}

// next is the text of the next block, which must begin so, and where it is to be run.
func (g *guide) next(beginning string) (script, where string) {
	g.t.Helper()
	if len(g.blocks) == 0 {
		g.t.Fatalf("%s has no more blocks, and %q is to be followed", g.name, beginning)
	}
	b := g.blocks[0]
	if !strings.HasPrefix(b.script, beginning) {
		g.t.Fatalf("this comes next in %s, and what follows it comes to %q: name this block there, and do with it what a reader does\n%s", g.name, beginning, b.script)
	}
	g.blocks = g.blocks[1:]
	script = b.script
	for _, s := range substitutions {
		if s.document == g.name && s.by != "" {
			script = g.replace(script, s.text, s.by)
		}
	}
	return script, b.where
}

// replace is a text in which one is in the place of another.
func (g *guide) replace(script, text, by string) string {
	if strings.Contains(script, text) {
		g.used[text] = true
	}
	return strings.ReplaceAll(script, text, by)
}

// end checks that all blocks were followed, and all substitutions made.
func (g *guide) end(why string) {
	g.t.Helper()
	for _, b := range g.blocks {
		g.t.Errorf("%s has this, which was not run: %s\n%s", g.name, why, b.script)
	}
	for _, s := range substitutions {
		if s.document == g.name && !g.used[s.text] {
			g.t.Errorf("%s has no more %q, which was to be substituted", g.name, s.text)
		}
	}
}

// skip passes over a block that is not run.
func (g *guide) skip(beginning string) string {
	g.t.Helper()
	for _, u := range unrun {
		if u.document == g.name && u.beginning == beginning {
			script, _ := g.next(beginning)
			return script
		}
	}
	g.t.Fatalf("unrun does not say why %q of %s is not run", beginning, g.name)
	return ""
}

// text is a block that is no command: what a file or a key has. The caller makes use of it.
func (g *guide) text(beginning string) string {
	g.t.Helper()
	script, _ := g.next(beginning)
	return script
}

// output checks that a block is part of what was printed.
func (g *guide) output(beginning, printed string) {
	g.t.Helper()
	script, _ := g.next(beginning)
	if line := missing(script, printed); line != "" {
		g.t.Errorf("%s shows %q, and there is\n%s", g.name, line, printed)
	}
}

// awaitOutput does so as soon as it is printed.
func (g *guide) awaitOutput(beginning string, printed func() string) {
	g.t.Helper()
	script, _ := g.next(beginning)
	g.wait(soon, "what "+g.name+" shows", func() string {
		all := printed()
		if line := missing(script, all); line != "" {
			return fmt.Sprintf("there is no %q but\n%s", line, all)
		}
		return ""
	})
}

// missing is the first line that is shown and nothing printed is like.
func missing(shown, printed string) string {
	for line := range strings.Lines(shown) {
		if !shape(line).MatchString(printed) {
			return line
		}
	}
	return ""
}

// varies is what differs from host to host, in the order in which it is looked for, and an
// expression for it. Backslashes are as regexp.QuoteMeta leaves them.
var (
	varies      = regexp.MustCompile(`fd00:[0-9a-f:]+|[0-9a-f]{2}(?::[0-9a-f]{2}){5}|\b[0-9a-f]{12}\b|\b[0-9]+\b|\\\.\\\.\\\.|\s+`)
	alternative = map[byte]string{':': `[0-9a-f:]{17}`, '.': `.*`, ' ': `\s+`}
)

// shape is an expression for what looks like a line of a document: with other
// numbers and addresses, and with anything in the place of three dots.
func shape(line string) *regexp.Regexp {
	line = strings.ReplaceAll(strings.TrimSpace(line), "…", "...")
	return regexp.MustCompile(varies.ReplaceAllStringFunc(regexp.QuoteMeta(line), func(part string) string {
		if strings.HasPrefix(part, "fd00:") { // an IPv6 address
			return `fd00:[0-9a-f:]+`
		}
		for mark, text := range alternative {
			if strings.IndexByte(part, mark) >= 0 {
				return text
			}
		}
		if len(part) == 12 { // of a machine's ID
			return `[0-9a-f]{12}`
		}
		return `[0-9]+`
	}))
}

// run runs the next block where its first line says, or else on these hosts. What it shows
// as output must be like what is printed. It returns what was printed on the last host.
func (g *guide) run(beginning string, hosts ...*host) (printed string) {
	g.t.Helper()
	script, where := g.next(beginning)
	if where != "" {
		if hosts = g.places[where]; hosts == nil {
			g.t.Fatalf("there is no %q, where this of %s is to be run:\n%s", where, g.name, script)
		}
	}
	if len(hosts) == 0 {
		g.t.Fatalf("nobody says where this of %s is to be run:\n%s", g.name, script)
	}
	for _, h := range hosts {
		printed = g.follow(h, script)
	}
	return printed
}

// with runs the next block on a host, with another text in the place of one of it, as
// pairs. substitutions has why.
func (g *guide) with(beginning string, h *host, pairs ...string) string {
	g.t.Helper()
	script, _ := g.next(beginning)
	return g.follow(h, g.substitute(script, pairs...))
}

// substitute replaces texts for which substitutions has a reason.
func (g *guide) substitute(script string, pairs ...string) string {
	g.t.Helper()
	for pair := range slices.Chunk(pairs, 2) {
		declared := slices.ContainsFunc(substitutions, func(s substitution) bool {
			return s.document == g.name && s.text == pair[0] && s.by == ""
		})
		if !declared || !strings.Contains(script, pair[0]) {
			g.t.Fatalf("of %q in %s, substitutions says why it is replaced: %t:\n%s", pair[0], g.name, declared, script)
		}
		script = g.replace(script, pair[0], pair[1])
	}
	return script
}

// follow runs a script of a document on a host.
func (g *guide) follow(h *host, script string) (printed string) {
	g.t.Helper()
	return g.followIn(func(script string) string { return g.shell(h, script) }, script)
}

// followIn runs a script of a document by a shell.
func (g *guide) followIn(shell func(string) string, script string) (printed string) {
	g.t.Helper()
	if !strings.HasPrefix(script, "$ ") {
		return shell(script)
	}
	for example := range strings.SplitSeq(strings.TrimPrefix(script, "$ "), "\n$ ") {
		command, shown, _ := strings.Cut(example, "\n")
		g.wait(soon, "what "+g.name+" shows", func() string {
			out := shell(command)
			if line := missing(shown, out); line != "" {
				return fmt.Sprintf("%q prints no %q but\n%s", command, line, out)
			}
			printed += out
			return ""
		})
	}
	return printed
}

// shell has a shell of a host run a script, in the directory where the one before it ended.
func (g *guide) shell(h *host, script string) string {
	g.t.Helper()
	const mark = "\nthe shell is in "
	out, err := h.try("exec 2>&1\ncd " + g.dir(h) + "\n" + script + "\nprintf '" + strings.ReplaceAll(mark, "\n", `\n`) + "%s' \"$PWD\"")
	if err != nil {
		g.t.Fatalf("%s on %s: %v\n%s\n%s", g.name, h.Name, err, script, out)
	}
	at := strings.LastIndex(out, mark)
	g.dirs[h] = out[at+len(mark):]
	return out[:at]
}

// dir is where a host's shell is: at first, where the repository, or an archive, is.
func (g *guide) dir(h *host) string {
	if h.sys == nil {
		return cmp.Or(g.dirs[h], "/")
	}
	return cmp.Or(g.dirs[h], source)
}

// try runs a script on a host.
func (h *host) try(script string) (string, error) {
	if h.sys != nil {
		return h.sys.Run(h.n.ctx, "/bin/sh", "-euc", script)
	}
	p, err := h.Start("sh", []string{"/bin/sh", "-euc", "PATH=" + h.path + ":$PATH\n" + script}, nil, lab.ProcessOptions{})
	if err != nil {
		return "", err
	}
	code, err := p.Wait(h.n.ctx)
	if err == nil && code != 0 {
		err = fmt.Errorf("it ended with %d", code)
	}
	return p.Log(), err
}

// terminal is one in which a program runs that does not end by itself.
type terminal struct {
	g    *guide
	h    *host
	unit string
}

// start runs the next block on a host, in a terminal of its own.
func (g *guide) start(beginning string, h *host) *terminal {
	g.t.Helper()
	script, _ := g.next(beginning)
	return g.terminal(h, script)
}

// terminal runs a script on a host, in a terminal of its own.
func (g *guide) terminal(h *host, script string) *terminal {
	g.t.Helper()
	g.serial++
	s := &terminal{g, h, fmt.Sprintf("terminal%d", g.serial)}
	h.run("systemd-run", "--quiet", "--unit="+s.unit, "--property=Delegate=yes", "--working-directory="+g.dir(h), "/bin/sh", "-euc", script)
	return s
}

// wait waits for what a reader waits for, while the program runs.
func (s *terminal) wait(what string, problem func() string) {
	s.g.t.Helper()
	s.g.wait(soon, what, func() string {
		if state := s.h.show(s.unit, "ActiveState"); state != "active" {
			s.g.t.Fatalf("%s: waiting for %s: it is %s, and says\n%s", s.g.name, what, state, s.log())
		}
		return problem()
	})
}

// waitReady waits for the subnet file.
func (s *terminal) waitReady() {
	s.g.t.Helper()
	s.wait("the subnet file", func() string {
		if _, err := s.h.try("test -e /run/flannel/subnet.env"); err != nil {
			return err.Error()
		}
		return ""
	})
}

// waitEnd waits until the commands have come to their end, as they are to.
func (s *terminal) waitEnd() {
	s.g.t.Helper()
	s.g.wait(soon, "the end of what was started", func() string {
		if result := s.h.show(s.unit, "Result"); result != "success" {
			s.g.t.Fatalf("%s: the result is %s:\n%s", s.g.name, result, s.log())
		}
		if state := s.h.show(s.unit, "ActiveState"); state != "inactive" {
			return "it is " + state
		}
		return ""
	})
}

// log is what was printed.
func (s *terminal) log() string {
	s.g.t.Helper()
	return s.h.run("journalctl", "--no-pager", "--output=cat", "--unit="+s.unit)
}

// interrupt is Ctrl-C.
func (s *terminal) interrupt() {
	s.g.t.Helper()
	s.h.run("systemctl", "kill", "--signal=INT", s.unit)
	s.g.wait(soon, "the end after Ctrl-C", func() string {
		if state := s.h.show(s.unit, "ActiveState"); state == "active" || state == "deactivating" {
			return "it is " + state
		}
		return ""
	})
	if result := s.h.show(s.unit, "Result"); result != "success" {
		s.g.t.Errorf("%s: after Ctrl-C the result is %s:\n%s", s.g.name, result, s.log())
	}
}

// lay makes a network with a machine for etcd, which has it or not, and hosts, which have
// nothing but a systemd, what they were booted with, and the repository. Their link has more
// networks beside the usual one.
func (g *guide) lay(server string, hosts int, files map[string]string, more ...netip.Prefix) {
	g.t.Helper()
	g.network = newLab(g.t)
	var err error
	g.sw, err = g.lab.AddSwitch("switch", append([]netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")}, more...)...)
	check(g.t, err)
	addr := netip.MustParseAddr(server)
	g.server, err = g.lab.AddHost("server", g.sw, lab.HostOptions{NoAddress: addr.As4()[3] != 2})
	check(g.t, err)
	if !g.server.Addr.IsValid() {
		g.server.Addr = addr
		check(g.t, g.server.AddAddr("eth0", netip.PrefixFrom(addr, 24)))
	}
	g.places[server] = []*host{{Host: g.server, n: g.network}}
	var dirs []string
	if g.builds {
		dirs = strings.Fields(g.etcdHost().command(nil, "go", "env", "GOCACHE", "GOMODCACHE"))
	}
	for i := range hosts {
		added, err := g.lab.AddHost(fmt.Sprintf("host%d", i+1), g.sw, lab.HostOptions{})
		check(g.t, err)
		h := &host{Host: added, n: g.network, binds: dirs}
		h.boot(files)
		h.standIn("sudo")
		if i < len(g.hosts) {
			g.hosts[i] = h
		}
		g.nodes = append(g.nodes, h)
		g.places[h.Addr.String()] = []*host{h}
	}
	g.places["each host"] = g.nodes
}

// bootServer boots the machine for etcd, which has the programs at these paths.
func (g *guide) bootServer(files map[string]string, programs ...string) *host {
	g.t.Helper()
	h := g.etcdHost()
	h.boot(files)
	for _, path := range programs {
		name, _, _ := strings.Cut(filepath.Base(path), "-")
		h.addProgram(name, read(g.t, path))
	}
	return h
}

// other is a block of another document.
func (g *guide) other(document, beginning string) string {
	g.t.Helper()
	for _, b := range blocks(g.t, "../Documentation/"+document) {
		if strings.HasPrefix(b.script, beginning) {
			return b.script
		}
	}
	g.t.Fatalf("%s has no commands that begin with %q", document, beginning)
	return ""
}

// etcdHost is the machine for etcd.
func (g *guide) etcdHost() *host { return g.places[g.server.Addr.String()][0] }

// startEtcd starts etcd on its machine, where it can be asked without saying where it is.
func (g *guide) startEtcd() {
	g.t.Helper()
	var err error
	g.etcd, err = g.lab.StartEtcd(g.ctx, g.server, lab.EtcdOptions{Args: []string{g.onLocalhost()}})
	check(g.t, err)
}

// onLocalhost has etcd listen on its machine's loopback, too.
func (n *network) onLocalhost() string {
	return "--listen-client-urls=http://" + n.server.Addr.String() + ":2379,http://127.0.0.1:2379"
}

// install has flanneld on all hosts, by what systemd.md says, with a configuration.
func (g *guide) install(config string) {
	g.t.Helper()
	g.put("config", config)
	for _, h := range g.nodes {
		g.installOn(h)
	}
}

// installOn has flanneld on a host. "With the URL of your etcd", as systemd.md says.
func (g *guide) installOn(h *host) {
	g.t.Helper()
	script := strings.ReplaceAll(g.other("systemd.md", "install"), "http://192.168.0.2:2379", g.etcd.Endpoint())
	h.run("/bin/sh", "-euc", "cd "+source+"\n"+script)
}

// rest runs all blocks that are left where they say. One that shows no output prints none.
func (g *guide) rest() {
	g.t.Helper()
	for len(g.blocks) > 0 {
		script := g.blocks[0].script
		if out := g.run(script); out != "" && !strings.HasPrefix(script, "$ ") {
			g.t.Errorf("%s does not show that this prints %q:\n%s", g.name, out, script)
		}
	}
}

// journal is what flanneld's unit has logged.
func (h *host) journal() string {
	h.n.t.Helper()
	return h.run("journalctl", "--no-pager", "--merge", "--output=cat", "--unit=flanneld")
}

// standIn installs a program on a host that stands for one which it does not have.
func (h *host) standIn(name string) {
	h.n.t.Helper()
	h.addProgram(name, "#!/bin/sh\n"+standIns[name].script)
}

// addProgram installs a program on a host.
func (h *host) addProgram(name, content string) {
	h.n.t.Helper()
	path := "/programs.new/" + name
	check(h.n.t, h.sys.WriteFile(path, content))
	h.run("install", path, "/usr/local/bin/")
}

// checkout is the repository as someone has it who has cloned it, at a version, with the
// etcd that takes a minute to build.
func checkout(t *testing.T, dir string) {
	t.Helper()
	copyRepository(t, dir)
	script := `git init -q && git add . && git -c user.name=x -c user.email=x@example commit -qm x && git tag ` + testVersion + ` && mkdir build && for f in etcd etcd-3.6 etcd-3.7; do cp "$0/build/$f" build/; done`
	root, err := filepath.Abs("..")
	check(t, err)
	cmd := exec.Command("sh", "-euc", script, root)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making a checkout: %v: %s", err, out)
	}
}
