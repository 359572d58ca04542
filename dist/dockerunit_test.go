package dist_test

import (
	"path/filepath"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

const dockerDropIn = unitDir + "docker.service.d/flannel.conf"

// Docker's own unit, with our drop-in, starts when there is a subnet, and with it; goes
// on while flanneld is restarted; and takes a new subnet when it is restarted itself.
func TestDockerUnit(t *testing.T) {
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	h := n.hosts[0]
	// At first flanneld can't start.
	h.boot(map[string]string{
		optionsFile:  "FLANNELD_ETCD_ENDPOINTS=nonsense\n",
		dockerDropIn: read(t, "docker.service.d/flannel.conf"),
	})
	check(t, lab.WriteImage(n.ctx, filepath.Join(h.sys.Root, "image.tar")))
	h.run("systemctl", "enable", "--now", "--no-block", "docker")
	h.waitShow("docker", "Result", "resources") // as subnet.env is missing
	h.waitShow("flanneld", "ExecMainStatus", "2")
	if links := h.run("ls", "/sys/class/net"); strings.Contains(links, "docker0") {
		t.Errorf("Docker has started without a subnet: there is %q", links)
	}
	check(t, h.sys.WriteFile(optionsFile, n.options()))
	h.waitShow("docker", "ActiveState", "active") // by itself
	pod := n.startContainer(h.docker, "/image.tar")
	n.wantInSubnet(pod, h.env())

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
}

// docker runs a command of the client of the host's own Docker.
func (h *host) docker(args ...string) string {
	h.n.t.Helper()
	return h.run(append([]string{"docker"}, args...)...)
}
