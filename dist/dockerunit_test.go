package dist_test

import (
	"path/filepath"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// Docker's own unit, with our drop-in, starts with the host's subnet; goes on while
// flanneld is restarted; takes a new subnet when it is restarted itself; and never
// starts without one.
func TestDockerUnit(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	h := n.hosts[0]
	const ownOption = "--label=owner=me" // of whoever installs
	h.boot(map[string]string{"/etc/default/docker": "DOCKER_OPTS=" + ownOption + "\n"})
	check(t, lab.WriteImage(n.ctx, filepath.Join(h.sys.Root, "image.tar")))
	h.follow("systemd.md", "install")
	h.follow("docker.md", "echo FLANNELD_IP_MASQ")
	h.wantVerified("docker.service")
	pod := n.startContainer(h.docker, "/image.tar")
	n.wantInSubnet(pod, h.env())
	address := h.docker("run", "--rm", "busybox", "ip", "address", "show", "eth0")
	if !strings.Contains(address, "mtu 1450 ") || !strings.Contains(address, "inet 10.5.") {
		t.Errorf("a container has\n%s", address)
	}
	pod.docker("exec", "pod", "ping", "-c", "1", "-W", "5", n.server.Addr.String())

	docker := h.show("docker", "MainPID")
	h.run("systemctl", "restart", "flanneld")
	if now := h.show("docker", "MainPID"); now != docker {
		t.Errorf("with flanneld, Docker was restarted, too: its PID was %s and is %s", docker, now)
	}

	h.run("systemctl", "stop", "flanneld")
	n.configure("10.6.0.0/16", "host-gw")
	h.run("systemctl", "start", "flanneld")
	for range 2 { // what was made for one start is not added to at the next
		h.run("systemctl", "restart", "docker")
		h.docker("start", "pod")
		pod.addr = h.docker("inspect", podAddr, "pod")
		if !strings.HasPrefix(pod.addr, "10.6.") {
			t.Errorf("in the new network, a container has the address %s", pod.addr)
		}
		n.wantInSubnet(pod, h.env())
	}
	command := h.run("ps", "-o", "args=", "-p", h.show("docker", "MainPID"))
	for _, option := range []string{" --bip=10.6.", " --mtu=1500", " --ip-masq=false", " " + ownOption} {
		if strings.Count(command, option) != 1 {
			t.Errorf("Docker runs as %q, want one%s", command, option)
		}
	}

	n.testDockerWaits()
	n.testDockerTriesAgain()

	h.run("systemctl", "stop", "flanneld")
	h.run("rm", "-r", "/run/flannel", "/usr/local/bin/mk-docker-opts.sh")
	check(t, h.sys.WriteFile("/etc/docker/daemon.json", `{"bip": "172.17.0.1/16"}`))
	h.follow("docker.md", "rm /etc/systemd")
	h.docker("start", "pod")
	if addr := h.docker("inspect", podAddr, "pod"); !strings.HasPrefix(addr, "172.17.") {
		t.Errorf("without flanneld, a container has the address %q", addr)
	}
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
	check(t, h.sys.WriteFile(optionsFile, "FLANNELD_ETCD_ENDPOINTS=nonsense\n"))
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
