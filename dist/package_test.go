package dist_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// layUsr lays files over this machine's /usr, which the system sees: it can change
// its own from now on, also by dpkg.
func (h *host) layUsr() {
	h.n.t.Helper()
	check(h.n.t, h.sys.WriteFile("/var/lib/dpkg/status", ""))
	h.run("mkdir", "/var/lib/dpkg/info", "/var/lib/dpkg/updates", "/var/lib/dpkg/triggers")
	h.run("sh", "-c", `mkdir /over && mount -t tmpfs none /over && mkdir /over/upper /over/work &&
mount -t overlay -o lowerdir=/usr,upperdir=/over/upper,workdir=/over/work none /usr`)
}

// packaging is a format of packages, and what to do with them.
type packaging struct {
	ending          string
	install, remove func(h *host)
	// saved is where the options are once the package was removed.
	saved string
}

var packagings = []packaging{
	{
		ending:  "deb",
		install: func(h *host) { h.follow("installing.md", "dpkg -i") },
		remove:  func(h *host) { h.follow("installing.md", "dpkg -r") },
		saved:   optionsFile,
	},
	{ // Debian's rpm has no packages that others could depend on.
		ending:  "rpm",
		install: func(h *host) { h.run("rpm", "--force-debian", "--nodeps", "-U", source+"/flanneld_1_amd64.rpm") },
		remove:  func(h *host) { h.run("rpm", "--force-debian", "-e", "flanneld") },
		saved:   optionsFile + ".rpmsave",
	},
}

// The packages install the daemon, upgrade it while packets flow, and remove it.
func TestPackages(t *testing.T) {
	t.Parallel()
	release(t, testVersion)
	release(t, nextVersion)
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	h := n.hosts[0]
	h.boot(nil)
	h.layUsr()
	peer, err := n.hosts[1].StartFlanneld(daemonBinary)
	check(t, err)
	check(t, peer.WaitReady(n.ctx))
	n.hosts[1].pod, err = n.hosts[1].AddPod("pod", peer.Env())
	check(t, err)
	for _, p := range packagings {
		t.Run(p.ending, func(t *testing.T) { n.in(t).testPackaging(p) })
	}
}

func (n *network) testPackaging(p packaging) {
	t, h := n.t, n.hosts[0]
	install := func(version string) {
		t.Helper()
		pkg := read(t, one(t, release(t, version), "*."+p.ending))
		check(t, h.sys.WriteFile(source+"/flanneld_1_amd64."+p.ending, pkg)) // whatever it is
		p.install(h)
	}
	install(testVersion)
	if state, enabled := h.show("flanneld", "ActiveState"), h.show("flanneld", "UnitFileState"); state != "inactive" || enabled != "disabled" {
		t.Errorf("after installing, the daemon is %s and %s", state, enabled)
	}
	if mode := h.run("stat", "--format=%a %U", optionsFile); mode != "600 root" {
		t.Errorf("the options have mode and owner %s", mode)
	}
	if policy := h.run("cat", "/usr/share/flanneld/aws/iam-policy.json"); policy != strings.TrimSpace(read(t, "aws/iam-policy.json")) {
		t.Errorf("the IAM policy is not as in the repository:\n%s", policy)
	}
	if out := h.run("systemd-analyze", "verify", "--recursive-errors=no", "--man=no", "flanneld.service"); out != "" {
		t.Errorf("systemd says: %s", out)
	}
	check(t, h.sys.WriteFile(optionsFile, n.options()))
	h.follow("installing.md", "systemctl enable flanneld")
	h.waitShow("flanneld", "ActiveState", "active")
	if !strings.HasPrefix(h.show("flanneld", "StatusText"), "subnet 10.5.") {
		t.Errorf("the status is %s", h.show("flanneld", "StatusText"))
	}
	n.wantVersion(testVersion)
	h.addPod("pod-" + p.ending)
	n.wantPings()
	before := h.env()["FLANNEL_SUBNET"]
	n.witness(func() {
		pid := h.show("flanneld", "MainPID")
		install(nextVersion)
		n.wait(soon, "another process of the daemon", func() string {
			if now := h.show("flanneld", "MainPID"); now == pid || now == "0" {
				return "it is " + now
			}
			return ""
		})
		h.waitShow("flanneld", "ActiveState", "active")
		n.wantVersion(nextVersion)
	})
	if now := h.env()["FLANNEL_SUBNET"]; now != before {
		t.Errorf("after the upgrade the subnet is %s, it was %s", now, before)
	}
	if now := h.run("cat", optionsFile); now+"\n" != n.options() {
		t.Errorf("after the upgrade the options are %s", now)
	}

	n.witness(func() { p.remove(h) })
	for _, file := range []string{"/usr/bin/flanneld", "/usr/bin/mk-docker-opts.sh", "/usr/share/flanneld", "/usr/lib/systemd/system/flanneld.service", "/etc/systemd/system/multi-user.target.wants/flanneld.service"} {
		if _, err := h.sys.Run(n.ctx, "test", "!", "-e", file); err != nil {
			t.Errorf("after removing there is %s: %v", file, err)
		}
	}
	if state := h.show("flanneld", "LoadState"); state != "not-found" {
		t.Errorf("after removing, systemd's unit is %s", state)
	}
	if pids, err := h.sys.Run(n.ctx, "pgrep", "-x", "flanneld"); err == nil {
		t.Errorf("after removing there are processes: %s", pids)
	}
	if now := h.run("cat", p.saved); now+"\n" != n.options() {
		t.Errorf("after removing the options are %s", now)
	}
	if p.ending != "deb" {
		return
	}
	n.testOtherThanPackage(install)
	h.follow("installing.md", "dpkg -P")
	for _, dir := range []string{filepath.Dir(optionsFile), "/var/lib/flannel", "/run/flannel"} {
		if _, err := h.sys.Run(n.ctx, "test", "!", "-e", dir); err != nil {
			t.Errorf("after purging there is %s: %v", dir, err)
		}
	}
}

// testOtherThanPackage installs a daemon in the place of that of a package, which is
// purged, and a package in the place of flannel's own.
func (n *network) testOtherThanPackage(install func(version string)) {
	t, h := n.t, n.hosts[0]
	t.Helper()
	h.follow("systemd.md", "install")
	subnet := h.env()["FLANNEL_SUBNET"]
	h.run("dpkg", "-P", "flanneld")
	if now := h.env()["FLANNEL_SUBNET"]; now != subnet {
		t.Errorf("purging the package has left the subnet %q of a daemon that was not its, %q", now, subnet)
	}
	h.run("test", "-s", "/var/lib/flannel/coreos.com_network.json")
	h.run("systemctl", "disable", "--now", "flanneld")
	h.run("rm", unitDir+"flanneld.service")
	h.run("systemctl", "daemon-reload")

	h.run("sh", "-c", `mkdir -p /flannel/DEBIAN && cat >/flannel/DEBIAN/control <<END && dpkg-deb --build /flannel /flannel.deb && dpkg -i /flannel.deb
Package: flannel
Version: 0.5.5
Architecture: all
Maintainer: Nobody <nobody@localhost>
Description: network of containers
END`)
	_, err := h.sys.Run(n.ctx, "sh", "-c", "dpkg -i "+source+"/flanneld_*.deb")
	const want = "conflicting packages - not installing flanneld"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("beside flannel's package, dpkg installs it: %v", err)
	}
	if !strings.Contains(read(t, "../Documentation/installing.md"), want) {
		t.Errorf("installing.md does not tell of %s", want)
	}
	h.run("dpkg", "-P", "flannel")
	install(testVersion)
	h.follow("installing.md", "dpkg -r")
}

// Where there is no systemd, as in a container, the packages' scripts do nothing and do
// not fail.
func TestPackageWithoutSystemd(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	h := n.hosts[0]
	programs := t.TempDir()
	for _, name := range []string{"sh", "rm"} {
		path, err := exec.LookPath(name)
		check(t, err)
		check(t, os.Symlink(path, filepath.Join(programs, name)))
	}
	scripts, err := filepath.Abs("package")
	check(t, err)
	const script = `mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mkdir /var/lib/flannel /run/flannel && cd "$1" && PATH=$2
sh postinstall.sh configure && sh postinstall.sh configure 1 && sh preremove.sh upgrade 2 && sh preremove.sh remove && sh postremove.sh remove &&
sh postinstall.sh 1 && sh postinstall.sh 2 && sh preremove.sh 1 && sh preremove.sh 0 && sh postremove.sh 0 &&
[ -d /var/lib/flannel ] && [ -d /run/flannel ] && sh postremove.sh purge && [ ! -e /var/lib/flannel ] && [ ! -e /run/flannel ]`
	h.command(nil, "unshare", "--mount", "sh", "-c", script, "sh", scripts, programs)
}

// wantVersion checks what version the daemon is of that runs.
func (n *network) wantVersion(version string) {
	n.t.Helper()
	h := n.hosts[0]
	if got := h.run("sh", "-c", "/proc/"+h.show("flanneld", "MainPID")+"/exe -version 2>&1"); got != version {
		n.t.Errorf("the daemon is of version %s, want %s", got, version)
	}
}
