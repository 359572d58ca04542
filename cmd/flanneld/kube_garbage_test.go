package main_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Whatever Nodes say, the good peers are not touched, nothing is made of the bad, each of
// which is named, and the hosts' own network stays as it is.
func TestKubeGarbage(t *testing.T) {
	t.Parallel()
	for _, v := range []variant{kubeVXLAN, kubeHostGW} {
		t.Run(v.name(), func(t *testing.T) {
			t.Parallel()
			testKubeGarbage(t, v)
		})
	}
}

func testKubeGarbage(t *testing.T, v variant) {
	n := newKubeNetwork(t, 2, v, nil)
	h := n.nodes[0]
	good := h.others()
	garbage := []struct {
		name, podCIDR string
		special       map[string]any // of the annotations
		silent        bool           // it is not even meant to be a peer
	}{
		{name: "garbage-everything", podCIDR: "0.0.0.0/0"},
		{name: "garbage-hosts-net", podCIDR: "192.168.0.0/24"},
		{name: "garbage-network", podCIDR: "10.5.0.0/16"},
		{name: "garbage-outside", podCIDR: "10.6.7.0/24"},
		{name: "garbage-inside-ours", podCIDR: strings.Replace(h.podCIDR(), ".0/24", ".128/25", 1)},
		{name: "garbage-public-ipv6", podCIDR: "10.5.201.0/24", special: map[string]any{publicIP: "fd00::1"}},
		{name: "garbage-public-none", podCIDR: "10.5.202.0/24", special: map[string]any{publicIP: nil}},
		{name: "garbage-public-text", podCIDR: "10.5.203.0/24", special: map[string]any{publicIP: "x"}},
		{name: "garbage-public-zero", podCIDR: "10.5.204.0/24", special: map[string]any{publicIP: "0.0.0.0"}},
		{name: "garbage-public-ours", podCIDR: "10.5.205.0/24", special: map[string]any{publicIP: h.Addr.String()}},
		{name: "garbage-public-within", podCIDR: "10.5.206.0/24", special: map[string]any{publicIP: "10.5.206.7"}},
		{name: "garbage-data-json", podCIDR: "10.5.207.0/24", special: map[string]any{backendData: "{"}},
		{name: "garbage-data-large", podCIDR: "10.5.208.0/24", special: map[string]any{backendData: strings.Repeat("x", 100_000)}},
		{name: "garbage-no-annotations", podCIDR: "10.5.220.0/24", special: map[string]any{isManaged: nil, backendType: nil, backendData: nil, publicIP: nil}, silent: true},
		{name: "garbage-not-managed", podCIDR: "10.5.221.0/24", special: map[string]any{isManaged: "yes"}, silent: true},
		{name: "garbage-no-pod-cidr", silent: true},
		{name: "garbage-only-ipv6", podCIDR: "fd00:5::/64"},
		{name: "garbage-other-type", podCIDR: "10.5.222.0/24", special: map[string]any{backendType: "warp"}},
	}
	if v.backend.name == vxlanBackend.name {
		for i, data := range []string{"null", "{}", `{"VtepMAC":"x"}`, `{"VtepMAC":"00:00:00:00:00:00"}`} {
			garbage = append(garbage, garbage[0])
			g := &garbage[len(garbage)-1]
			g.name, g.podCIDR = fmt.Sprintf("garbage-data-%d", i), fmt.Sprintf("10.5.%d.0/24", 210+i)
			g.special = map[string]any{backendData: data}
		}
	}
	before := h.allRoutes()
	late := stranger("10.5.240.0/24", "192.168.0.240")
	n.pause(1100 * time.Millisecond) // Kubernetes counts seconds, and the older Node goes before
	n.witnessAll(func() {
		for i, g := range garbage {
			o := &corev1.Node{}
			o.Name = g.name
			if g.podCIDR != "" {
				o.Spec.PodCIDR, o.Spec.PodCIDRs = g.podCIDR, []string{g.podCIDR}
			}
			o.Annotations = make(map[string]string)
			all := n.published(stranger("10.5.200.0/24", fmt.Sprintf("192.168.0.%d", 100+i)))
			maps.Copy(all, g.special)
			for key, value := range all {
				if text, ok := value.(string); ok {
					o.Annotations[key] = text
				}
			}
			must(n.kube.Create(n.ctx, o))(t)
		}
		begin := time.Now()
		n.putKubePeer(late, nil) // the last thing to happen
		h.waitPeers(soon, append(good, late)...)
		t.Logf("a good peer after all that was there after %s", time.Since(begin))
	})
	for _, g := range garbage {
		if g.silent {
			if h.logged(g.name) > 0 {
				t.Errorf("%s is mentioned:\n%s", g.name, h.daemon.Log())
			}
			continue
		}
		lease := netip.MustParsePrefix(g.podCIDR).Addr().String() // as what is wrong with its data calls it
		n.wait(soon, "a line about "+g.name, func() string {
			if h.logged(g.name)+h.logged(lease+"/") == 0 {
				return "the log is\n" + h.daemon.Log()
			}
			return ""
		})
		if c := h.logged(g.name); c > 2 { // what two Nodes have in common is said, too
			t.Errorf("%s is mentioned %d times:\n%s", g.name, c, h.daemon.Log())
		}
	}
	if size := len(h.daemon.Log()); size > 20_000 {
		t.Errorf("the log has %d bytes", size)
	}
	now := slices.DeleteFunc(h.allRoutes(), func(r string) bool { return strings.HasPrefix(r, late.subnet.String()) })
	if !slices.Equal(now, before) {
		t.Errorf("the routes are %q, were %q", now, before)
	}

	t.Log("after a restart")
	n.witnessAll(func() {
		h.daemon.Kill()
		h.start()
		h.waitReady()
		h.waitPeers(soon, append(good, late)...)
	})
	for _, g := range garbage {
		check(t, n.kube.DeleteNode(n.ctx, g.name))
	}
	check(t, n.kube.DeleteNode(n.ctx, late.kubeName()))
	h.waitPeers(2*soon, good...)
}

// allRoutes are all of the host, whoever made them.
func (h *node) allRoutes() []string {
	h.n.t.Helper()
	all, err := h.Routes()
	check(h.n.t, err)
	return sorted(all...)
}

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

	t.Log("and a part of that of a host that runs, by a Node that goes before")
	wide := n.addKubeNode(healthPort)
	wide.createNode("10.5.202.0/23")
	wide.start()
	wide.waitReady()
	says := func(text string) {
		t.Helper()
		n.wait(2*soon, "/readyz to say "+text, func() string { return lacks(wide.health("readyz"), text) })
	}
	says("ok")
	create("cat", stranger("10.5.202.0/24", "192.168.0.211"))
	says("the subnet 10.5.202.0/23 belongs to the Node cat, whose podCIDR 10.5.202.0/24 goes before")
	wide.waitLine("our subnet 10.5.202.0/23 now belongs to the Node cat")
	wide.waitLine("10.5.202.0/23", "overlaps 10.5.202.0/24", "delete one of the two")
	check(t, n.kube.DeleteNode(n.ctx, "cat"))
	says("ok")
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
