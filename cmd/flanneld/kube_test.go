package main_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// Two Nodes get their subnets from Kubernetes, and their pods reach each other. What
// daemons publish is what flannel publishes.
func TestKube(t *testing.T) {
	t.Parallel()
	for _, v := range []variant{kubeVXLAN, kubeHostGW, kubeUDP, kubeVXLAN.in(dualStack), kubeHostGW.in(ipv6Only)} {
		t.Run(v.name(), func(t *testing.T) {
			t.Parallel()
			testKube(t, v)
		})
	}
}

func testKube(t *testing.T, v variant) {
	n := newKube(t, v, nil)
	must(n.kube.StartControllerManager(strings.Join(v.families.networks(), ",")))(t)
	for range 2 {
		h := n.addKubeNode()
		h.createNode()
		h.start()
	}
	n.readyWithPods()
	n.pingAll()
	for _, h := range n.nodes {
		o := h.kubeNode()
		if got := h.peer().texts(netip.Prefix.String); !slices.Equal(got, o.Spec.PodCIDRs) {
			t.Errorf("%s has the subnet %s, and its Node %s", h.Name, got, o.Spec.PodCIDRs)
		}
		h.waitAnnotations(0, nil)
		for key := range o.Annotations {
			if _, known := n.published(h.peer())[key]; strings.HasPrefix(key, annotations) && !known {
				t.Errorf("%s has the annotation %s", h.Name, key)
			}
		}
		if got, want := h.daemon.EnvText(), h.wantEnv(); got != want {
			t.Errorf("subnet.env of %s is %q, want %q", h.Name, got, want)
		}
		n.wait(soon, "the condition of "+h.Name, func() string {
			if c := h.condition(); c == nil || c.Status != "False" || c.Reason != "FlannelIsUp" {
				return fmt.Sprintf("it is %v", c)
			}
			return ""
		})
	}

	t.Log("a Node that is made later, and one that goes")
	late := n.addKubeNode()
	late.createNode()
	late.start()
	late.waitReady()
	late.addPod()
	for _, h := range n.nodes {
		h.waitPeers(soon, h.others()...)
	}
	n.pingAll()
	late.daemon.Kill()
	check(t, n.kube.DeleteNode(n.ctx, late.Name))
	late.daemon = nil
	for _, h := range n.nodes[:2] {
		h.waitPeers(2*soon, h.others()...)
	}
}

// How a daemon learns the name of its Node, and where the API is.
func TestKubeNames(t *testing.T) {
	t.Parallel()
	n := newKube(t, kubeHostGW, nil)
	check(t, n.kube.Apply(n.ctx, []byte(`
apiVersion: v1
kind: Pod
metadata:
  name: kube-flannel-ds-1
  namespace: kube-flannel
spec:
  nodeName: host1
  containers:
  - name: flannel
    image: none
`)))
	token := must(n.kube.FlannelToken(n.ctx))(t)
	account := filepath.Join(n.lab.Dir, "account")
	writeFiles(t, account, map[string]string{"token": token, "ca.crt": readFile(t, n.kube.CA.Cert), "namespace": "kube-flannel"})
	addr := netip.MustParseAddrPort(strings.TrimPrefix(n.kube.URL(), "https://"))

	pod := n.addKubeNode()
	pod.env = []string{"POD_NAME=kube-flannel-ds-1", "POD_NAMESPACE=kube-flannel"}
	prefixed := n.addKubeNode("-kube-annotation-prefix=example.com/net")
	inCluster := n.addNode(lab.HostOptions{}, "-kube-subnet-mgr", "-net-config-path="+filepath.Join(n.kube.config.Dir, netConf))
	inCluster.env = []string{
		"NODE_NAME=" + inCluster.Name,
		"KUBERNETES_SERVICE_HOST=" + addr.Addr().String(), fmt.Sprintf("KUBERNETES_SERVICE_PORT=%d", addr.Port()),
	}
	inCluster.binary = filepath.Join(inCluster.Dir, "flanneld")
	check(t, lab.WriteProgram(inCluster.binary, fmt.Appendf(nil,
		"#!/bin/sh\nexec unshare --mount sh -c 'mount -t tmpfs none /var/run && mkdir -p /var/run/secrets/kubernetes.io && ln -s %s /var/run/secrets/kubernetes.io/serviceaccount && exec %s \"$@\"' flanneld \"$@\"\n",
		account, daemonBinary), 0o755))
	for _, h := range n.nodes {
		h.createNode(h.podCIDR())
		h.start()
	}
	for _, h := range n.nodes {
		h.waitReady()
		if h.subnet().String() != h.podCIDR() {
			t.Errorf("%s has the subnet %s, and its Node %s", h.Name, h.subnet(), h.podCIDR())
		}
	}
	if _, ok := prefixed.kubeNode().Annotations["example.com/net-public-ip"]; !ok {
		t.Errorf("there is no annotation with the prefix: %v", prefixed.kubeNode().Annotations)
	}
	pod.waitPeers(soon, inCluster.peer())

	t.Log("nobody says what the Node is called")
	nameless := n.addKubeNode()
	nameless.env = nil
	nameless.start()
	code, err := nameless.daemon.Wait(n.ctx)
	check(t, err)
	if log := nameless.daemon.Log(); code == 0 || !strings.Contains(log, "NODE_NAME") {
		t.Errorf("status %d, and the log is\n%s", code, log)
	}
}

// A peer without an IPv6 subnet or address, and one with both, are peers by IPv4.
func TestKubeOtherFamily(t *testing.T) {
	t.Parallel()
	n := newKube(t, kubeHostGW, nil)
	h := n.addKubeNode()
	h.createNode(h.podCIDR(), "fd00:5::/64")
	h.start()
	h.waitReady()
	dual, plain := stranger("10.5.200.0/24", "192.168.0.200"), stranger("10.5.201.0/24", "192.168.0.201")
	n.putKubePeer(dual, map[string]any{publicIPv6: "fd00::200", backendV6Data: "null"})
	check(t, n.kube.PatchNode(n.ctx, dual.kubeName(), map[string]any{"metadata": map[string]any{"labels": map[string]any{"x": "y"}}}))
	n.putKubePeer(plain, nil)
	six := peer{subnet: mustPrefix("fd00:5:1::/64"), public: netip.MustParseAddr("192.168.0.202")}
	n.putKubePeer(six, nil)
	h.waitPeers(soon, dual, plain)

	t.Log("k3s writes this for a family that is off")
	n.configure(settings{"IPv6Network": "::/0"})
	n.pause(2 * time.Second)
	if h.daemon.ExitCode() != -1 {
		t.Errorf("status %d", h.daemon.ExitCode())
	}
	h.daemon.Kill()
	h.start()
	h.waitReady()
	h.waitPeers(soon, dual, plain)
}

// A Windows Node is a peer like others, where the VXLAN network is as Windows has it.
func TestKubeWindowsPeer(t *testing.T) {
	t.Parallel()
	v := kubeVXLAN
	v.backend.config = `{"Type":"vxlan","VNI":4096,"Port":4789}`
	n := newKube(t, v, nil)
	h := n.addKubeNode()
	h.createNode(h.podCIDR())
	h.start()
	h.waitReady()
	const device = "flannel.4096"
	p := stranger("10.5.200.0/24", "192.168.0.200")
	n.putKubePeer(p, map[string]any{backendData: `{"VNI":4096,"VtepMAC":"00:15:5d:c6:3b:01"}`})
	n.wait(soon, "what leads to the peer", func() string {
		fdb, err := h.FDB(device)
		check(t, err)
		neighbours, err := h.Neighbours(device)
		check(t, err)
		return lacks(strings.Join(append(append(h.routes(), fdb...), neighbours...), "\n"),
			"10.5.200.0 lladdr 00:15:5d:c6:3b:01")
	})
	if link := h.run("ip", "-d", "link", "show", device); !strings.Contains(link, "vxlan id 4096 ") || !strings.Contains(link, "dstport 4789 ") {
		t.Errorf("the device is %s", link)
	}
	var data struct{ VNI int }
	if err := json.Unmarshal([]byte(h.kubeNode().Annotations[backendData]), &data); err != nil || data.VNI != 4096 {
		t.Errorf("we publish %v, %v", h.kubeNode().Annotations, err)
	}
}
