package dist_test

import (
	"context"
	"maps"
	"strings"

	"flanneld/pkg/lab"
)

const (
	optionsFile = "/etc/flannel/options.env"
	unitDir     = "/etc/systemd/system/"
)

// boot starts the host's systemd, with flanneld installed and enabled, and with more
// files by their path and more units enabled.
func (h *host) boot(files map[string]string, enable ...string) {
	h.n.t.Helper()
	all := map[string]string{
		optionsFile:                  h.n.options(),
		unitDir + "flanneld.service": read(h.n.t, "flanneld.service"),
	}
	maps.Copy(all, files)
	var err error
	h.sys, err = h.Boot(h.n.ctx, lab.SystemOptions{
		Files:    all,
		Programs: map[string]string{"flanneld": daemonBinary, "mk-docker-opts.sh": "mk-docker-opts.sh"},
		Enable:   append(enable, "flanneld.service"),
	})
	check(h.n.t, err)
	h.n.t.Cleanup(func() {
		if h.n.t.Failed() {
			journal, err := h.sys.Run(context.Background(), "journalctl", "--no-pager", "--lines=300")
			h.n.t.Logf("journal of %s (%v):\n%s", h.Name, err, journal)
		}
	})
}

// options is the text of an options file.
func (n *network) options() string { return "FLANNELD_ETCD_ENDPOINTS=" + n.etcd.Endpoint() + "\n" }

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

// waitShow waits until a property of a unit has a value.
func (h *host) waitShow(unit, property, want string) {
	h.n.t.Helper()
	h.n.wait(soon, unit+" having "+property+" "+want, func() string {
		if got := h.show(unit, property); got != want {
			return "it is " + got
		}
		return ""
	})
}

// env has the variables of the host's subnet file.
func (h *host) env() map[string]string {
	h.n.t.Helper()
	return env(h.run("cat", "/run/flannel/subnet.env"))
}

// addPod puts a pod into the host's subnet.
func (h *host) addPod(name string) {
	h.n.t.Helper()
	var err error
	h.pod, err = h.AddPod(name, h.env())
	check(h.n.t, err)
}
