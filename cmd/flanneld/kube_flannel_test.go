package main_test

import (
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// flannels are Nodes on which a flannel runs, and what is special of each in what that writes.
var flannels = []struct {
	name, podCIDR, public string
	vxlan                 string // backend-data with vxlan
	more                  map[string]string
}{
	{name: "flannel-0-11", podCIDR: "10.5.111.0/24", public: "192.168.0.111", vxlan: `{"VtepMAC":"02:00:c0:a8:00:6f"}`},
	{name: "flannel-0-17", podCIDR: "10.5.117.0/24", public: "192.168.0.117", vxlan: `{"VNI":1,"VtepMAC":"02:00:c0:a8:00:75"}`},
	// This one had IPv6, too, before: flannel leaves what it wrote then. Its public address is the
	// one that was asked for.
	{name: "flannel-0-28", podCIDR: "10.5.128.0/24", public: "192.168.0.128", vxlan: `{"VNI":1,"VtepMAC":"02:00:c0:a8:00:80"}`, more: map[string]string{
		"public-ip-overwrite": "192.168.0.128", "public-ipv6": "fd00::128", "backend-v6-data": `{"VNI":1,"VtepMAC":"ea:61:1b:0c:51:0a"}`,
	}},
}

// flannelWrites is what every flannel writes of a host with that backend, word for word, but
// for the prefix of the keys. vxlan is the data of the backend vxlan.
func flannelWrites(backend, public, vxlan string) map[string]string {
	all := map[string]string{"kube-subnet-manager": "true", "public-ip": public, "backend-data": "null"}
	switch backend {
	case "vxlan":
		all["backend-type"], all["backend-data"] = "vxlan", vxlan
	case "host-gw":
		all["backend-type"] = "host-gw"
	case "udp":
		all["backend-type"] = ""
	}
	return all
}

// Nodes with flannels of all ages are peers, and what is published is what each of them reads.
func TestKubeBesideFlannel(t *testing.T) {
	t.Parallel()
	for _, v := range []variant{kubeVXLAN, kubeHostGW, kubeUDP} {
		t.Run(v.name(), func(t *testing.T) {
			t.Parallel()
			testKubeBesideFlannel(t, v)
		})
	}
}

func testKubeBesideFlannel(t *testing.T, v variant) {
	n := newKube(t, v, nil)
	h := n.addKubeNode()
	h.createNode(h.podCIDR())
	h.start()
	h.waitReady()
	var peers []peer
	for _, f := range flannels {
		o := &corev1.Node{}
		o.Name, o.Annotations = f.name, make(map[string]string)
		o.Spec.PodCIDR = f.podCIDR // of which the API makes podCIDRs
		all := flannelWrites(v.backend.name, f.public, f.vxlan)
		maps.Copy(all, f.more)
		for key, text := range all {
			o.Annotations[annotations+key] = text
		}
		must(n.kube.Create(n.ctx, o))(t)
		p := stranger(f.podCIDR, f.public)
		if !strings.Contains(f.vxlan, p.vtepMAC().String()) {
			t.Fatalf("the test's own MAC address of %s is %s", f.name, p.vtepMAC())
		}
		peers = append(peers, p)
	}
	h.waitPeers(soon, peers...)
	if said := h.logged("flannel-0-"); said > 0 {
		t.Errorf("it has something to say of Nodes with flannel:\n%s", h.daemon.Log())
	}

	got := make(map[string]string)
	for key, text := range h.kubeNode().Annotations {
		if name, ours := strings.CutPrefix(key, annotations); ours {
			got[name] = text
		}
	}
	var mac string
	if v.backend.name == "vxlan" {
		mac = h.mac().String()
		// Flannel 0.28 takes for the MAC address of its own device what follows the first `:"`.
		if _, text, _ := strings.Cut(got["backend-data"], `:"`); text != mac+`"}` {
			t.Errorf("of %s flannel does not read %s", got["backend-data"], mac)
		}
	}
	if want := flannelWrites(v.backend.name, h.Addr.String(), `{"VNI":1,"VtepMAC":"`+mac+`"}`); !maps.Equal(got, want) {
		t.Errorf("it publishes %q, not %q", got, want)
	}
}
