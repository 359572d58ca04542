package dist_test

import (
	"context"
	"strings"

	"flanneld/pkg/lab"
)

const (
	optionsFile = "/etc/flannel/options.env"
	unitDir     = "/etc/systemd/system/"
)

// source is where the system has what is to be installed.
const source = "/source"

// boot starts the host's systemd, with files by their path, and nothing installed.
func (h *host) boot(files map[string]string, enable ...string) {
	h.n.t.Helper()
	copies := map[string]string{source + "/build/flanneld": daemonBinary}
	for _, path := range []string{"flanneld.service", "mk-docker-opts.sh", "docker.service.d/flannel.conf", "containerd.service.d/flannel.conf", "cni/10-flannel.conflist"} {
		copies[source+"/dist/"+path] = path
	}
	if enable != nil { // it is to be there from the start
		copies["/usr/local/bin/flanneld"] = daemonBinary
		copies[unitDir+"flanneld.service"] = "flanneld.service"
	}
	var err error
	h.sys, err = h.Boot(h.n.ctx, lab.SystemOptions{Files: files, Copies: copies, Binds: h.binds, Enable: enable})
	check(h.n.t, err)
	h.n.t.Cleanup(func() {
		if h.n.t.Failed() {
			journal, err := h.sys.Run(context.Background(), "journalctl", "--no-pager", "--lines=300")
			h.n.t.Logf("journal of %s (%v):\n%s", h.Name, err, journal)
		}
	})
}

// follow does what a document says: it runs the commands of a block, from one that
// begins so.
func (h *host) follow(document, begins string) {
	h.n.t.Helper()
	for _, b := range blocks(h.n.t, "../Documentation/"+document) {
		if at := strings.Index("\n"+b.script, "\n"+begins); at >= 0 {
			h.run("/bin/sh", "-exc", "cd "+source+"\n"+b.script[at:])
			return
		}
	}
	h.n.t.Fatalf("%s has no commands that begin with %q", document, begins)
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
