package dist_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The image is built from the archive alone, and the daemon in it works.
func TestImage(t *testing.T) {
	t.Parallel()
	dir := unpack(t, one(t, release(t, testVersion), "*.tar.gz"), t.TempDir())
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	h := n.hosts[0]
	docker, err := h.StartDocker(n.ctx)
	check(t, err)
	run := func(args ...string) string {
		t.Helper()
		out, err := docker.Run(n.ctx, args...)
		check(t, err)
		return strings.TrimSpace(out)
	}
	run("build", "--tag=flanneld", dir)
	// Without a terminal the version would go to where errors go.
	if out := run("run", "--rm", "--tty", "flanneld", "-version"); out != testVersion {
		t.Errorf("flanneld -version says %q", out)
	}

	peer, err := n.hosts[1].StartFlanneld(daemonBinary)
	check(t, err)
	check(t, peer.WaitReady(n.ctx))
	n.hosts[1].pod, err = n.hosts[1].AddPod("pod", peer.Env())
	check(t, err)
	files := filepath.Join(h.Dir, "run")
	run("run", "--detach", "--name=flanneld", "--restart=always", "--network=host", "--cap-add=NET_ADMIN",
		"--volume="+files+":/run/flannel", "--volume="+filepath.Join(h.Dir, "state")+":/var/lib/flannel",
		"flanneld", "-etcd-endpoints="+n.etcd.Endpoint())
	subnetFile := func() (text []byte) {
		t.Helper()
		n.wait(soon, "the subnet file", func() string {
			if text, err = os.ReadFile(filepath.Join(files, "subnet.env")); err != nil {
				return err.Error()
			}
			return ""
		})
		return text
	}
	before := subnetFile()
	h.pod, err = h.AddPod("pod", env(string(before)))
	check(t, err)
	n.wantPings()
	if state := run("inspect", "--format={{.State.Status}} {{.RestartCount}}", "flanneld"); state != "running 0" {
		t.Errorf("the container is %s", state)
	}

	// The daemon can't make this machine's folder again, only write to one without a name.
	check(t, os.RemoveAll(files))
	if after := subnetFile(); string(after) != string(before) {
		t.Errorf("the subnet file has %q, it was %q", after, before)
	}
	n.wantPings()
	check(t, docker.Stop(soon))
}
