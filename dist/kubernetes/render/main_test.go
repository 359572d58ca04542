package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const chartDir, namespace = "../chart", "kube-flannel"

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	return string(text)
}

// objects are those of a manifest, strictly decoded, by kind.
type objects struct {
	Namespace          *corev1.Namespace
	ServiceAccount     *corev1.ServiceAccount
	ConfigMap          *corev1.ConfigMap
	ClusterRole        *rbacv1.ClusterRole
	ClusterRoleBinding *rbacv1.ClusterRoleBinding
	Role               *rbacv1.Role
	RoleBinding        *rbacv1.RoleBinding
	DaemonSet          *appsv1.DaemonSet
	PodMonitor         *map[string]any // whose types are the Prometheus operator's
}

func decode(t *testing.T, manifest string) objects {
	t.Helper()
	var o objects
	for _, text := range strings.Split(manifest, "---\n") {
		var kind struct{ Kind string }
		check(t, yaml.Unmarshal([]byte(text), &kind))
		if kind.Kind == "" {
			continue
		}
		field := reflect.ValueOf(&o).Elem().FieldByName(kind.Kind)
		if !field.IsValid() || !field.IsNil() {
			t.Fatalf("there is a %s, or more than one:\n%s", kind.Kind, text)
		}
		field.Set(reflect.New(field.Type().Elem()))
		if err := yaml.UnmarshalStrict([]byte(text), field.Interface()); err != nil {
			t.Fatalf("reading a %s: %v\n%s", kind.Kind, err, text)
		}
	}
	return o
}

// rendered is what Helm makes of the chart with these values, in YAML.
func rendered(t *testing.T, values string) objects {
	t.Helper()
	manifest, err := renderText(values)
	check(t, err)
	return decode(t, manifest)
}

func renderText(values string) (string, error) {
	v, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		return "", err
	}
	return render(chartDir, namespace, v)
}

// container is the daemon's.
func (o objects) container(t *testing.T) corev1.Container {
	t.Helper()
	all := o.DaemonSet.Spec.Template.Spec.Containers
	if len(all) != 1 {
		t.Fatalf("there are %d containers", len(all))
	}
	return all[0]
}

// netConf is the network's configuration, with what JSON has as numbers, texts and so on.
func (o objects) netConf(t *testing.T) map[string]any {
	t.Helper()
	var conf map[string]any
	check(t, json.Unmarshal([]byte(o.ConfigMap.Data["net-conf.json"]), &conf))
	return conf
}

// The manifest is what the chart makes.
func TestManifestIsCurrent(t *testing.T) {
	manifest, err := renderFile(chartDir, namespace, "manifest.yaml")
	check(t, err)
	if read(t, "../flanneld.yaml") != header+manifest {
		t.Error("flanneld.yaml is not what the chart makes now: run `make manifest`")
	}
}

func TestLint(t *testing.T) {
	all := lint.All(chartDir, map[string]any{}, namespace, true)
	for _, m := range all.Messages {
		if !strings.Contains(m.Error(), "icon is recommended") {
			t.Error(m.Error())
		}
	}
}

// The names, labels and the selector, which cannot be changed, are those of flannel's manifest.
// So it is replaced, and no second daemon is started beside its.
func TestTakesThePlaceOfFlannel(t *testing.T) {
	o := decode(t, read(t, "../flanneld.yaml"))
	for _, got := range []string{
		o.Namespace.Name,
		o.ServiceAccount.Namespace + " " + o.ServiceAccount.Name,
		o.ConfigMap.Namespace + " " + o.ConfigMap.Name,
		o.ClusterRole.Name, o.ClusterRoleBinding.Name,
		o.DaemonSet.Namespace + " " + o.DaemonSet.Name,
		o.container(t).Name,
	} {
		if !slices.Contains([]string{"kube-flannel", "kube-flannel flannel", "kube-flannel kube-flannel-cfg", "flannel", "kube-flannel kube-flannel-ds"}, got) {
			t.Errorf("something is called %q", got)
		}
	}
	selector := o.DaemonSet.Spec.Selector
	if want := map[string]string{"app": "flannel"}; !maps.Equal(selector.MatchLabels, want) || len(selector.MatchExpressions) > 0 {
		t.Errorf("the selector is %v, want %v", selector, want)
	}
	if labels, want := o.DaemonSet.Spec.Template.Labels, map[string]string{"app": "flannel", "k8s-app": "flannel", "tier": "node"}; !maps.Equal(labels, want) {
		t.Errorf("pods have the labels %v, want %v", labels, want)
	}
	var volumes []string
	for _, v := range o.DaemonSet.Spec.Template.Spec.Volumes {
		volumes = append(volumes, v.Name)
	}
	if want := []string{"run", "state", "cni", "cni-plugin", "flannel-cfg", "xtables-lock"}; !slices.Equal(volumes, want) {
		t.Errorf("the volumes are %q, want %q", volumes, want)
	}
}

// A pod of it may do what the daemon needs, and nothing else.
func TestConfined(t *testing.T) {
	o := decode(t, read(t, "../flanneld.yaml"))
	pod, c := o.DaemonSet.Spec.Template.Spec, o.container(t)
	s := c.SecurityContext
	if *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the container's security context is %+v", s)
	}
	if !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(s.Capabilities.Add, []corev1.Capability{"NET_ADMIN", "NET_RAW"}) {
		t.Errorf("the container has the capabilities %+v", s.Capabilities)
	}
	if !pod.HostNetwork || pod.HostPID || pod.HostIPC || pod.PriorityClassName != "system-node-critical" {
		t.Errorf("the pod is %+v", pod)
	}
	for _, taint := range []corev1.Taint{
		{Key: "node.kubernetes.io/not-ready", Effect: corev1.TaintEffectNoSchedule},
		{Key: "node.kubernetes.io/network-unavailable", Effect: corev1.TaintEffectNoSchedule},
		{Key: "node.kubernetes.io/unreachable", Effect: corev1.TaintEffectNoExecute},
	} {
		if !slices.ContainsFunc(pod.Tolerations, func(tol corev1.Toleration) bool { return tol.ToleratesTaint(&taint) }) {
			t.Errorf("the pod does not run on a Node with %s:%s", taint.Key, taint.Effect)
		}
	}
	rules := func(rules []rbacv1.PolicyRule) (all []string) {
		for _, r := range rules {
			all = append(all, fmt.Sprint(r.APIGroups, r.Resources, r.Verbs))
		}
		return all
	}
	if got, want := rules(o.ClusterRole.Rules), []string{"[] [nodes] [list watch]", "[] [nodes/status] [patch]"}; !slices.Equal(got, want) {
		t.Errorf("on all Nodes it may %q, want %q", got, want)
	}
	if got, want := rules(o.Role.Rules), []string{"[] [pods] [get]"}; !slices.Equal(got, want) {
		t.Errorf("in its namespace it may %q, want %q", got, want)
	}
	for _, binding := range []struct {
		to       rbacv1.RoleRef
		subjects []rbacv1.Subject
	}{{o.ClusterRoleBinding.RoleRef, o.ClusterRoleBinding.Subjects}, {o.RoleBinding.RoleRef, o.RoleBinding.Subjects}} {
		if len(binding.subjects) != 1 || binding.to.Name != "flannel" || binding.subjects[0] != (rbacv1.Subject{Kind: "ServiceAccount", Name: pod.ServiceAccountName, Namespace: namespace}) {
			t.Errorf("%v is bound to %v", binding.to, binding.subjects)
		}
	}
}

// The probes ask the daemon where it is told to answer.
func TestProbes(t *testing.T) {
	c := rendered(t, "flannel: {healthz: {port: 9000, livenessProbe: {periodSeconds: 30, timeoutSeconds: null, failureThreshold: null}, startupProbe: null}, args: [--healthz-port=1]}").container(t)
	if at := len(c.Args) - 2; !slices.Equal(c.Args[at:], []string{"--healthz-ip=127.0.0.1", "--healthz-port=9000"}) {
		t.Errorf("the last options are %q", c.Args)
	}
	for path, probe := range map[string]*corev1.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		if get := probe.HTTPGet; get.Host != "127.0.0.1" || get.Port.IntValue() != 9000 || get.Path != path {
			t.Errorf("a probe asks %v, want %s", get, path)
		}
	}
	if c.LivenessProbe.PeriodSeconds != 30 || c.LivenessProbe.FailureThreshold != 0 || c.StartupProbe.PeriodSeconds != 0 {
		t.Errorf("the probes are %+v and %+v", c.LivenessProbe, c.StartupProbe)
	}
}

// The daemon answers programs where the chart is told so, and is scraped there.
func TestHTTP(t *testing.T) {
	if o := rendered(t, ""); o.PodMonitor != nil || len(o.container(t).Ports) > 0 {
		t.Errorf("without being asked for it there are %v and %v", o.PodMonitor, o.container(t).Ports)
	}
	for _, c := range []struct{ values, want string }{
		{"{port: 8286}", "--http-addr=:8286"},
		{"{port: 8286, address: 127.0.0.1}", "--http-addr=127.0.0.1:8286"},
		{`{port: 8286, address: "[::1]", podMonitor: false}`, "--http-addr=[::1]:8286"},
	} {
		o := rendered(t, "flannel: {http: "+c.values+"}")
		daemon := o.container(t)
		if got := daemon.Args[len(daemon.Args)-1]; got != c.want || len(daemon.Ports) != 1 || daemon.Ports[0].Name != "http" || daemon.Ports[0].ContainerPort != 8286 || o.PodMonitor != nil {
			t.Errorf("with %s there are %q, %v and %v", c.values, daemon.Args, daemon.Ports, o.PodMonitor)
		}
	}
	var want map[string]any
	check(t, yaml.Unmarshal([]byte(read(t, "../../monitoring/podmonitor.yaml")), &want))
	if got := rendered(t, "flannel: {http: {port: 8286, podMonitor: true}}").PodMonitor; got == nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("the PodMonitor is %v, want %v", got, want)
	}
}

// Values are obeyed, in types that JSON keeps apart.
func TestNetConf(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{``, `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`},
		{`{podCidr: 10.5.0.0/16, flannel: {backend: host-gw, enableNFTables: false}}`, `{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}`},
		{
			`{flannel: {backendPort: 4789, mtu: 1400, vni: 4096, directRouting: true, GBP: false, enableNFTables: true}}`,
			`{"Network": "10.244.0.0/16", "EnableNFTables": true, "Backend": {"Type": "vxlan", "Port": 4789, "MTU": 1400, "VNI": 4096, "DirectRouting": true, "GBP": false}}`,
		},
		{`{podCidrv6: "fd00:10:244::/56"}`, `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/56", "Backend": {"Type": "vxlan"}}`},
		{`{podCidr: "", podCidrv6: "FD00::/48", flannel: {backend: host-gw}}`, `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "FD00::/48", "Backend": {"Type": "host-gw"}}`},
		{`{flannel: {vni: 9999999}}`, `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 9999999}}`},
	} {
		var want map[string]any
		check(t, json.Unmarshal([]byte(c.want), &want))
		if got := rendered(t, c.values).netConf(t); !reflect.DeepEqual(got, want) {
			t.Errorf("with %s the configuration is %v, want %v", c.values, got, want)
		}
	}
}

// Who writes the configuration of CNI, where, and of what.
func TestCNI(t *testing.T) {
	const conf, template, own = "--cni-conf-file=/etc/cni/net.d/10-flannel.conflist", "--cni-conf-template=", "/etc/kube-flannel/cni-conf.json"
	for _, c := range []struct {
		values  string
		args    []string
		text    string // part of the template in the ConfigMap
		folder  string
		plugins string // that an image brings
	}{
		{``, []string{conf}, "", "/etc/cni/net.d", ""},
		{`{flannel: {cniPlugin: macvlan}}`, []string{conf, template + "macvlan"}, "", "/etc/cni/net.d", ""},
		{`{flannel: {cniPlugin: flannel, cniConfDir: /etc/k0s/net.d}}`, []string{conf, template + own}, `"type": "flannel"`, "/etc/k0s/net.d", ""},
		{`{flannel: {cniConf: "{\"name\": \"it's mine\"}\n"}}`, []string{conf, template + own}, `{"name": "it's mine"}`, "/etc/cni/net.d", ""},
		{`{flannel: {cniConf: {name: "a\"b"}}}`, []string{conf, template + own}, `"name": "a\"b"`, "/etc/cni/net.d", ""},
		{`{flannel: {cniPlugin: flannel, cniBinDir: /usr/lib/cni, image_cni: {repository: somewhere/plugin, tag: v1}}}`, []string{conf, template + own}, `"isDefaultGateway": true`, "/etc/cni/net.d", "somewhere/plugin:v1 /usr/lib/cni"},
		{`{flannel_cni: {image: {repository: "localhost:5000/plugin", tag: v2}}}`, []string{conf}, "", "/etc/cni/net.d", "localhost:5000/plugin:v2 /opt/cni/bin"},
		{`{flannel: {skipCNIConfigInstallation: true, cniConf: "{}", cniPlugin: macvlan}}`, nil, "", "", ""},
	} {
		o := rendered(t, c.values)
		var args []string
		for _, arg := range o.container(t).Args {
			if strings.HasPrefix(arg, "--cni") {
				args = append(args, arg)
			}
		}
		if !slices.Equal(args, c.args) {
			t.Errorf("with %s the options are %q, want %q", c.values, args, c.args)
		}
		if text := o.ConfigMap.Data["cni-conf.json"]; (text == "") != (c.text == "") || !strings.Contains(text, c.text) {
			t.Errorf("with %s the template is\n%s", c.values, text)
		}
		pod := o.DaemonSet.Spec.Template.Spec
		paths := map[string]string{}
		for _, v := range pod.Volumes {
			if v.HostPath != nil {
				paths[v.Name] = v.HostPath.Path
			}
		}
		if paths["cni"] != c.folder {
			t.Errorf("with %s the folder is %q, want %q", c.values, paths["cni"], c.folder)
		}
		plugins := ""
		for _, init := range pod.InitContainers {
			plugins += init.Image + " " + paths[init.VolumeMounts[0].Name]
		}
		if plugins != c.plugins {
			t.Errorf("with %s plugins come from %q, want %q", c.values, plugins, c.plugins)
		}
	}
}

// Where Nodes find the image is a value.
func TestImage(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{``, "flanneld:dev"},
		{`{flannel: {image: {tag: v1.2.3}}}`, "flanneld:v1.2.3"},
		{`{flannel: {image: {repository: "registry.example:5000/net/flanneld", tag: v1.2.3}}, global: {imagePullSecrets: [{name: mine}]}}`, "registry.example:5000/net/flanneld:v1.2.3"},
	} {
		o := rendered(t, c.values)
		if got := o.container(t).Image; got != c.want {
			t.Errorf("with %s the image is %s, want %s", c.values, got, c.want)
		}
		if got, want := len(o.ServiceAccount.ImagePullSecrets), strings.Count(c.values, "mine"); got != want {
			t.Errorf("with %s there are %d secrets, want %d", c.values, got, want)
		}
	}
}

// The backend that makes a device of its own gets what it makes it of.
func TestTUN(t *testing.T) {
	for backend, want := range map[string]bool{"udp": true, "vxlan": false} {
		mounts := rendered(t, "flannel: {backend: "+backend+"}").container(t).VolumeMounts
		if got := slices.ContainsFunc(mounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/dev/net/tun" }); got != want {
			t.Errorf("%s has /dev/net/tun: %t", backend, got)
		}
	}
}

// What flannel's chart has by default is taken, but for its image.
func TestValuesOfFlannel(t *testing.T) {
	o := rendered(t, `
global: {imagePullSecrets: null}
podCidr: 10.244.0.0/16
podCidrv6: ""
flannel:
  image_cni: {repository: mirror.example/flannel-cni-plugin, tag: v1}
  cniBinDir: /opt/cni/bin
  cniConfDir: /etc/cni/net.d
  skipCNIConfigInstallation: false
  enableNFTables: false
  args: [--ip-masq, --kube-subnet-mgr]
  backend: vxlan
  backendPort: 0
  resources: {requests: {cpu: 100m, memory: 50Mi}}
  tolerations: [{effect: NoExecute, operator: Exists}, {effect: NoSchedule, operator: Exists}]
  nodeSelector: {disk: ssd}
netpol: {enabled: false, image: {repository: somewhere, tag: v1}, args: [--v=2]}
`)
	if got := o.container(t).Args[:3]; !slices.Equal(got, []string{"--kube-subnet-mgr", "--ip-masq", "--kube-subnet-mgr"}) {
		t.Errorf("the options are %q", got)
	}
	if got := o.DaemonSet.Spec.Template.Spec.NodeSelector; !maps.Equal(got, map[string]string{"disk": "ssd"}) {
		t.Errorf("the selector for Nodes is %v", got)
	}
}

// What cannot be obeyed is refused, and the reason names it.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{`{podCidrv6: "fd00::"}`, "at '/podCidrv6'"},
		{`{podCidrv6: 10.244.0.0/16}`, "at '/podCidrv6'"},
		{`{podCidrv6: "fd00::/48", flannel: {backend: udp}}`, "podCidrv6: the backend udp carries IPv4 alone"},
		{`{podCidr: ""}`, "podCidr: without it, podCidrv6 must be the network"},
		{`{podCidr: 10.244.0.0}`, "at '/podCidr'"},
		{`{flannel: {backend: wireguard}}`, "at '/flannel/backend': value must be one of 'vxlan', 'host-gw', 'udp', 'alloc'"},
		{`{flannel: {psk: secret}}`, "additional properties 'psk' not allowed"},
		{`{flannel: {tunnelMode: separate}}`, "additional properties 'tunnelMode' not allowed"},
		{`{flannel: {keepaliveInterval: 25}}`, "additional properties 'keepaliveInterval' not allowed"},
		{`{flannel: {backendPortv6: 51821}}`, "additional properties 'backendPortv6' not allowed"},
		{`{flannel: {macPrefix: 0E-2A}}`, "additional properties 'macPrefix' not allowed"},
		{`{netpol: {enabled: true}}`, "at '/netpol/enabled': value must be false"},
		{`{flannel: {mtu: "1400"}}`, "at '/flannel/mtu': got string, want integer"},
		{`{flannel: {vni: 10000000}}`, "at '/flannel/vni': maximum"},
		{`{flannel: {args: ["-v", "1"]}}`, "at '/flannel/args/1'"},
		{`{flannel: {healthz: {port: 0}}}`, "at '/flannel/healthz/port': minimum"},
		{`{flannel: {http: {podMonitor: true}}}`, "flannel.http.podMonitor: there are no metrics without flannel.http.port"},
		{`{flannel: {http: {port: 8286, address: node}}}`, "at '/flannel/http/address'"},
		{`{flannel: {cniConfDir: net.d}}`, "at '/flannel/cniConfDir'"},
		{`{flannel: {image: {repository: ghcr.io/flannel-io/flannel, tag: v0.28.9}}}`, "ghcr.io/flannel-io/flannel is flannel's own image"},
		{`{flannel: {image: {repository: docker.io/flannel/flannel}}}`, "docker.io/flannel/flannel is flannel's own image"},
		{`{flannel: {image_cni: {repository: plugin}}}`, "flannel.image_cni.tag: name the tag of plugin"},
		{`{flanel: {}}`, "additional properties 'flanel' not allowed"},
	} {
		_, err := renderText(c.values)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("with %s: %v, want %q", c.values, err, c.want)
		}
	}
}

// schema is the part of one that matters here.
type schema struct {
	Ref        string `json:"$ref"`
	Properties map[string]schema
}

// leaves are the paths of all values.
func (s schema) leaves(path string, definitions map[string]schema) (all []string) {
	if name, found := strings.CutPrefix(s.Ref, "#/definitions/"); found {
		s = definitions[name]
	}
	if len(s.Properties) == 0 || strings.HasSuffix(path, "Probe") {
		return []string{path}
	}
	for name, p := range s.Properties {
		all = append(all, p.leaves(strings.TrimPrefix(path+"."+name, "."), definitions)...)
	}
	return all
}

// The chart's README has each value, and no other.
func TestReadme(t *testing.T) {
	var s struct {
		schema
		Definitions map[string]schema
	}
	check(t, json.Unmarshal([]byte(read(t, chartDir+"/values.schema.json")), &s))
	want := s.leaves("", s.Definitions)
	want = slices.DeleteFunc(want, func(path string) bool { return strings.HasPrefix(path, "flannel_cni.") }) // another name of image_cni
	slices.Sort(want)
	var got []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-zA-Z][^|]*`) \\|").FindAllStringSubmatch(read(t, chartDir+"/README.md"), -1) {
		for _, name := range strings.Split(row[1], ", ") {
			got = append(got, strings.Trim(name, "`"))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("README.md has the values\n%q, and the schema\n%q", got, want)
	}
}

// kustomize makes the same objects of the base, and obeys an overlay on it.
func TestKustomize(t *testing.T) {
	build := func(overlay string) objects {
		t.Helper()
		fs := filesys.MakeFsInMemory()
		for _, name := range []string{"kustomization.yaml", "flanneld.yaml"} {
			check(t, fs.WriteFile("/base/"+name, []byte(read(t, "../"+name))))
		}
		check(t, fs.WriteFile("/overlay/kustomization.yaml", []byte(overlay)))
		resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, "/overlay")
		check(t, err)
		text, err := resources.AsYaml()
		check(t, err)
		return decode(t, string(text))
	}
	want := decode(t, read(t, "../flanneld.yaml"))
	if got := build("resources: [../base]\n"); !reflect.DeepEqual(got, want) {
		t.Errorf("the base is\n%+v, want\n%+v", got, want)
	}
	got := build(`
resources: [../base]
images: [{name: flanneld, newName: registry.example/flanneld, newTag: v1.2.3}]
patches:
- patch: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: kube-flannel-cfg, namespace: kube-flannel}
    data: {net-conf.json: '{"Network": "10.5.0.0/16"}'}
`)
	if image := got.container(t).Image; image != "registry.example/flanneld:v1.2.3" {
		t.Errorf("the image is %s", image)
	}
	if network := got.netConf(t)["Network"]; network != "10.5.0.0/16" {
		t.Errorf("the network is %v", network)
	}
}
