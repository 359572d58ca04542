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
	h.boot(nil)
	check(t, lab.WriteImage(n.ctx, filepath.Join(h.sys.Root, "image.tar")))
	h.follow("systemd.md", "install")
	h.follow("docker.md", "install")
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
	if strings.Count(command, "--bip=") != 1 || strings.Count(command, "--mtu=") != 1 {
		t.Errorf("Docker runs as %q", command)
	}

	// As after a boot, but flanneld can't start.
	h.run("systemctl", "stop", "docker.socket", "docker", "flanneld")
	h.run("rm", "-r", "/run/flannel")
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
	}
	check(t, h.sys.WriteFile(optionsFile, n.options()))
	h.waitShow("docker", "ActiveState", "active") // by itself
}

// docker runs a command of the client of the host's own Docker.
func (h *host) docker(args ...string) string {
	h.n.t.Helper()
	return h.run(append([]string{"docker"}, args...)...)
}
