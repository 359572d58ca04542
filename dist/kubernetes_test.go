package dist_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"flanneld/dist/kubernetes"
	"flanneld/pkg/lab"
)

// The chart and the manifest of a release are of its version, and the one is what Helm makes of the other.
func TestReleasedChart(t *testing.T) {
	t.Parallel()
	dir := release(t, testVersion)
	chart := unpack(t, one(t, dir, "flanneld-1.2.3.tgz"), t.TempDir())
	if got, want := render(t, chart, "createNamespace: true"), read(t, one(t, dir, "flanneld-v1.2.3.yaml")); got != want {
		t.Errorf("Helm makes of the chart\n%s\nand the manifest is\n%s", got, want)
	}
}

// render is what Helm makes of a chart with these values.
func render(t testing.TB, chart, values string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	check(t, os.WriteFile(file, []byte(values), 0o600))
	chart, err := filepath.Abs(chart)
	check(t, err)
	cmd := exec.Command("go", "run", "-C", "kubernetes/render", ".", "-chart", chart, "-values", file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("rendering the chart: %v: %s", err, stderr.String())
	}
	return string(out)
}

const daemonSetPath = "/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds"

// daemonSet is the one that the API has.
func (n *network) daemonSet(k *lab.Kube) appsv1.DaemonSet {
	n.t.Helper()
	text, err := k.REST.Get().AbsPath(daemonSetPath).SetHeader("Accept", "application/json").DoRaw(n.ctx)
	check(n.t, err)
	var ds appsv1.DaemonSet
	check(n.t, json.Unmarshal(text, &ds))
	return ds
}

// A real API server takes all objects, with whatever values, and the pod that the DaemonSet
// means; and they take the place of flannel's.
func TestManifestIsAccepted(t *testing.T) {
	t.Parallel()
	n := newLab(t)
	n.laySwitch()
	k, err := n.lab.StartKube(n.ctx, n.server, lab.KubeOptions{})
	check(t, err)
	check(t, k.Apply(n.ctx, []byte(flannelsManifest)))
	before := n.daemonSet(k)
	for _, values := range []string{
		"createNamespace: true",
		"flannel: {backend: udp, mtu: 1400, cniPlugin: flannel, image_cni: {repository: somewhere/plugin, tag: v1}, nodeSelector: {a: b}}",
		"podCidrv6: fd00:10:244::/56",
		"{podCidr: 10.5.0.0/16, flannel: {backend: host-gw, skipCNIConfigInstallation: true, tolerations: [], resources: {limits: {memory: 1Gi}}}, global: {imagePullSecrets: [{name: x}]}}",
	} {
		if err := k.DryApply(n.ctx, []byte(render(t, "kubernetes/chart", values))); err != nil {
			t.Errorf("with %s: %v", values, err)
		}
	}
	check(t, k.Apply(n.ctx, kubernetes.Manifest))
	ds := n.daemonSet(k)
	if ds.UID != before.UID || ds.Generation == before.Generation {
		t.Errorf("the DaemonSet was %s, %d, and is %s, %d", before.UID, before.Generation, ds.UID, ds.Generation)
	}
	pod := ds.Spec.Template.Spec
	if len(pod.InitContainers) > 0 || len(pod.Containers) != 1 || pod.Containers[0].Image != "flanneld:dev" {
		t.Errorf("its pods have the containers %v and %v", pod.InitContainers, pod.Containers)
	}
	var config corev1.ConfigMap
	check(t, k.REST.Get().Namespace("kube-flannel").Resource("configmaps").Name("kube-flannel-cfg").Do(n.ctx).Into(&config))
	if _, left := config.Data["cni-conf.json"]; left || len(config.Data) != 1 {
		t.Errorf("the ConfigMap has %q", config.Data)
	}
	post := corev1.Pod{ObjectMeta: ds.Spec.Template.ObjectMeta, Spec: pod}
	post.Name = "kube-flannel-ds-x"
	check(t, k.REST.Post().Namespace("kube-flannel").Resource("pods").Param("dryRun", "All").Body(&post).Do(n.ctx).Error())

	if err := k.Apply(n.ctx, []byte(strings.ReplaceAll(flannelsManifest, "matchLabels: {app: flannel}", "matchLabels: {app: flannel, k8s-app: flannel}"))); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "field is immutable") {
		t.Errorf("with another selector: %v", err)
	}
}

// flannelsManifest has what counts of flannel's own: the names, the labels and the selector.
const flannelsManifest = `
apiVersion: v1
kind: Namespace
metadata: {name: kube-flannel, labels: {pod-security.kubernetes.io/enforce: privileged}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: flannel, namespace: kube-flannel}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: flannel}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get]}
- {apiGroups: [""], resources: [nodes], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [nodes/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: flannel}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flannel}
subjects: [{kind: ServiceAccount, name: flannel, namespace: kube-flannel}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-flannel-cfg, namespace: kube-flannel}
data: {cni-conf.json: "{}", net-conf.json: '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}'}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-flannel-ds, namespace: kube-flannel, labels: {app: flannel}}
spec:
  selector:
    matchLabels: {app: flannel}
  template:
    metadata: {labels: {app: flannel, k8s-app: flannel, tier: node}}
    spec:
      hostNetwork: true
      serviceAccountName: flannel
      initContainers:
      - {name: install-cni, image: "flannel:v0.28.9", command: [cp], volumeMounts: [{name: cni, mountPath: /etc/cni/net.d}]}
      containers:
      - name: kube-flannel
        image: flannel:v0.28.9
        command: [/opt/bin/flanneld]
        args: [--ip-masq, --kube-subnet-mgr]
        env:
        - {name: EVENT_QUEUE_DEPTH, value: "5000"}
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        securityContext: {privileged: false, capabilities: {add: [NET_ADMIN, NET_RAW]}}
        volumeMounts: [{name: run, mountPath: /run/flannel}, {name: flannel-cfg, mountPath: /etc/kube-flannel/}]
      volumes:
      - {name: run, hostPath: {path: /run/flannel}}
      - {name: cni, hostPath: {path: /etc/cni/net.d}}
      - {name: flannel-cfg, configMap: {name: kube-flannel-cfg}}
`

// laySwitch adds a switch and the machine of the API.
func (n *network) laySwitch() {
	n.t.Helper()
	var err error
	n.sw, err = n.lab.AddSwitch("switch", netip.MustParsePrefix("192.168.0.0/24"))
	check(n.t, err)
	n.server, err = n.lab.AddHost("server", n.sw, lab.HostOptions{})
	check(n.t, err)
}
