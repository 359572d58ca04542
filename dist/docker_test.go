package dist_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"flanneld/pkg/ip"
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

// serve tells whoever connects to port 81 of all connections, and makes a file and
// sends it to whoever connects to port 80.
const serve = "nc -ll -p 81 -e netstat -tn & dd if=/dev/urandom of=/file bs=64k count=64 && md5sum </file >/sum && exec nc -ll -p 80 -e cat /file"

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
	// The rules for forwarding follow those of Docker after a second. And where the way of
	// a flow has changed, which pings of the same ID are, the kernel may drop a packet.
	from.docker("exec", "pod", "/bin/sh", "-c", fmt.Sprintf("for try in 1 2 3 4 5; do ping -c 1 -W 2 %s && exit; done; exit 1", to.addr))
	sum := from.docker("exec", "pod", "/bin/sh", "-c", fmt.Sprintf("nc -w 20 %s 80 </dev/null >/got && md5sum </got", to.addr))
	if sum != to.sum {
		n.t.Errorf("the file came over with the sum %s, want %s", sum, to.sum)
	}
}

// wantMasquerade checks that a container reaches the outside, which knows no way to it,
// and that another container sees who it is.
func (n *network) wantMasquerade(from, to *container) {
	n.t.Helper()
	outside := n.server.Of(ip.FamilyOf(netip.MustParseAddr(from.addr)))
	from.docker("exec", "pod", "ping", "-c", "1", "-W", "5", outside.String())
	seen := from.docker("exec", "pod", "/bin/sh", "-c", fmt.Sprintf("nc -w 20 %s 81 </dev/null", to.addr))
	// Other lines are of connections that it has opened itself, or that another one has.
	if !regexp.MustCompile(`:81\s+(?:::ffff:)?` + regexp.QuoteMeta(from.addr) + `:\d+\s`).MatchString(seen) {
		n.t.Errorf("the container %s is not seen by its address in:\n%s", from.addr, seen)
	}
}

// Containers of two hosts reach each other, with each backend, and the outside.
func TestDocker(t *testing.T) {
	t.Parallel()
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
				// If Docker turns it on, it drops what is not for its own containers.
				check(t, h.Sysctl("net.ipv4.ip_forward", "0"))
				daemon, err := h.StartFlanneld(daemonBinary, "-ip-masq")
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
			n.wantMasquerade(containers[0], containers[1])
			n.wantMasquerade(containers[1], containers[0])
		})
	}
}

// In a network of both families containers have addresses of both, and reach each other, and
// the outside, by either.
func TestDockerOfBothFamilies(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, netip.MustParsePrefix("fd00::/64"))
	image := filepath.Join(n.lab.Dir, "image.tar")
	check(t, lab.WriteImage(n.ctx, image))
	n.put("config", `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}`)
	var containers []*container
	for _, h := range n.hosts {
		daemon, err := h.StartFlanneld(daemonBinary, "-ip-masq")
		check(t, err)
		defer daemon.Kill()
		check(t, daemon.WaitReady(n.ctx))
		c := n.startContainer(h.startDocker(mkDockerOpts(t, "sh", nil, "-c", "-f", daemon.SubnetFile)), image)
		env := daemon.Env()
		n.wantInSubnet(c, env)
		six := *c
		six.addr = c.docker("inspect", "--format={{.NetworkSettings.GlobalIPv6Address}}", "pod")
		n.wantInSubnet(&six, map[string]string{"FLANNEL_SUBNET": env["FLANNEL_IPV6_SUBNET"], "FLANNEL_MTU": env["FLANNEL_MTU"]})
		containers = append(containers, c, &six)
	}
	for i, from := range containers {
		to := containers[(i+2)%4] // the same family of the other host
		n.wantReaches(from, to)
		n.wantMasquerade(from, to)
	}
}

// What is refused in DOCKER-USER stays refused, whoever of Docker and flanneld was started
// last; all else goes from host to host.
func TestDockerUser(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	image := filepath.Join(n.lab.Dir, "image.tar")
	check(t, lab.WriteImage(n.ctx, image))
	n.configure("10.5.0.0/16", "host-gw")
	start := func(h *host) *lab.Daemon {
		t.Helper()
		daemon, err := h.StartFlanneld(daemonBinary, "-ip-masq")
		check(t, err)
		check(t, daemon.WaitReady(n.ctx))
		return daemon
	}
	options := func(daemon *lab.Daemon) []string {
		return strings.Fields(fmt.Sprintf("--bip=%s --mtu=%s --ip-masq=false", daemon.Env()["FLANNEL_SUBNET"], daemon.Env()["FLANNEL_MTU"]))
	}
	h, other := n.hosts[0], n.hosts[1]
	for _, h := range n.hosts {
		check(t, h.Sysctl("net.ipv4.ip_forward", "0")) // Docker turns it on, and drops what is not its own
	}
	daemon := start(h)
	d, err := h.StartDocker(n.ctx, options(daemon)...)
	check(t, err)
	to := n.startContainer(n.client(d), image)
	d2, err := other.StartDocker(n.ctx, options(start(other))...)
	check(t, err)
	defer func() { check(t, d2.Stop(soon)) }()
	from := n.startContainer(n.client(d2), image)

	connects := func(port int) bool {
		return from.docker("exec", "pod", "/bin/sh", "-c", fmt.Sprintf("nc -w 2 %s %d </dev/null >/dev/null 2>&1 && echo yes || echo no", to.addr, port)) == "yes"
	}
	wantRefused := func(what string) {
		t.Helper()
		n.wait(soon, what, func() string {
			if one, rest := connects(80), connects(81); one || !rest {
				return fmt.Sprintf("port 80 is reached: %t; port 81: %t", one, rest)
			}
			return ""
		})
	}
	iptables := func(args ...string) string {
		t.Helper()
		return h.command(nil, append([]string{"iptables"}, args...)...)
	}
	n.wait(soon, "all to be reached", func() string {
		if !connects(80) {
			return "port 80 is not"
		}
		return ""
	})
	iptables("-I", "DOCKER-USER", "-p", "tcp", "--dport", "80", "-j", "DROP")
	wantRefused("what DOCKER-USER refuses to be refused")
	daemon.Kill()
	daemon = start(h)
	wantRefused("the same after flanneld was started again")
	check(t, d.Stop(soon))
	d, err = h.StartDocker(n.ctx, options(daemon)...)
	check(t, err)
	defer func() { check(t, d.Stop(soon)) }()
	to = n.startContainer(n.client(d), image)
	wantRefused("the same after Docker was started again")
	if rules := iptables("-S", "FORWARD"); !strings.Contains(rules, "-j DOCKER-USER") || !strings.HasSuffix(strings.TrimSpace(rules), "-j FLANNEL-FWD") {
		t.Errorf("the rules of FORWARD are\n%s", rules)
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
	return h.n.client(d)
}

func (n *network) client(d *lab.Docker) docker {
	return func(args ...string) string {
		n.t.Helper()
		out, err := d.Run(n.ctx, args...)
		check(n.t, err)
		return strings.TrimSpace(out)
	}
}
