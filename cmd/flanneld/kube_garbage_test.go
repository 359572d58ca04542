package main_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A peer whose annotations are half there for a while, as others write them one by one, or
// become nonsense, is reached as before. One that is turned off, or gone, is left.
func TestKubePeerHalfThere(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 1, kubeVXLAN, nil)
	h := n.nodes[0]
	p := stranger("10.5.200.0/24", "192.168.0.200")
	n.putKubePeer(p, nil)
	h.waitPeers(soon, p)
	patch := func(special map[string]any) {
		t.Helper()
		check(t, n.kube.Annotate(n.ctx, p.kubeName(), special))
	}
	for _, special := range []map[string]any{
		{backendData: nil}, {publicIP: "x"}, {backendData: "{", publicIP: nil}, {publicIP: "fd00::1"},
	} {
		patch(special)
		h.waitLine(p.subnet.Addr().String())
		n.pause(time.Second)
		h.waitPeers(0, p)
		patch(n.published(p))
	}
	n.pause(11 * time.Second) // longer than a vanished lease lingers
	h.waitPeers(0, p)

	t.Log("it moves")
	moved := stranger("10.5.200.0/24", "192.168.0.201")
	patch(n.published(moved))
	h.waitPeers(followed, moved)
	t.Log("it is turned off")
	patch(map[string]any{isManaged: "false"})
	h.waitPeers(2 * soon)
	patch(n.published(p))
	h.waitPeers(followed, p)

	t.Log("it is made anew with another subnet, faster than anyone can look")
	check(t, n.kube.DeleteNode(n.ctx, p.kubeName()))
	again := stranger("10.5.230.0/24", "192.168.0.200")
	o := &corev1.Node{}
	o.Name = p.kubeName()
	o.Spec.PodCIDR, o.Spec.PodCIDRs = again.subnet.String(), []string{again.subnet.String()}
	o.Annotations = make(map[string]string)
	for key, value := range n.published(again) {
		o.Annotations[key] = value.(string)
	}
	must(n.kube.Create(n.ctx, o))(t)
	h.waitPeers(2*soon, again)
}

// Two Nodes have one subnet: both are named, and the older one has it, whoever looks. When
// it goes, the other one has it.
func TestKubeOneSubnetTwice(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 1, kubeVXLAN, nil)
	h := n.nodes[0]
	older, newer := stranger("10.5.200.0/24", "192.168.0.200"), stranger("10.5.200.0/24", "192.168.0.201")
	create := func(name string, p peer) {
		t.Helper()
		o := &corev1.Node{}
		o.Name = name
		o.Spec.PodCIDR, o.Spec.PodCIDRs = p.subnet.String(), []string{p.subnet.String()}
		o.Annotations = make(map[string]string)
		for key, value := range n.published(p) {
			o.Annotations[key] = value.(string)
		}
		must(n.kube.Create(n.ctx, o))(t)
	}
	create("zebra", older)
	h.waitPeers(soon, older)
	n.pause(1100 * time.Millisecond) // Kubernetes counts seconds
	create("ant", newer)
	h.waitLine("zebra", "ant", "10.5.200.0/24")
	n.pause(time.Second)
	h.waitPeers(0, older)
	h.daemon.Kill()
	h.start()
	h.waitReady()
	h.waitPeers(soon, older)
	check(t, n.kube.DeleteNode(n.ctx, "zebra"))
	h.waitPeers(2*soon, newer)

	t.Log("and ours")
	create("bee", stranger(h.podCIDR(), "192.168.0.210"))
	h.waitLine("bee", h.Name, h.podCIDR())
	n.pause(time.Second)
	h.waitAnnotations(0, nil)
	h.waitPeers(0, newer)
}

// Two Nodes have one public address: both are named.
func TestKubeOnePublicAddress(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 1, kubeVXLAN, nil)
	h := n.nodes[0]
	n.putKubePeer(stranger("10.5.200.0/24", "192.168.0.200"), nil)
	n.putKubePeer(stranger("10.5.201.0/24", "192.168.0.200"), nil)
	h.waitLine("stranger-10-5-200-0-24", "stranger-10-5-201-0-24", "192.168.0.200")
	n.putKubePeer(stranger("10.5.202.0/24", h.Addr.String()), nil)
	h.waitLine("stranger-10-5-202-0-24", h.Addr.String())
}
