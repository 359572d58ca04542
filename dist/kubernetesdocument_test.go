package dist_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"flanneld/pkg/lab"
)

// clusterFolder is where a reader has what the release made.
const clusterFolder = "/root/release"

func followKubernetes(g *guide) {
	g.lay("192.168.0.10", 2, nil)
	k, err := g.lab.StartKube(g.ctx, g.server, lab.KubeOptions{})
	check(g.t, err)
	_, err = k.StartControllerManager("10.244.0.0/16", "--controllers=daemonset-controller,garbage-collector-controller,namespace-controller")
	check(g.t, err)
	server := g.bootServer(map[string]string{"/root/.kube/config": kubeconfig(g, k)})
	if _, err := exec.LookPath("kubectl"); err != nil {
		server.addProgram("kubectl", read(g.t, "../build/kubectl"))
	}
	h, other := g.nodes[0], g.nodes[1]
	manifest := one(g.t, release(g.t, testVersion), "flanneld-*.yaml")
	for _, h := range []*host{server, h, other} {
		for _, path := range []string{imageArchive(g.t, testVersion), manifest} {
			check(g.t, h.sys.WriteFile(filepath.Join(clusterFolder, filepath.Base(path)), read(g.t, path)))
		}
		g.dirs[h] = clusterFolder
	}
	for _, h := range g.nodes {
		for _, file := range []string{"/etc/resolv.conf", "/etc/hosts"} { // containerd mounts them into containers
			check(g.t, h.sys.WriteFile(file, ""))
		}
		h.run("systemctl", "start", "containerd")
	}

	g.run("ctr --namespace k8s.io images import")
	g.run("kubectl apply -f")
	kubelets := []*kubelet{g.startPod(h, k), g.startPod(other, k)}
	g.run("$ kubectl get nodes")
	g.wantPodsReach(kubelets)
	g.run("sed ", server)

	g.skip("kubeadm init")
	g.skip("kubectl run one")
	g.skip("k3s server")
	g.skip("mkdir -p /opt/cni/bin")
	g.skip("k3s ctr images import")

	overlay := g.text("apiVersion: kustomize")
	base := unpack(g.t, one(g.t, release(g.t, testVersion), "*.tar.gz"), g.t.TempDir())
	check(g.t, os.CopyFS(filepath.Join(server.sys.Root, clusterFolder, "kubernetes"), os.DirFS(filepath.Join(base, "kubernetes"))))
	check(g.t, server.sys.WriteFile(clusterFolder+"/overlay/kustomization.yaml", overlay))
	made := server.run("kubectl", "kustomize", clusterFolder+"/overlay")
	for _, want := range []string{"image: registry.example.com/flanneld:v1.2.3\n", `"Network": "10.42.0.0/16", "Backend": {"Type": "host-gw"}`} {
		if !strings.Contains(made, want) {
			g.t.Errorf("of the overlay kustomize makes no %q but\n%s", want, made)
		}
	}
	check(g.t, server.sys.WriteFile(clusterFolder+"/made.yaml", made))
	server.run("kubectl", "apply", "--dry-run=server", "-f", clusterFolder+"/made.yaml")
	g.skip("kubectl create namespace")

	g.run("kubectl --namespace kube-flannel patch configmap")
	for _, l := range kubelets {
		check(g.t, l.config.Set(l.configMap()))
	}
	g.wait(soon, "a route without the tunnel", func() string {
		if routes := h.run("ip", "route", "show", "proto", "70"); !strings.Contains(routes, "via 192.168.0.3 dev eth0") {
			return routes
		}
		return ""
	})
	g.wantPodsReach(kubelets)

	g.run("iptables -I FORWARD", h, other)
	g.skip("FROM debian")

	if conf := g.run("kubectl --namespace kube-flannel get configmap"); !strings.Contains(conf, `"DirectRouting": true`) {
		g.t.Errorf("the configuration is %s", conf)
	}
	g.replaceDaemonSet(server)
	for _, l := range kubelets {
		l.stopPod()
	}
	g.fromEtcd(k)
	for i, h := range g.nodes {
		kubelets[i] = g.startPod(h, k)
	}
	g.wantPodsReach(kubelets)

	g.run("kubectl delete -f")
	for _, l := range kubelets {
		l.stopPod()
	}
	if removed := g.run("ctr --namespace k8s.io run"); !strings.Contains(removed, "flannel.1") || !strings.Contains(removed, "10-flannel.conflist") {
		g.t.Errorf("it removes\n%s", removed)
	}
	for _, h := range g.nodes {
		if left := h.run("sh", "-c", "ls -d /run/flannel/* /var/lib/flannel /etc/cni/net.d/* 2>/dev/null || true"); left != "" {
			g.t.Errorf("there is left\n%s", left)
		}
	}
	g.skip("kubectl --namespace kube-flannel get pods")
	g.skip("kubectl --namespace kube-flannel exec POD")
}

// kubeconfig is that of an administrator, in one file.
func kubeconfig(g *guide, k *lab.Kube) string {
	g.t.Helper()
	path := filepath.Join(g.lab.Dir, "kubeconfig")
	check(g.t, k.WriteKubeconfig(path, k.AdminToken))
	data := "certificate-authority-data: " + base64.StdEncoding.EncodeToString([]byte(read(g.t, k.CA.Cert)))
	return strings.Replace(read(g.t, path), "certificate-authority: "+k.CA.Cert, data, 1)
}

// startPod does what kubelet does for the DaemonSet on a host with containerd, until the pod
// is ready.
func (g *guide) startPod(h *host, k *lab.Kube) *kubelet {
	g.t.Helper()
	l := h.newKubelet(k, "/")
	c := l.spec.Containers[0]
	args := []string{"ctr", "--namespace", "k8s.io", "run", "--detach", "--cpu-shares=0", "--log-uri=file:///kubelet/log", "--net-host", "--read-only", "--seccomp"}
	for _, name := range defaultCapabilities { // ALL
		args = append(args, "--cap-drop=CAP_"+name)
	}
	for _, name := range c.SecurityContext.Capabilities.Add {
		args = append(args, "--cap-add=CAP_"+string(name))
	}
	for _, e := range l.env() {
		args = append(args, "--env="+e)
	}
	for _, m := range l.mounts() {
		mode := map[bool]string{true: "ro", false: "rw"}[m.readOnly]
		args = append(args, fmt.Sprintf("--mount=type=bind,src=%s,dst=%s,options=rbind:%s", m.from, m.to, mode))
	}
	args = append(append(args, "docker.io/library/"+c.Image, c.Name), c.Command...)
	h.run(append(args, c.Args...)...)
	g.wait(soon, "the pod to be ready", func() string {
		why := l.probe(c.ReadinessProbe)
		if why != "" {
			log, _ := h.try("cat /kubelet/log")
			why += "\n" + log
		}
		return why
	})
	return l
}

// defaultCapabilities are those that containerd gives a container.
var defaultCapabilities = strings.Fields("CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE")

// stopPod ends the pod, as kubelet does.
func (l *kubelet) stopPod() {
	l.n.t.Helper()
	const name = "kube-flannel"
	l.run("ctr", "--namespace", "k8s.io", "task", "kill", name)
	l.n.wait(soon, "the end of the daemon", func() string {
		out, err := l.try("ctr --namespace k8s.io task delete " + name + " 2>&1")
		if err != nil && !strings.Contains(out, "not found") {
			return out
		}
		return ""
	})
	l.run("ctr", "--namespace", "k8s.io", "container", "delete", name)
	l.run("rm", "-rf", "/kubelet", "/opt/cni/bin")
}

// wantPodsReach checks that pods that a runtime makes on two hosts reach each other.
func (g *guide) wantPodsReach(kubelets []*kubelet) {
	g.t.Helper()
	for _, l := range kubelets {
		l.waitCondition()
		l.run("ln", "-sf", "/opt/cni/bin/cnitool", "/usr/local/bin/")
		g.makePod(l.host, "cbr0")
	}
	g.wantPodsPing()
	for _, l := range kubelets {
		g.removePod(l.host, "cbr0")
	}
}

// replaceDaemonSet has flannel's DaemonSet there with a selector that cannot be changed, and
// follows what is to be done then.
func (g *guide) replaceDaemonSet(server *host) {
	g.t.Helper()
	other := strings.ReplaceAll(flannelsManifest, "matchLabels: {app: flannel}", "matchLabels: {app: flannel, k8s-app: flannel}")
	check(g.t, server.sys.WriteFile(clusterFolder+"/flannel.yaml", other))
	check(g.t, server.sys.WriteFile(clusterFolder+"/former.yaml", strings.ReplaceAll(other, "namespace: kube-flannel", "namespace: kube-system")))
	pods := func(of string) string {
		return server.run("kubectl", "--namespace", of, "get", "pods", "--output=jsonpath={range .items[*]}{.spec.containers[*].image} of {.metadata.ownerReferences[*].uid};{end}")
	}
	uid := func() string {
		return server.run("kubectl", "--namespace", "kube-flannel", "get", "daemonset", "kube-flannel-ds", "--output=jsonpath={.metadata.uid}")
	}
	server.run("kubectl", "--namespace", "kube-flannel", "delete", "daemonset", "kube-flannel-ds")
	server.run("kubectl", "apply", "-f", clusterFolder+"/flannel.yaml")
	g.wait(soon, "flannel's pods", func() string {
		if got := pods("kube-flannel"); strings.Count(got, "flannel:v0.28.9 of "+uid()) != len(g.nodes) {
			return got
		}
		return ""
	})
	if out, err := server.try("cd " + clusterFolder + " && kubectl apply -f flanneld-v1.2.3.yaml 2>&1"); err == nil || !strings.Contains(out, "spec.selector: ") || !strings.Contains(out, "field is immutable") {
		g.t.Errorf("over another selector (%v):\n%s", err, out)
	}
	g.run("kubectl --namespace kube-flannel delete daemonset")
	g.wait(soon, "pods of this DaemonSet alone", func() string {
		if got, own := pods("kube-flannel"), uid(); strings.Count(got, "flanneld:"+testVersion+" of "+own+";") != len(g.nodes) || strings.Count(got, ";") != len(g.nodes) {
			return got + " and not of " + own
		}
		return ""
	})
	server.run("kubectl", "apply", "-f", clusterFolder+"/former.yaml")
	server.run("kubectl", "apply", "-f", clusterFolder+"/flanneld-v1.2.3.yaml")
	g.run("kubectl --namespace kube-system delete daemonset")
}

// fromEtcd has the hosts' subnets in etcd, and follows what is to be done then.
func (g *guide) fromEtcd(k *lab.Kube) {
	g.t.Helper()
	for _, h := range g.nodes {
		h.run("sh", "-c", "rm -rf /run/flannel/* /var/lib/flannel/* && ip route flush proto 70")
	}
	g.etcd = k.Etcd
	g.install(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	for _, h := range g.nodes {
		h.waitShow("flanneld", "ActiveState", "active")
	}
	g.run("systemctl disable --now flanneld")
	for _, h := range g.nodes {
		if left := h.run("ip", "route", "show", "proto", "70"); left != "" {
			g.t.Errorf("of subnets in etcd there is left\n%s", left)
		}
	}
}
