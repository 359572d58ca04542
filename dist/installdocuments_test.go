package dist_test

import (
	"path/filepath"
	"strings"
)

// clone has the repository on a host, which has Go.
func (g *guide) clone(h *host) {
	g.t.Helper()
	const path = "/root/flanneld"
	checkout(g.t, filepath.Join(h.sys.Root, path))
	g.dirs[h] = path
}

func followReadme(g *guide) {
	g.builds = true
	g.lay("192.168.0.10", 2, nil)
	server := g.bootServer(nil, "../build/etcd")
	h := g.nodes[0]
	for _, h := range g.nodes {
		g.clone(h)
		check(g.t, h.Sysctl("net.ipv4.ip_forward", "0")) // Docker turns it on, and drops what is not its own
	}
	if demo := g.run("make demo", h); !strings.Contains(demo, "Round trips from pod to pod") {
		g.t.Errorf("the demo prints\n%s", demo)
	}
	g.run("make build", g.nodes...)
	etcd := g.start("etcd ", server)
	etcd.wait("etcd to answer", func() string {
		out, err := server.try("etcdctl --endpoints=http://192.168.0.10:2379 endpoint health 2>&1")
		if err != nil {
			return out
		}
		return ""
	})
	g.run("etcdctl ")
	for _, s := range g.startOn("sudo flanneld") {
		s.wait("the log to say that it is ready", func() string {
			if log := s.log(); !strings.Contains(log, "ready: subnet") {
				return log
			}
			return ""
		})
		s.waitReady()
	}
	for _, s := range g.startOn(". /run/flannel/subnet.env\ndockerd") {
		s.wait("Docker to answer", func() string {
			out, err := s.h.try("docker version 2>&1")
			if err != nil {
				return out
			}
			return ""
		})
	}
	g.containers()
	g.dryRun("make test")
}

// startOn runs the next block in a terminal on each host where it is to be run.
func (g *guide) startOn(beginning string) (all []*terminal) {
	g.t.Helper()
	script, where := g.next(beginning)
	for _, h := range g.places[where] {
		all = append(all, g.terminal(h, script))
	}
	if len(all) == 0 {
		g.t.Fatalf("there is no %q, where this of %s is to be run:\n%s", where, g.name, script)
	}
	return all
}

func followInstalling(g *guide) {
	g.builds = true
	g.lay("192.168.0.10", 2, nil)
	g.startEtcd()
	g.configure("10.5.0.0/16", "vxlan")
	h, other := g.nodes[0], g.nodes[1]
	g.clone(h)
	g.run("make release", h)
	g.run("cd build/release\nsha256sum", h)
	// As if all architectures had been made.
	h.run("sh", "-c", "cd /root/flanneld/build/release && touch flanneld_1.2.3_other.deb flanneld-v1.2.3-linux-other.tar.gz")

	g.installOn(other)
	h.layUsr()
	g.run("dpkg -i", h)
	check(g.t, h.sys.WriteFile(optionsFile, g.options()+"FLANNELD_IFACE=eth0\n"))
	g.run("systemctl enable", h)
	h.waitShow("flanneld", "ActiveState", "active")
	g.addPods("package")
	g.run("dpkg -r", h)
	h.run("test", "-s", optionsFile)
	g.run("dpkg -P", h)
	h.run("test", "!", "-e", "/run/flannel", "-a", "!", "-e", "/var/lib/flannel", "-a", "!", "-e", optionsFile)

	g.run("tar -xf", h)
	// As it says there.
	unit := strings.NewReplacer("build/flanneld ", "flanneld ", "dist/", "").Replace(g.other("systemd.md", "install"))
	g.shell(h, g.substitute(unit, "192.168.0.2:2379", "192.168.0.10:2379"))
	h.addPod("archive")
	g.wantPings()
	h.run("systemctl", "disable", "--now", "flanneld")

	h.run("systemctl", "start", "docker")
	g.run("docker build", h)
	// Without a terminal the version would go to where errors go.
	if out := h.docker("run", "--rm", "--tty", "flanneld", "-version"); out != testVersion {
		g.t.Errorf("flanneld -version says %q", out)
	}
	h.run("sh", "-c", "rm -r /run/flannel/* /var/lib/flannel/*")
	g.run("docker run", h)
	g.wantContained(h)
}

// wantContained checks that the daemon works in a container.
func (g *guide) wantContained(h *host) {
	g.t.Helper()
	subnetFile := func() (text string) {
		g.t.Helper()
		g.wait(soon, "the subnet file", func() string {
			var err error
			if text, err = h.try("cat /run/flannel/subnet.env"); err != nil {
				return err.Error()
			}
			return ""
		})
		return text
	}
	before := subnetFile()
	h.addPod("image")
	g.wantPings()
	if state := h.docker("inspect", "--format={{.State.Status}} {{.RestartCount}}", "flanneld"); state != "running 0" {
		g.t.Errorf("the container is %s", state)
	}
	// The daemon can't make this machine's folder again, only write to one without a name.
	h.run("rm", "-r", "/run/flannel")
	if after := subnetFile(); after != before {
		g.t.Errorf("the subnet file has %q, it was %q", after, before)
	}
	g.wantPings()
}
