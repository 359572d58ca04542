package dist_test

import (
	"context"
	"strings"
	"testing"
"time"

	"flanneld/pkg/lab"
)

// boot starts the host's systemd, with flanneld installed as Documentation/systemd.md
// says, and more files by their path.
func (h *host) boot(files map[string]string, enable ...string) {
	h.n.t.Helper()
	all := map[string]string{
		"/etc/flannel/options.env":             "FLANNELD_ETCD_ENDPOINTS=" + h.n.etcd.Endpoint() + "\n",
		"/etc/systemd/system/flanneld.service": read(h.n.t, "flanneld.service"),
	}
	for path, text := range files {
		all[path] = text
	}
	var err error
	h.sys, err = h.Boot(h.n.ctx, lab.SystemOptions{
		Files:    all,
		Programs: map[string]string{"flanneld": daemonBinary, "mk-docker-opts.sh": "mk-docker-opts.sh"},
		Enable:   enable,
	})
	check(h.n.t, err)
	h.n.t.Cleanup(func() {
		if h.n.t.Failed() {
			journal, err := h.sys.Run(context.Background(), "journalctl", "--no-pager", "-n", "200")
			h.n.t.Logf("journal of %s (%v):\n%s", h.Name, err, journal)
		}
	})
}

// run runs a command on the host.
func (h *host) run(argv ...string) string {
	h.n.t.Helper()
	out, err := h.sys.Run(h.n.ctx, argv...)
	check(h.n.t, err)
	return strings.TrimSpace(out)
}

// show is a property of a unit.
func (h *host) show(unit, property string) string {
	h.n.t.Helper()
	return h.run("systemctl", "show", "--value", "--property="+property, unit)
}

func TestBoot(t *testing.T) {
	n := newNetwork(t)
	n.configure("vxlan")
	h := n.hosts[0]
	start:=time.Now()
	h.boot(nil, "flanneld.service")
	t.Log(time.Since(start))
	time.Sleep(3*time.Second)
	t.Log(h.run("systemd-analyze", "blame", "--no-pager"))
	t.Log(h.run("systemctl", "status", "--no-pager", "flanneld"))
	t.Log(h.run("systemctl", "list-units", "--no-pager"))
	t.Log(h.run("cat", "/run/flannel/subnet.env"))
	t.Error("log")
}
