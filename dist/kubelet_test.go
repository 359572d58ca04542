package dist_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flanneld/pkg/lab"
)

// kubelet does on a host what a kubelet does there for the DaemonSet's pod.
type kubelet struct {
	*host
	k      *lab.Kube
	node   string
	root   string // of the folders of the host, as that sees it
	dir    string // of what it mounts into the pod
	config *lab.ConfigMapDir
	secret string // folder of the service account
	spec   corev1.PodSpec
}

// newKubelet registers the host as a Node and prepares what the DaemonSet's pod needs there.
func (h *host) newKubelet(k *lab.Kube, root string) *kubelet {
	t := h.n.t
	t.Helper()
	l := &kubelet{host: h, k: k, node: h.Name, root: root, dir: filepath.Join(root, "kubelet")}
	plugins := filepath.Join(root, "opt/cni/bin")
	if h.sys != nil {
		l.dir, plugins = filepath.Join(h.sys.Root, l.dir), filepath.Join(h.sys.Root, plugins)
	}
	if _, err := k.Node(h.n.ctx, l.node); apierrors.IsNotFound(err) {
		_, err := k.Create(h.n.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: l.node, Labels: map[string]string{corev1.LabelOSStable: "linux"},
		}})
		check(t, err)
	}
	check(t, os.CopyFS(plugins, os.DirFS("../build/cni")))
	l.spec = h.n.daemonSet(k).Spec.Template.Spec
	l.secret = filepath.Join(l.dir, "secret")
	check(t, os.MkdirAll(l.secret, 0o755))
	token, err := k.Token(h.n.ctx, "kube-flannel", l.spec.ServiceAccountName)
	check(t, err)
	for name, text := range map[string]string{"token": token, "ca.crt": read(t, k.CA.Cert)} {
		check(t, os.WriteFile(filepath.Join(l.secret, name), []byte(text), 0o600))
	}
	l.config, err = lab.NewConfigMapDir(filepath.Join(l.dir, "config"), l.configMap())
	check(t, err)
	return l
}

// configMap is the data of the ConfigMap that the pod has.
func (l *kubelet) configMap() map[string]string {
	l.n.t.Helper()
	for _, v := range l.spec.Volumes {
		if v.ConfigMap != nil {
			var config corev1.ConfigMap
			check(l.n.t, l.k.REST.Get().Namespace("kube-flannel").Resource("configmaps").Name(v.ConfigMap.Name).Do(l.n.ctx).Into(&config))
			return config.Data
		}
	}
	l.n.t.Fatal("the pod has no ConfigMap")
	return nil
}

// mount is a folder or a file of the host that a container has.
type mount struct {
	from, to string
	readOnly bool
}

// mounts are those of the daemon's container. Those of the host that are not there are made.
func (l *kubelet) mounts() []mount {
	t := l.n.t
	t.Helper()
	all := []mount{{l.seen(l.secret), "/var/run/secrets/kubernetes.io/serviceaccount", true}}
	for _, m := range l.spec.Containers[0].VolumeMounts {
		for _, v := range l.spec.Volumes {
			switch {
			case v.Name != m.Name:
			case v.ConfigMap != nil:
				all = append(all, mount{l.seen(l.config.Dir), m.MountPath, true})
			case *v.HostPath.Type == corev1.HostPathCharDev:
				all = append(all, mount{v.HostPath.Path, m.MountPath, m.ReadOnly})
			default:
				path := filepath.Join(l.root, v.HostPath.Path)
				script := "mkdir -p " + path
				if *v.HostPath.Type == corev1.HostPathFileOrCreate {
					script = "mkdir -p " + filepath.Dir(path) + " && touch " + path
				}
				_, err := l.try(script)
				check(t, err)
				all = append(all, mount{path, m.MountPath, m.ReadOnly})
			}
		}
	}
	return all
}

// seen is a path as the host sees it.
func (l *kubelet) seen(path string) string {
	if l.sys != nil {
		return strings.TrimPrefix(path, l.sys.Root)
	}
	return path
}

// env is the environment of the container, with that of each pod.
func (l *kubelet) env() []string {
	t := l.n.t
	t.Helper()
	all := []string{"KUBERNETES_SERVICE_HOST=" + l.n.server.Addr.String(), "KUBERNETES_SERVICE_PORT=6443"}
	for _, e := range l.spec.Containers[0].Env {
		if e.ValueFrom == nil || e.ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
			t.Fatalf("the container has the variable %v", e)
		}
		all = append(all, e.Name+"="+l.node)
	}
	return all
}

// runIn runs the pod's container by Docker.
func (l *kubelet) runIn(d docker, image string) {
	t := l.n.t
	t.Helper()
	c := l.spec.Containers[0]
	s := c.SecurityContext
	if !l.spec.HostNetwork || *s.Privileged || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Fatalf("the pod is %+v", l.spec)
	}
	// With a terminal all of the log is where what is printed goes.
	args := []string{"run", "--detach", "--tty", "--name=" + c.Name, "--network=host", "--entrypoint=" + c.Command[0]}
	for _, e := range l.env() {
		args = append(args, "--env="+e)
	}
	for _, m := range l.mounts() {
		mode := map[bool]string{true: "ro", false: "rw"}[m.readOnly]
		args = append(args, "--volume="+m.from+":"+m.to+":"+mode)
	}
	for _, name := range s.Capabilities.Drop {
		args = append(args, "--cap-drop="+string(name))
	}
	for _, name := range s.Capabilities.Add {
		args = append(args, "--cap-add="+string(name))
	}
	if *s.ReadOnlyRootFilesystem {
		args = append(args, "--read-only")
	}
	if !*s.AllowPrivilegeEscalation {
		args = append(args, "--security-opt=no-new-privileges")
	}
	d(append(append(args, image), c.Args...)...)
}

// probe asks what a probe of the container asks, and returns the answer if it is a bad one.
func (l *kubelet) probe(p *corev1.Probe) string {
	l.n.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: l.DialContext, DisableKeepAlives: true}}
	ctx, cancel := context.WithTimeout(l.n.ctx, soon)
	defer cancel()
	get := p.HTTPGet
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%s%s", get.Host, get.Port.String(), get.Path), nil)
	check(l.n.t, err)
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return resp.Status + ": " + string(text)
	}
	return ""
}

// The DaemonSet's pod, as a container of Docker with the rights that it asks for and no others,
// gives pods of two Nodes a network, with the plugins that are everywhere.
func TestDaemonSet(t *testing.T) {
	t.Parallel()
	n := newLab(t)
	n.laySwitch()
	k, err := n.lab.StartKube(n.ctx, n.server, lab.KubeOptions{})
	check(t, err)
	_, err = k.StartControllerManager("10.244.0.0/16")
	check(t, err)
	image := fmt.Sprintf("flanneld:%s-%s", testVersion, runtime.GOARCH)
	archive, busybox := imageArchive(t, testVersion), filepath.Join(n.lab.Dir, "busybox.tar")
	check(t, lab.WriteImage(n.ctx, busybox))
	var dockers []docker
	for i := range n.hosts {
		added, err := n.lab.AddHost(fmt.Sprintf("host%d", i+1), n.sw, lab.HostOptions{})
		check(t, err)
		n.hosts[i] = &host{Host: added, n: n}
		d, err := added.StartDocker(n.ctx, fmt.Sprintf("--bip=172.17.%d.1/24", i))
		check(t, err)
		t.Cleanup(func() { check(t, d.Stop(soon)) })
		dockers = append(dockers, n.client(d))
		dockers[i]("load", "--input", archive)
		dockers[i]("import", busybox, "busybox")
	}
	manifest := read(t, one(t, release(t, testVersion), "flanneld-*.yaml"))
	for _, b := range []struct{ backend, manifest string }{
		{"vxlan", manifest},
		{"udp", render(t, "kubernetes/chart", "{createNamespace: true, flannel: {backend: udp}}")},
	} {
		t.Run(b.backend, func(t *testing.T) { n.in(t).testDaemonSet(k, dockers, image, b.manifest) })
	}
}

func (n *network) testDaemonSet(k *lab.Kube, dockers []docker, image, manifest string) {
	t := n.t
	check(t, k.Apply(n.ctx, []byte(manifest)))
	var kubelets []*kubelet
	var pods []*pod
	for i, h := range n.hosts {
		l := h.newKubelet(k, filepath.Join(h.Dir, filepath.Base(t.Name())))
		l.runIn(dockers[i], image)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the log on %s:\n%s", h.Name, dockers[i]("logs", "kube-flannel"))
			}
			dockers[i]("rm", "--force", "kube-flannel")
		})
		kubelets = append(kubelets, l)
	}
	for i, l := range kubelets {
		container := l.spec.Containers[0]
		n.wait(soon, "the pod to be ready", func() string {
			if state := dockers[i]("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", "kube-flannel"); state != "running 0" {
				t.Fatalf("the container on %s is %s", l.Name, state)
			}
			return l.probe(container.ReadinessProbe)
		})
		for _, p := range []*corev1.Probe{container.StartupProbe, container.LivenessProbe} {
			if answer := l.probe(p); answer != "" {
				t.Errorf("a probe of %s: %s", l.Name, answer)
			}
		}
		n.wantConfined(dockers[i])
		l.waitCondition()
		c := l.installCNIFor("bridge")
		c.run, c.config = filepath.Join(l.root, "run"), filepath.Join(l.root, "etc/cni/net.d")
		p := c.add("pod-" + filepath.Base(t.Name()))
		p.wantInSubnet(env(read(t, filepath.Join(c.run, "flannel/subnet.env"))))
		pods = append(pods, p)
	}
	pods[0].wantReaches(pods[1])
	pods[1].wantReaches(pods[0])
	check(t, pods[0].WaitPing(n.ctx, n.server.Addr)) // outside, as the host
	for i, l := range kubelets {
		n.wait(soon, "the Nodes to reach each other on "+l.Name, func() string {
			if screen := dockers[i]("exec", "kube-flannel", "/flanneld", "-status"); !strings.Contains(screen, "healthy") || !strings.Contains(screen, "1 reachable") {
				return screen
			}
			return ""
		})
	}
	for _, p := range pods {
		p.del()
		p.c.command(nil, "ip", "link", "delete", "cni0")
	}
	if filepath.Base(t.Name()) == "vxlan" {
		kubelets[0].wantFoldersWatched(dockers[0])
	}
}

// wantFoldersWatched checks what the daemon in the container says and does when the folders of
// CNI on its Node are cleared, as an upgrade of a package does, or removed and made anew, as
// reinstallations do: a container keeps the former one.
func (l *kubelet) wantFoldersWatched(d docker) {
	n := l.n
	n.t.Helper()
	says := func(text string) {
		n.t.Helper()
		n.wait(soon, "the log to have "+text, func() string {
			if log := d("logs", "kube-flannel"); !strings.Contains(log, text) {
				return log
			}
			return ""
		})
	}
	const missing = "/etc/cni/net.d/10-flannel.conflist: pods need CNI plugins that are in none of /opt/cni/bin, /usr/lib/cni, /usr/libexec/cni: install bridge, host-local, portmap, loopback"
	plugins, config := filepath.Join(l.root, "opt/cni/bin"), filepath.Join(l.root, "etc/cni/net.d")
	l.command(nil, "sh", "-c", "rm -r "+plugins+"/*")
	says("packets are kept from their way: " + missing)
	check(n.t, os.CopyFS(plugins, os.DirFS("../build/cni")))
	says("no longer in the way: " + missing)
	check(n.t, os.RemoveAll(plugins))
	check(n.t, os.CopyFS(plugins, os.DirFS("../build/cni")))
	says("packets are kept from their way: /opt/cni/bin: it was removed")

	written := read(n.t, filepath.Join(config, "10-flannel.conflist"))
	check(n.t, os.RemoveAll(config))
	check(n.t, os.MkdirAll(config, 0o755))
	n.wait(soon, "the container to end", func() string {
		if state := d("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", "kube-flannel"); state != "exited 1" {
			return "it is " + state
		}
		return ""
	})
	d("start", "kube-flannel")
	n.waitFile(filepath.Join(config, "10-flannel.conflist"), written)
}

// waitCondition waits until the Node says that its network works.
func (l *kubelet) waitCondition() {
	l.n.t.Helper()
	l.n.wait(soon, "the Node to say that it has a network", func() string {
		node, err := l.k.Node(l.n.ctx, l.node)
		check(l.n.t, err)
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionFalse {
				return ""
			}
		}
		return fmt.Sprintf("its conditions are %v", node.Status.Conditions)
	})
}

// wantConfined checks that the daemon has two capabilities, gets no others, and cannot write
// to its own file system.
func (n *network) wantConfined(d docker) {
	t := n.t
	t.Helper()
	inside := func(command string) string {
		t.Helper()
		return d("run", "--rm", "--pid=container:kube-flannel", "--cap-add=SYS_PTRACE", "busybox", "/bin/sh", "-c", command)
	}
	status := inside("cat /proc/1/status")
	for _, want := range []string{`Name:\sflanneld`, `CapEff:\s0000000000003000`, `CapBnd:\s0000000000003000`, `NoNewPrivs:\s1`, `Seccomp:\s2`} {
		if !regexp.MustCompile(want).MatchString(status) {
			t.Errorf("of the daemon there is no %q in\n%s", want, status)
		}
	}
	if out := inside("touch /proc/1/root/x 2>&1 || true"); !strings.Contains(out, "Read-only file system") {
		t.Errorf("writing to the daemon's file system: %q", out)
	}
}
