package dist_test

import (
	"path/filepath"
	"strings"

	"flanneld/pkg/lab"
)

// containers has one on each of the first two hosts, which reach each other and the outside,
// and see each other's own addresses.
func (g *guide) containers() (all [2]*container) {
	g.t.Helper()
	for i, h := range g.hosts {
		check(g.t, lab.WriteImage(g.ctx, filepath.Join(h.sys.Root, "image.tar")))
		all[i] = g.startContainer(h.docker, "/image.tar")
		g.wantInSubnet(all[i], h.env())
	}
	for i, c := range all {
		g.wantReaches(c, all[1-i])
		g.wantMasquerade(c, all[1-i])
	}
	return all
}

func followDocker(g *guide) {
	const ownOption = "--label=owner=me" // of whoever installs
	g.lay("192.168.0.2", 2, map[string]string{"/etc/default/docker": "DOCKER_OPTS=" + ownOption + "\n"})
	g.startEtcd()
	g.install(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	h, other := g.nodes[0], g.nodes[1]
	g.run("echo FLANNELD_IP_MASQ=true", h, other)
	h.wantVerified("docker.service")
	pods := g.containers()
	docker := h.show("docker", "MainPID")
	h.run("systemctl", "restart", "flanneld")
	if now := h.show("docker", "MainPID"); now != docker {
		g.t.Errorf("with flanneld, Docker was restarted, too: its PID was %s and is %s", docker, now)
	}

	h.run("systemctl", "stop", "docker.socket", "docker")
	s := g.start("mk-docker-opts.sh -c", h)
	s.wait("an answer of Docker", func() string {
		_, err := h.try("docker version")
		if err != nil {
			return err.Error()
		}
		return ""
	})
	g.startAgain(pods[0])
	g.wantInSubnet(pods[0], h.env())
	g.wantReaches(pods[1], pods[0])
	h.docker("kill", "pod")
	s.interrupt()
	h.run("systemctl", "start", "docker")
	g.startAgain(pods[0])

	g.followDirectRouting(h, pods[0], pods[1])
	g.run("$ docker run --rm busybox", h)
	g.with("docker exec pod ping", h, "10.5.50.2", pods[1].addr)

	h.run("systemctl", "stop", "flanneld")
	g.configure("10.6.0.0/16", "host-gw")
	h.run("systemctl", "start", "flanneld")
	restart := g.text("systemctl restart docker")
	for range 2 { // what was made for one start is not added to at the next
		g.follow(h, restart)
		g.startAgain(pods[0])
		if !strings.HasPrefix(pods[0].addr, "10.6.") {
			g.t.Errorf("in the new network, a container has the address %s", pods[0].addr)
		}
		g.wantInSubnet(pods[0], h.env())
	}
	command := h.run("ps", "-o", "args=", "-p", h.show("docker", "MainPID"))
	for _, option := range []string{" --bip=10.6.", " --mtu=1500", " --ip-masq=false", " " + ownOption} {
		if strings.Count(command, option) != 1 {
			g.t.Errorf("Docker runs as %q, want one%s", command, option)
		}
	}

	h.run("systemctl", "stop", "flanneld")
	h.run("rm", "-r", "/run/flannel", "/usr/local/bin/mk-docker-opts.sh")
	check(g.t, h.sys.WriteFile("/etc/docker/daemon.json", `{"bip": "172.17.0.1/16"}`))
	g.run("rm /etc/systemd", h)
	h.docker("start", "pod")
	if addr := h.docker("inspect", podAddr, "pod"); !strings.HasPrefix(addr, "172.17.") {
		g.t.Errorf("without flanneld, a container has the address %q", addr)
	}
}

// startAgain starts a container that was stopped, and waits until it serves.
func (g *guide) startAgain(c *container) {
	g.t.Helper()
	c.docker("start", "pod")
	c.addr = c.docker("inspect", podAddr, "pod")
	g.wait(soon, "the container to serve", func() string {
		out := c.docker("exec", "pod", "/bin/sh", "-c", "netstat -ltn; md5sum </file")
		if !strings.Contains(out, ":80 ") {
			return "it does not:\n" + out
		}
		c.sum = out[strings.LastIndex(out, "\n")+1:]
		return ""
	})
}

// followDirectRouting has a rule in table raw as Docker 28 has it for each container, and
// looks at what it drops.
func (g *guide) followDirectRouting(h *host, to, from *container) {
	g.t.Helper()
	_, rest, _ := strings.Cut(read(g.t, "../"+g.name), "a rule such as `-A PREROUTING ")
	rule, _, _ := strings.Cut(rest, "`")
	rule = strings.Replace(rule, "10.5.34.2", to.addr, 1)
	h.run("sh", "-c", "iptables -t raw -A PREROUTING "+rule)
	if shown := g.run("iptables -t raw", h); !strings.Contains(shown, rule) {
		g.t.Errorf("docker.md shows %q, and the host has\n%s", rule, shown)
	}
	if out := from.docker("exec", "pod", "/bin/sh", "-c", "ping -c 1 -W 2 "+to.addr+" >/dev/null && echo reached || echo dropped"); out != "dropped" {
		g.t.Errorf("with the rule, from another host the container is %s", out)
	}
	h.run("busybox", "ping", "-c", "1", "-W", "5", to.addr)
	h.run("sh", "-c", "iptables -t raw -D PREROUTING "+rule)
	if out, err := h.try("dockerd --allow-direct-routing --version"); err == nil {
		g.t.Errorf("docker.md says that this Docker does not have --allow-direct-routing, which takes it and prints %s", out)
	}
}
