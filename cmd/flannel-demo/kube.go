package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"flanneld/pkg/lab"
)

// kube is a Kubernetes API, where each host has a Node.
type kube struct {
	*lab.Kube

	conf    string // net-conf.json
	daemons string // kubeconfig of the daemons, with the rights that the manifest gives them
	admin   string // kubeconfig of who looks around
	kubectl string
}

func (*kube) name() string  { return "Kubernetes" }
func (k *kube) url() string { return k.URL() }

func (k *kube) start(ctx context.Context, d *demo, config string) error {
	inLab := func(name string) string { return filepath.Join(d.lab.Dir, name) }
	k.conf, k.daemons, k.admin = inLab("net-conf.json"), inLab("flanneld.kubeconfig"), inLab("kubeconfig")
	k.kubectl = "kubectl"
	built := filepath.Join(d.binDir, k.kubectl)
	if _, err := exec.LookPath(k.kubectl); err != nil {
		if _, err := os.Stat(built); err == nil {
			k.kubectl = built
		}
	}
	if err := os.WriteFile(k.conf, []byte(config+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	var err error
	if k.Kube, err = d.lab.StartKube(ctx, d.server, lab.KubeOptions{}); err != nil {
		return err
	}
	token, err := k.FlannelToken(ctx)
	if err != nil {
		return err
	}
	if err := k.WriteKubeconfig(k.daemons, token); err != nil {
		return err
	}
	return k.WriteKubeconfig(k.admin, k.AdminToken)
}

func (k *kube) add(ctx context.Context, h *lab.Host, subnet string) (env, args []string, err error) {
	if _, err := k.CreateNode(ctx, h.Name, subnet); err != nil {
		return nil, nil, err
	}
	return []string{"NODE_NAME=" + h.Name}, []string{"-kube-subnet-mgr", "-kubeconfig-file=" + k.daemons, "-net-config-path=" + k.conf}, nil
}

func (k *kube) suggest(w io.Writer, enter string) {
	fmt.Fprintf(w, `  # the network's configuration: what you change there, the daemons follow
  cat %[1]s
  # an administrator's kubeconfig
  cat %[2]s
  # the Nodes, with their subnets and addresses; take an address away, and it is back
  %[3]s %[4]s --kubeconfig=%[2]s get nodes --output=custom-columns='NAME:.metadata.name,SUBNET:.spec.podCIDR,ADDRESS:.metadata.annotations.flannel\.alpha\.coreos\.com/public-ip'
  %[3]s %[4]s --kubeconfig=%[2]s annotate node host1 %[5]s-
  # the same without kubectl
  %[3]s curl --cacert %[6]s --header 'Authorization: Bearer %[7]s' %[8]s/api/v1/nodes/host1
`, k.conf, k.admin, enter, k.kubectl, "flannel.alpha.coreos.com/public-ip", k.CA.Cert, k.AdminToken, k.url())
}
