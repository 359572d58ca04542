package dist_test

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// The commands of troubleshooting.md print on healthy hosts what the page shows; those without
// anything shown print nothing.
func TestTroubleshooting(t *testing.T) {
	t.Parallel()
	n := newLab(t)
	sw, err := n.lab.AddSwitch("switch", netip.MustParsePrefix("192.168.0.0/24"))
	check(t, err)
	hosts := make(map[string]*host) // by address
	for i := range n.hosts {
		h, err := n.lab.AddHost([]string{"host1", "host2"}[i], sw, lab.HostOptions{})
		check(t, err)
		n.hosts[i] = &host{Host: h, n: n}
		hosts[h.Addr.String()] = n.hosts[i]
	}
	n.server, err = n.lab.AddHost("server", sw, lab.HostOptions{})
	check(t, err)
	n.etcd, err = n.lab.StartEtcd(n.ctx, n.server, lab.EtcdOptions{})
	check(t, err)
	n.configure("10.5.0.0/16", "vxlan")
	n.put("subnets/10.5.34.0-24", `{"PublicIP": "192.168.0.2"}`)
	n.put("subnets/10.5.50.0-24", `{"PublicIP": "192.168.0.3"}`)
	for _, h := range n.hosts {
		h.boot(map[string]string{
			optionsFile:               n.options() + "FLANNELD_IP_MASQ=true\n",
			"/etc/docker/daemon.json": `{"storage-driver": "vfs"}`,
		}, "flanneld.service")
		h.waitShow("flanneld", "ActiveState", "active")
		h.follow("docker.md", "install dist/mk-docker-opts.sh")
		check(t, lab.WriteImage(n.ctx, filepath.Join(h.sys.Root, "image.tar")))
		n.startContainer(h.docker, "/image.tar")
	}

	for _, b := range blocks(t, "../Documentation/troubleshooting.md") {
		where := []*host{hosts[b.where]}
		if b.where == "each host" {
			where = n.hosts[:]
		}
		for _, h := range where {
			if h == nil {
				t.Fatalf("there is no %q, where this is to be run:\n%s", b.where, b.script)
			}
			h.wantShown(b.script)
		}
	}
}

// wantShown runs commands until they print what is shown below each.
func (h *host) wantShown(script string) {
	h.n.t.Helper()
	if !strings.HasPrefix(script, "$ ") {
		if out := h.run("/bin/sh", "-euc", script); out != "" {
			h.n.t.Errorf("on %s this prints %q:\n%s", h.Name, out, script)
		}
		return
	}
	for example := range strings.SplitSeq(strings.TrimPrefix(script, "$ "), "\n$ ") {
		command, shown, _ := strings.Cut(example, "\n")
		h.n.wait(soon, "what is shown of "+command, func() string {
			out, err := h.sys.Run(h.n.ctx, "/bin/sh", "-euc", command+" 2>&1")
			for line := range strings.Lines(shown) {
				if err != nil || !shape(line).MatchString(out) {
					return "there is no line like " + line + "but\n" + out
				}
			}
			return ""
		})
	}
}
