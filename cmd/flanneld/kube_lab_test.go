package main_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"flanneld/pkg/lab"
)

// kubeStore is Kubernetes, where hosts have their subnets from Nodes.
var kubeStore = store{name: "kube"}

// The variants with Kubernetes. Its tests are about the store, so that not each of them
// meets every backend.
var (
	kubeVXLAN  = variant{backend: vxlanBackend, store: kubeStore}
	kubeHostGW = variant{backend: hostGWBackend, store: kubeStore}
	kubeUDP    = variant{backend: udpBackend, store: kubeStore}
)

// kube is what a network has of Kubernetes.
type kube struct {
	*lab.Kube
	config     *lab.ConfigMapDir // with net-conf.json
	kubeconfig string            // of the daemons
}

const netConf = "net-conf.json"

// newKube returns a lab with a Kubernetes API and a configuration, and no hosts.
func newKube(t testing.TB, v variant, special settings) *network {
	t.Helper()
	n := newLab(t, v)
	n.startKube(special)
	return n
}

// startKube starts a Kubernetes API, with a configuration.
func (n *network) startKube(special settings) {
	n.t.Helper()
	api, err := n.lab.StartKube(n.ctx, n.server, lab.KubeOptions{})
	check(n.t, err)
	n.kube = &kube{Kube: api, kubeconfig: filepath.Join(n.lab.Dir, "kubeconfig")}
	token, err := api.FlannelToken(n.ctx)
	check(n.t, err)
	check(n.t, api.WriteKubeconfig(n.kube.kubeconfig, token))
	n.kube.config, err = lab.NewConfigMapDir(filepath.Join(n.lab.Dir, "kube-flannel"), map[string]string{netConf: n.config(special)})
	check(n.t, err)
}

// newKubeNetwork returns a lab of so many hosts, each with a Node, a daemon that is ready,
// and a pod.
func newKubeNetwork(t testing.TB, hosts int, v variant, special settings, args ...string) *network {
	t.Helper()
	n := newKube(t, v, special)
	for range hosts {
		h := n.addKubeNode(args...)
		h.createNode(h.podCIDRs()...)
		h.start()
	}
	n.readyWithPods()
	return n
}

// addKubeNode adds a host that is to have its subnet from Kubernetes, where there is no Node
// for it yet.
func (n *network) addKubeNode(args ...string) *node {
	n.t.Helper()
	h := n.addNode(lab.HostOptions{}, append([]string{
		"-kube-subnet-mgr", "-kubeconfig-file=" + n.kube.kubeconfig,
		"-net-config-path=" + filepath.Join(n.kube.config.Dir, netConf),
	}, args...)...)
	h.env = []string{"NODE_NAME=" + h.Name}
	return h
}

// podCIDR is the subnet that tests give the host's Node: 10.5.1.0/24 is that of the first.
func (h *node) podCIDR() string { return h.podCIDRs()[0] }

// podCIDRs are the subnets of both families, or of the one that the network has, that tests give
// the host's Node.
func (h *node) podCIDRs() []string {
	p := h.n.stranger(fmt.Sprintf("10.5.%d.0/24", slices.Index(h.n.nodes, h)+1), "192.168.0.1")
	return p.texts(netip.Prefix.String)
}

// createNode creates the host's Node.
func (h *node) createNode(podCIDRs ...string) {
	h.n.t.Helper()
	_, err := h.n.kube.CreateNode(h.n.ctx, h.Name, podCIDRs...)
	check(h.n.t, err)
}

// kubeNode is the host's Node as it is now.
func (h *node) kubeNode() *corev1.Node {
	h.n.t.Helper()
	node, err := h.n.kube.Node(h.n.ctx, h.Name)
	check(h.n.t, err)
	return node
}

// The annotations that daemons write and read.
const (
	annotations    = "flannel.alpha.coreos.com/"
	isManaged      = annotations + "kube-subnet-manager"
	backendType    = annotations + "backend-type"
	backendData    = annotations + "backend-data"
	publicIP       = annotations + "public-ip"
	overwrite      = annotations + "public-ip-overwrite"
	nodePublicIP   = annotations + "node-public-ip"
	backendV6Data  = annotations + "backend-v6-data"
	publicIPv6     = annotations + "public-ipv6"
	controllerName = "kube-controller-manager"
)

// published are the annotations of a peer's Node, as flannel writes them.
func (n *network) published(p peer) map[string]any {
	n.t.Helper()
	var lease struct {
		BackendType                string
		BackendData, BackendV6Data json.RawMessage
	}
	check(n.t, json.Unmarshal([]byte(n.backend.lease(p)), &lease))
	all := map[string]any{isManaged: "true", backendType: lease.BackendType}
	for _, v := range p.views() {
		public, key, data := publicIP, backendData, lease.BackendData
		if v.public.Is6() {
			public, key, data = publicIPv6, backendV6Data, lease.BackendV6Data
		}
		if data == nil {
			data = json.RawMessage("null")
		}
		all[public], all[key] = v.public.String(), string(data)
	}
	return all
}

// putKubePeer creates the Node of a stranger, with these changes of its annotations.
func (n *network) putKubePeer(p peer, special map[string]any) {
	n.t.Helper()
	_, err := n.kube.Create(n.ctx, n.strangersNode(p, special))
	check(n.t, err)
}

// strangersNode is the Node of a stranger, with these changes of its annotations.
func (n *network) strangersNode(p peer, special map[string]any) *corev1.Node {
	n.t.Helper()
	all := n.published(p)
	maps.Copy(all, special)
	o := &corev1.Node{}
	o.Name = p.kubeName()
	o.Spec.PodCIDR, o.Spec.PodCIDRs = p.subnet.String(), p.texts(netip.Prefix.String)
	o.Annotations = make(map[string]string)
	for key, value := range all {
		if text, ok := value.(string); ok {
			o.Annotations[key] = text
		}
	}
	return o
}

// putLargeNode creates the Node of a stranger, as large as Nodes are.
func (n *network) putLargeNode(p peer) error {
	o := n.strangersNode(p, nil)
	o.Status = lab.KubeletStatus()
	_, err := n.kube.Create(n.ctx, o)
	return err
}

// kubeName is the name of a stranger's Node.
func (p peer) kubeName() string {
	return "stranger-" + strings.NewReplacer(".", "-", "::", "-", ":", "-").Replace(p.name())
}

// annotate changes annotations of the host's Node; what is nil goes.
func (h *node) annotate(special map[string]any) {
	h.n.t.Helper()
	check(h.n.t, h.n.kube.Annotate(h.n.ctx, h.Name, special))
}

// waitAnnotations waits until the host's Node says what it must of a host that serves pods,
// but for what is special.
func (h *node) waitAnnotations(within time.Duration, special map[string]any) time.Duration {
	h.n.t.Helper()
	return h.n.wait(within, "the annotations of "+h.Name, func() string {
		want := h.n.published(h.peer())
		maps.Copy(want, special)
		got := h.kubeNode().Annotations
		for key, value := range want {
			if is, ok := got[key]; ok != (value != nil) || ok && is != value {
				return fmt.Sprintf("%s is %q, want %v", key, is, value)
			}
		}
		return ""
	})
}

// condition is what the host's Node says of its network; nil if it says nothing.
func (h *node) condition() *corev1.NodeCondition {
	h.n.t.Helper()
	for _, c := range h.kubeNode().Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			return &c
		}
	}
	return nil
}

// configure replaces net-conf.json as kubelet does.
func (n *network) configure(special settings) {
	n.t.Helper()
	check(n.t, n.kube.config.Set(map[string]string{netConf: n.config(special)}))
}

// beats has Nodes of strangers, one after the other, say that they are alive: so many of them in
// a second, or as many as the API takes. It returns the daemon's processor time for each, and
// how many there were in a second.
func (h *node) beats(whose func(i int) peer, count int, rate time.Duration) (each time.Duration, perSecond float64) {
	h.n.t.Helper()
	var g errgroup.Group
	g.SetLimit(8)
	used, begin := h.cpu(), time.Now()
	for i := range count {
		if rate > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / rate)))
		}
		g.Go(func() error { return h.n.kube.Heartbeat(h.n.ctx, whose(i).kubeName()) })
	}
	check(h.n.t, g.Wait())
	perSecond = float64(count) / time.Since(begin).Seconds()
	time.Sleep(100 * time.Millisecond) // the last of them have yet to arrive
	return (h.cpu() - used) / time.Duration(count), perSecond
}

// kubeStateFile is where the daemon keeps what it needs to start without the API.
func (h *node) kubeStateFile() string {
	h.n.t.Helper()
	files, err := filepath.Glob(filepath.Join(h.Dir, "state", "*.json"))
	check(h.n.t, err)
	if len(files) == 1 {
		return files[0]
	}
	return filepath.Join(h.Dir, "state", "none.json")
}

// waitKubeSaved waits until the state file has some text in it.
func (h *node) waitKubeSaved(text string) {
	h.n.t.Helper()
	h.n.wait(2*soon, "the state file to have "+text, func() string {
		b, err := os.ReadFile(h.kubeStateFile())
		if err != nil {
			return err.Error()
		}
		return lacks(string(b), text)
	})
}

// notReady checks that the daemon is alive and not ready.
func (h *node) notReady() {
	h.n.t.Helper()
	select {
	case <-h.daemon.Notify.Ready():
		h.n.t.Errorf("%s is ready", h.Name)
	case <-h.daemon.Exited():
		h.n.t.Errorf("%s has ended with status %d", h.Name, h.daemon.ExitCode())
	default:
	}
	h.isLive()
	if got := h.health("readyz"); !strings.HasPrefix(got, "503 ") {
		h.n.t.Errorf("/readyz of %s says %s", h.Name, got)
	}
}

// logged counts the lines of the daemon's log that have all of these texts.
func (h *node) logged(texts ...string) int {
	n := 0
	for line := range strings.Lines(h.daemon.Log()) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

// waitLine waits until a line of the daemon's log has all of these texts.
func (h *node) waitLine(texts ...string) {
	h.n.t.Helper()
	h.n.wait(soon, fmt.Sprintf("a line with %q", texts), func() string {
		if h.logged(texts...) == 0 {
			return "the log is\n" + h.daemon.Log()
		}
		return ""
	})
}

func readFile(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	check(t, err)
	return string(text)
}

// writeFiles makes a folder with files.
func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	check(t, os.MkdirAll(dir, 0o755))
	for name, text := range files {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
}
