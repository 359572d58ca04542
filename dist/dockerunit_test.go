package dist_test

import (
	"strings"
	"testing"
)

// Docker's own unit, with our drop-in, never starts without a subnet, and does by itself when
// there is one.
func TestDockerUnit(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	h := n.hosts[0]
	h.boot(nil)
	h.follow("systemd.md", "install")
	h.follow("docker.md", "echo FLANNELD_IP_MASQ")
	n.testDockerWaits()
	n.testDockerTriesAgain()
}

// forget leaves the host as a boot does, before a daemon has run there.
func (h *host) forget() {
	h.n.t.Helper()
	h.run("systemctl", "stop", "docker.socket", "docker", "flanneld")
	h.run("rm", "-r", "/run/flannel", "/var/lib/flannel")
	h.run("systemctl", "reset-failed")
}

// testDockerWaits checks that Docker starts once, when flanneld is ready.
func (n *network) testDockerWaits() {
	t, h := n.t, n.hosts[0]
	t.Helper()
	h.forget()
	n.etcd.Kill()
	h.run("systemctl", "start", "--no-block", "docker")
	h.waitShow("flanneld", "ActiveState", "activating")
	n.wait(soon, "a status that tells of etcd", func() string {
		if status := h.show("flanneld", "StatusText"); !strings.Contains(status, n.etcd.Endpoint()) {
			return "it is " + status
		}
		return ""
	})
	if state := h.show("docker", "ActiveState"); state != "inactive" {
		t.Errorf("while flanneld waits, Docker is %s", state)
	}
	check(t, n.etcd.Start(n.ctx))
	h.waitShow("docker", "ActiveState", "active")
	if tries := h.show("docker", "NRestarts"); tries != "0" {
		t.Errorf("Docker was started %s times too early", tries)
	}
}

// testDockerTriesAgain checks that Docker does not start while flanneld can't, and does
// when it can.
func (n *network) testDockerTriesAgain() {
	t, h := n.t, n.hosts[0]
	t.Helper()
	h.forget()
	check(t, h.sys.WriteFile(optionsFile, "FLANNELD_ETCD_ENDPOINTS=ftp://nonsense\n"))
	h.run("systemctl", "start", "--no-block", "docker")
	h.waitShow("docker", "Result", "resources") // as subnet.env is missing
	if status := h.show("flanneld", "ExecMainStatus"); status != "2" {
		t.Errorf("flanneld ended with status %s", status)
	}
	for _, unit := range []string{"docker", "flanneld"} {
		if limit := h.show(unit, "StartLimitIntervalUSec"); limit != "0" {
			t.Errorf("%s is not started any more if it failed too often within %s", unit, limit)
		}
		if pause := h.show(unit, "RestartUSec"); pause != "2s" {
			t.Errorf("%s is started again after %s", unit, pause)
		}
	}
	check(t, h.sys.WriteFile(optionsFile, n.options()))
	h.waitShow("docker", "ActiveState", "active") // by itself
}

// docker runs a command of the client of the host's own Docker.
func (h *host) docker(args ...string) string {
	h.n.t.Helper()
	return h.run(append([]string{"docker"}, args...)...)
}
