package dist_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"flanneld/pkg/lab"
)

// In Kubernetes a Node's subnet may become another one while the daemon runs: the file follows,
// and with the next pod the bridge.
func TestCNIConfFileInKubernetes(t *testing.T) {
	t.Parallel()
	n := newLabWithServer(t)
	kube, args := n.startKube()
	var all []*cniHost
	var pods []*pod
	var daemons []*lab.Daemon
	for i, h := range n.hosts {
		_, err := kube.CreateNode(n.ctx, h.Name, fmt.Sprintf("10.5.%d.0/24", i+1))
		check(t, err)
		c := h.installCNIFor("bridge")
		c.env = []string{"NODE_NAME=" + h.Name}
		daemon := c.start(append(args, "-cni-conf-file="+c.confFile())...)
		all, daemons, pods = append(all, c), append(daemons, daemon), append(pods, c.addFor("pod", daemon))
	}
	pods[0].wantReaches(pods[1])
	pods[1].wantReaches(pods[0])

	c, daemon := all[0], daemons[0]
	check(t, kube.DeleteNode(n.ctx, c.Name))
	_, err := kube.CreateNode(n.ctx, c.Name, "10.5.34.0/24")
	check(t, err)
	n.waitFile(c.confFile(), `"10.5.34.0/24"`)
	check(t, daemon.WaitLog(n.ctx, "cni0: its address 10.5.1.1/24 is not of this host's subnet 10.5.34.0/24"))
	moved := c.addFor("moved", daemon)
	check(t, daemon.WaitLog(n.ctx, "no longer in the way: cni0: its address 10.5.1.1/24"))
	moved.wantReaches(pods[1])
	pods[1].wantReaches(moved)
}

// startKube starts an API, and returns what daemons need to be told.
func (n *network) startKube() (kube *lab.Kube, args []string) {
	t := n.t
	t.Helper()
	kube, err := n.lab.StartKube(n.ctx, n.server, lab.KubeOptions{})
	check(t, err)
	token, err := kube.FlannelToken(n.ctx)
	check(t, err)
	kubeconfig, conf := filepath.Join(n.lab.Dir, "kubeconfig"), filepath.Join(n.lab.Dir, "net-conf.json")
	check(t, kube.WriteKubeconfig(kubeconfig, token))
	check(t, os.WriteFile(conf, []byte(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`), 0o644))
	return kube, []string{"-kube-subnet-mgr", "-kubeconfig-file=" + kubeconfig, "-net-config-path=" + conf}
}

// After a boot no file has pods put into a network that is not there yet. While the host runs
// it is there, whatever becomes of daemons.
func TestCNIConfFileAfterBoot(t *testing.T) {
	t.Parallel()
	n := newLabWithServer(t)
	kube, args := n.startKube()
	c := n.hosts[0].installCNIFor("bridge")
	check(t, os.WriteFile(c.confFile(), []byte(`{"cniVersion": "0.3.1", "name": "mine", "plugins": [{"type": "flannel"}]}`), 0o644))
	boot := filepath.Join(c.Dir, "boot_id")
	booted := filepath.Join(c.Dir, "booted")
	check(t, lab.WriteProgram(booted, fmt.Appendf(nil,
		"#!/bin/sh\nexec unshare --mount sh -c 'mount --bind %s /proc/sys/kernel/random/boot_id && exec %s \"$@\"' flanneld \"$@\"\n", boot, daemonBinary), 0o755))
	starts := 0
	start := func() *lab.Daemon {
		t.Helper()
		starts++ // it finds nothing of its own but this file
		d, err := c.StartFlanneldIn([]string{"NODE_NAME=" + c.Name}, booted, append(args, "-cni-conf-file="+c.confFile(),
			fmt.Sprintf("-state-dir=%s/state%d", c.Dir, starts), fmt.Sprintf("-subnet-file=%s/%d/subnet.env", c.run, starts))...)
		check(t, err)
		t.Cleanup(d.Kill)
		return d
	}
	reboot := func() { check(t, os.WriteFile(boot, fmt.Appendf(nil, "6e1d-%d\n", starts), 0o644)) }
	register := func() {
		t.Helper()
		_, err := kube.CreateNode(n.ctx, c.Name, "10.5.1.0/24")
		check(t, err)
	}
	exists := func() bool {
		_, err := os.Stat(c.confFile())
		return err == nil
	}
	const waits = "waiting: there is no Node"

	reboot()
	daemon := start()
	check(t, daemon.WaitLog(n.ctx, waits))
	if !exists() {
		t.Error("another program's file is gone")
	}
	register()
	check(t, daemon.WaitReady(n.ctx))
	n.waitFile(c.confFile(), `"10.5.1.0/24"`)
	written := read(t, c.confFile())
	check(t, kube.DeleteNode(n.ctx, c.Name))

	for _, end := range []func(){func() { c.stop(daemon) }, func() { daemon.Kill() }} {
		end()
		daemon = start()
		check(t, daemon.WaitLog(n.ctx, waits))
		if !exists() || read(t, c.confFile()) != written {
			t.Error("a restart has to do with the file")
		}
	}

	for range 2 { // also if the daemon ends meanwhile
		daemon.Kill()
		reboot()
		daemon = start()
		check(t, daemon.WaitLog(n.ctx, waits))
		if exists() {
			t.Errorf("after a boot there is\n%s", read(t, c.confFile()))
		}
	}
	register()
	check(t, daemon.WaitReady(n.ctx))
	n.waitFile(c.confFile(), `"name": "mine"`)
	if files, err := os.ReadDir(c.config); err != nil || len(files) != 1 {
		t.Errorf("there are %v (%v)", files, err)
	}
	c.network = "mine"
	c.addFor("pod", daemon).del()
}
