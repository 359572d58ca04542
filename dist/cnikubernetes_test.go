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
	kube, err := n.lab.StartKube(n.ctx, n.server, lab.KubeOptions{})
	check(t, err)
	token, err := kube.FlannelToken(n.ctx)
	check(t, err)
	kubeconfig, conf := filepath.Join(n.lab.Dir, "kubeconfig"), filepath.Join(n.lab.Dir, "net-conf.json")
	check(t, kube.WriteKubeconfig(kubeconfig, token))
	check(t, os.WriteFile(conf, []byte(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`), 0o644))
	var all []*cniHost
	var pods []*pod
	var daemons []*lab.Daemon
	for i, h := range n.hosts {
		_, err := kube.CreateNode(n.ctx, h.Name, fmt.Sprintf("10.5.%d.0/24", i+1))
		check(t, err)
		c := h.installCNIFor("bridge")
		c.env = []string{"NODE_NAME=" + h.Name}
		daemon := c.start("-kube-subnet-mgr", "-kubeconfig-file="+kubeconfig, "-net-config-path="+conf, "-cni-conf-file="+c.confFile())
		all, daemons, pods = append(all, c), append(daemons, daemon), append(pods, c.addFor("pod", daemon))
	}
	pods[0].wantReaches(pods[1])
	pods[1].wantReaches(pods[0])

	c, daemon := all[0], daemons[0]
	check(t, kube.DeleteNode(n.ctx, c.Name))
	_, err = kube.CreateNode(n.ctx, c.Name, "10.5.34.0/24")
	check(t, err)
	n.waitFile(c.confFile(), `"10.5.34.0/24"`)
	check(t, daemon.WaitLog(n.ctx, "cni0: its address 10.5.1.1/24 is not of this host's subnet 10.5.34.0/24"))
	moved := c.addFor("moved", daemon)
	check(t, daemon.WaitLog(n.ctx, "no longer in the way: cni0: its address 10.5.1.1/24"))
	moved.wantReaches(pods[1])
	pods[1].wantReaches(moved)
}
