package dist_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// docker runs commands of a Docker client.
type docker func(args ...string) string

// container is one that serves a file.
type container struct {
	docker
	addr string
	sum  string // of the file
}

// podAddr is how to ask for the address of a container.
const podAddr = "--format={{.NetworkSettings.IPAddress}}"

// serve makes a file and sends it to whoever connects.
const serve = "dd if=/dev/urandom of=/file bs=64k count=64 && md5sum </file >/sum && exec nc -ll -p 80 -e cat /file"

// startContainer runs a container. The image's archive is at path, as its Docker sees it.
func (n *network) startContainer(d docker, path string) *container {
	n.t.Helper()
	d("import", path, "busybox")
	d("run", "--detach", "--stop-signal=KILL", "--name=pod", "busybox", "/bin/sh", "-c", serve)
	c := &container{docker: d, addr: d("inspect", podAddr, "pod")}
	n.wait(soon, "the container's file", func() string {
		c.sum = d("exec", "pod", "/bin/sh", "-c", "cat /sum 2>/dev/null || true")
		if c.sum == "" {
			return "it is not there"
		}
		return ""
	})
	return c
}

// wantInSubnet checks that the container has what its host's subnet file says.
func (n *network) wantInSubnet(c *container, env map[string]string) {
	n.t.Helper()
	subnet, err := netip.ParsePrefix(env["FLANNEL_SUBNET"])
	check(n.t, err)
	addr, err := netip.ParseAddr(c.addr)
	check(n.t, err)
	if !subnet.Contains(addr) || addr == subnet.Addr() {
		n.t.Errorf("a container has the address %s in the subnet %s", addr, subnet)
	}
	if mtu := c.docker("exec", "pod", "cat", "/sys/class/net/eth0/mtu"); mtu != env["FLANNEL_MTU"] || mtu == "" {
		n.t.Errorf("a container has the MTU %s, want %s", mtu, env["FLANNEL_MTU"])
	}
}

// wantReaches checks that one container pings another and gets all of its file.
func (n *network) wantReaches(from, to *container) {
	n.t.Helper()
	// Where Docker masquerades, the kernel drops one packet of a flow whose way has
	// changed. Each container's first ping has the same ID, so it may be of such a flow.
	from.docker("exec", "pod", "/bin/sh", "-c", fmt.Sprintf("ping -c 1 -W 2 %[1]s || ping -c 1 -W 2 %[1]s", to.addr))
	sum := from.docker("exec", "pod", "/bin/sh", "-c", fmt.Sprintf("nc -w 20 %s 80 </dev/null >/got && md5sum </got", to.addr))
	if sum != to.sum {
		n.t.Errorf("the file came over with the sum %s, want %s", sum, to.sum)
	}
}

// Containers of two hosts reach each other, with each backend.
func TestDocker(t *testing.T) {
	n := newNetwork(t)
	image := filepath.Join(n.lab.Dir, "image.tar")
	check(t, lab.WriteImage(n.ctx, image))
	for _, b := range []struct {
		backend  string
		overhead int
	}{{"vxlan", 50}, {"host-gw", 0}, {"udp", 28}} {
		t.Run(b.backend, func(t *testing.T) {
			n := n.in(t)
			n.configure("10.5.0.0/16", b.backend)
			var containers []*container
			for _, h := range n.hosts {
				daemon, err := h.StartFlanneld(daemonBinary)
				check(t, err)
				defer daemon.Kill()
				check(t, daemon.WaitReady(n.ctx))
				env := daemon.Env()
				if env["FLANNEL_MTU"] != strconv.Itoa(1500-b.overhead) {
					t.Errorf("the subnet file has the MTU %s", env["FLANNEL_MTU"])
				}
				d := h.startDocker(mkDockerOpts(t, "sh", nil, "-c", "-f", daemon.SubnetFile))
				c := n.startContainer(d, image)
				n.wantInSubnet(c, env)
				containers = append(containers, c)
			}
			n.wantReaches(containers[0], containers[1])
			n.wantReaches(containers[1], containers[0])
		})
	}
}

// startDocker starts a Docker daemon with the options in a text of mk-docker-opts.sh.
func (h *host) startDocker(text string) docker {
	h.n.t.Helper()
	_, value, _ := strings.Cut(text, "=")
	options, err := strconv.Unquote(strings.TrimSpace(value))
	check(h.n.t, err)
	d, err := h.StartDocker(h.n.ctx, strings.Fields(options)...)
	check(h.n.t, err)
	h.n.t.Cleanup(func() { check(h.n.t, d.Stop(soon)) })
	return func(args ...string) string {
		h.n.t.Helper()
		out, err := d.Run(h.n.ctx, args...)
		check(h.n.t, err)
		return strings.TrimSpace(out)
	}
}
