package main_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// followed is how soon a daemon does what someone asked for in the API, or puts right what
// was lost there.
var followed = slow(2 * time.Second)

// Whatever happens to a host's Node while its daemon runs, no packet of pods is lost, and
// soon the Node says again what it must.
func TestKubeNodeChanges(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 2, kubeVXLAN, nil)
	h, other := n.nodes[0], n.nodes[1]
	mac := h.mac()
	env := h.daemon.EnvText()
	for _, c := range []struct {
		what   string
		change func()
		astray bool // packets are, until it is put right
	}{
		{"all annotations are lost", func() {
			h.annotate(map[string]any{isManaged: nil, backendType: nil, backendData: nil, publicIP: nil})
		}, false},
		{"one annotation is lost", func() { h.annotate(map[string]any{backendData: nil}) }, false},
		{"it is turned off", func() { h.annotate(map[string]any{isManaged: "false"}) }, false},
		{"another MAC", func() { h.annotate(map[string]any{backendData: `{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}`}) }, true},
		{"another address", func() { h.annotate(map[string]any{publicIP: "192.168.0.99"}) }, true},
		{"nonsense", func() { h.annotate(map[string]any{backendData: "{", publicIP: "fd00::1", backendType: "warp"}) }, false},
		{"the Node is deleted and made again", func() {
			check(t, n.kube.DeleteNode(n.ctx, h.Name))
			h.createNode(h.podCIDR())
		}, false},
		{"the Node is gone for a while", func() {
			check(t, n.kube.DeleteNode(n.ctx, h.Name))
			h.waitLine(h.Name, "Node")
			n.pause(time.Second)
			h.waitPeers(0, other.peer())
			h.createNode()
			n.pause(time.Second)
			check(t, n.kube.SetPodCIDRs(n.ctx, h.Name, h.podCIDR()))
		}, false},
	} {
		t.Log(c.what)
		n.pause(5 * time.Second) // what is changed again and again is put right more slowly
		follow := func() {
			c.change()
			t.Logf("put right after %s", h.waitAnnotations(followed, nil))
			other.waitPeers(soon, h.peer())
			h.waitPeers(0, other.peer())
		}
		if c.astray {
			follow()
		} else {
			n.witnessAll(follow)
		}
	}
	if now := h.mac(); now.String() != mac.String() {
		t.Errorf("the MAC is %s, was %s", now, mac)
	}
	if now := h.daemon.EnvText(); now != env {
		t.Errorf("subnet.env is %q, was %q", now, env)
	}
	n.pingAll()
}

// Whoever changes a host's Node several times finds it put right each time. Another daemon that
// works for the same host, and changes it whenever it is put right, is named, and not fought at
// full speed; soon after it has gone the Node says again what it must.
func TestKubeNodeChangedAgain(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 1, kubeVXLAN, nil)
	h := n.nodes[0]
	for range 3 {
		h.annotate(map[string]any{publicIP: "192.168.0.99"})
		t.Logf("put right after %s", h.waitAnnotations(followed, nil))
	}

	n.pause(4 * time.Second)
	changes := 0
	const others = `{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}`
	for begin := time.Now(); time.Since(begin) < 10*time.Second; n.pause(20 * time.Millisecond) {
		if h.kubeNode().Annotations[backendData] != others {
			h.annotate(map[string]any{backendData: others})
			changes++
		}
	}
	if changes < 3 || changes > 8 {
		t.Errorf("in 10 s it was put right %d times", changes-1)
	}
	h.waitLine("changed again and again", "02:00:00:00:00:99", "another daemon", "DaemonSet")
	t.Logf("put right %d times, and for good after %s", changes-1, h.waitAnnotations(slow(10*time.Second), nil))
}

// A Node that is made again with another subnet: the host moves there, and its peers follow.
func TestKubeNewPodCIDR(t *testing.T) {
	t.Parallel()
	for _, v := range []variant{kubeVXLAN, kubeHostGW} {
		t.Run(v.name(), func(t *testing.T) {
			t.Parallel()
			testKubeNewPodCIDR(t, v)
		})
	}
}

func testKubeNewPodCIDR(t *testing.T, v variant) {
	n := newKubeNetwork(t, 2, v, nil)
	h, other := n.nodes[0], n.nodes[1]
	old := h.subnet()
	check(t, n.kube.DeleteNode(n.ctx, h.Name))
	h.createNode("10.5.77.0/24")
	took := n.wait(followed, "subnet.env", func() string {
		return lacks(h.daemon.EnvText(), "FLANNEL_SUBNET=10.5.77.1/24")
	})
	t.Logf("followed after %s", took)
	h.waitLine(old.String(), "10.5.77.0/24")
	h.waitAnnotations(soon, nil)
	other.waitPeers(2*soon, h.peer())
	h.waitPeers(soon, other.peer())
	if v.backend.name == vxlanBackend.name {
		n.wait(soon, "the address of the device", func() string {
			addrs, err := h.Addrs(vtep)
			check(t, err)
			return lacks(fmt.Sprint(addrs), "10.5.77.0/32")
		})
	}
	h.addPod()
	n.pingAll()
}

// The address that others reach a host by is what the Node says, as soon as it says so.
func TestKubePublicAddress(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 2, kubeVXLAN, nil)
	h, other := n.nodes[0], n.nodes[1]
	first := h.Addr
	says := func(want string) {
		t.Helper()
		t.Logf("%s after %s", want, h.waitAnnotations(followed, map[string]any{publicIP: want}))
		p := h.peer()
		p.public = netip.MustParseAddr(want)
		other.waitPeers(slow(5*time.Second), p)
	}

	t.Log("behind a NAT")
	h.annotate(map[string]any{overwrite: "203.0.113.7"})
	says("203.0.113.7")
	h.annotate(map[string]any{overwrite: "203.0.113.8"})
	says("203.0.113.8")
	h.waitStatus("(203.0.113.8)", true)
	check(t, n.kube.DeleteNode(n.ctx, h.Name))
	h.waitLine("there is no Node " + h.Name)
	n.pause(time.Second)
	if c := h.logged("is to say", first.String()); c > 0 {
		t.Errorf("the address is taken back with the Node:\n%s", h.daemon.Log())
	}
	h.createNode(h.podCIDR())
	says(first.String())

	t.Log("another of its addresses is asked for")
	check(t, h.AddAddr("eth0", netip.MustParsePrefix("192.168.0.77/24")))
	h.annotate(map[string]any{nodePublicIP: "192.168.0.77"})
	says("192.168.0.77")
	n.waitPings()
	h.annotate(map[string]any{nodePublicIP: nil})
	says(first.String())
	n.waitPings()

	t.Log("nonsense is said and not followed")
	h.annotate(map[string]any{overwrite: "here"})
	h.waitLine(overwrite, "here")
	n.pause(time.Second)
	says(first.String())
	h.annotate(map[string]any{overwrite: nil})

	t.Log("the address of the interface changes")
	check(t, h.DelAddr("eth0", netip.MustParsePrefix("192.168.0.77/24")))
	h.readdress("eth0", "192.168.0.88/24")
	says("192.168.0.88")
	n.waitPings()
	if h.subnet().String() != h.podCIDR() {
		t.Errorf("the subnet is %s", h.subnet())
	}
}

// An address that is asked for, and that no interface of the host has, is no end of a tunnel:
// that is said, and what to do; nothing is published of it before it is there. Whoever names the
// interface may ask for any address, as with flannel.
func TestKubeRequestedAddressMissing(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 2, kubeVXLAN, nil)
	h := n.nodes[0]
	const missing = "192.168.0.99"
	says := []string{"node-public-ip", missing, "no interface", "public-ip-overwrite"}
	n.witnessAll(func() {
		h.annotate(map[string]any{nodePublicIP: missing})
		h.waitLine(says...)
		h.waitStatus("no interface of this host has", true)
		n.pause(time.Second)
		h.waitAnnotations(0, nil)
	})
	check(t, h.AddAddr("eth0", netip.MustParsePrefix(missing+"/24")))
	t.Logf("followed after %s", h.waitAnnotations(followed, map[string]any{publicIP: missing}))
	h.waitStatus("no interface of this host has", false)
	n.waitPings()

	t.Log("from the start")
	late := n.addKubeNode(healthPort)
	late.createNode(late.podCIDR())
	late.annotate(map[string]any{nodePublicIP: "203.0.113.9"})
	late.start()
	late.waitLine("waiting", "node-public-ip", "203.0.113.9", "no interface")
	late.notReady()
	if a := late.kubeNode().Annotations; a[publicIP] != "" {
		t.Errorf("it has published %v", a)
	}
	late.annotate(map[string]any{nodePublicIP: nil})
	late.waitReady()

	t.Log("the interface is named")
	named := n.addKubeNode("-iface=eth0")
	named.createNode(named.podCIDR())
	named.annotate(map[string]any{nodePublicIP: "203.0.113.9"})
	named.start()
	named.waitReady()
	named.waitAnnotations(soon, map[string]any{publicIP: "203.0.113.9"})
}

// net-conf.json is replaced as kubelet does it: what can be followed is, and what cannot is
// said.
func TestKubeConfigFollowed(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 2, kubeVXLAN, nil)
	h := n.nodes[0]
	n.witnessAll(func() {
		n.configure(settings{"Network": "10.4.0.0/15"})
		took := n.wait(slow(3*time.Second), "subnet.env", func() string {
			return lacks(h.daemon.EnvText(), "FLANNEL_NETWORK=10.4.0.0/15")
		})
		t.Logf("followed after %s", took)

		t.Log("what is not valid")
		check(t, n.kube.config.Set(map[string]string{netConf: "{"}))
		h.waitLine(netConf, "JSON")
		t.Log("what is not there")
		check(t, n.kube.config.Set(nil))
		n.pause(slow(2 * time.Second))
		if !strings.Contains(h.daemon.EnvText(), "FLANNEL_NETWORK=10.4.0.0/15") {
			t.Errorf("subnet.env is %q", h.daemon.EnvText())
		}

		t.Log("a network without our subnet")
		n.configure(settings{"Network": "10.6.0.0/16"})
		h.waitLine("10.6.0.0/16", h.podCIDR())
		n.pause(time.Second)
		h.waitAnnotations(0, nil)
		n.configure(nil)
		n.wait(slow(3*time.Second), "subnet.env", func() string {
			return lacks(h.daemon.EnvText(), "FLANNEL_NETWORK=10.5.0.0/16")
		})
	})

	t.Log("another backend")
	n.configure(settings{"Backend": map[string]any{"Type": "host-gw"}})
	h.waitLine("restart")
	for _, h := range n.nodes {
		h.daemon.Kill()
		h.start()
	}
	n.backend = hostGWBackend
	for _, h := range n.nodes {
		h.waitReady()
		h.waitPeers(soon, h.others()...)
		h.waitAnnotations(soon, nil)
	}
	n.waitPings()
}

// net-conf.json is a file, and followed as long as it is one: also while the API is down, however
// the daemon was started. If it cannot be read, that is said, and so is that it can again.
func TestKubeConfigFollowedWithoutAPI(t *testing.T) {
	t.Parallel()
	n := newKube(t, kubeVXLAN, nil)
	h := n.addKubeNode()
	file := filepath.Join(h.Dir, netConf)
	h.args = append(h.args, "-net-config-path="+file)
	write := func(network string) {
		t.Helper()
		check(t, os.RemoveAll(file))
		check(t, os.WriteFile(file, []byte(n.config(settings{"Network": network})), 0o600))
	}
	follows := func(network string) {
		t.Helper()
		write(network)
		t.Logf("followed after %s", n.wait(slow(3*time.Second), "subnet.env", func() string {
			return lacks(h.daemon.EnvText(), "FLANNEL_NETWORK="+network)
		}))
	}
	write("10.5.0.0/16")
	h.createNode(h.podCIDR())
	h.start()
	h.waitReady()
	h.waitKubeSaved(h.Addr.String())
	n.kube.Kill()
	h.waitStatus("the Kubernetes API cannot be used since", true)
	follows("10.4.0.0/15")

	t.Log("what cannot be read")
	check(t, os.Remove(file))
	check(t, os.Mkdir(file, 0o755))
	h.waitLine("the former one stays in force", "cannot be read", netConf, "is a directory")
	h.waitStatus("not followed: network configuration cannot be read", true)
	follows("10.4.0.0/15")
	h.waitLine("again the one in force")
	h.waitStatus("not followed", false)
	h.waitStatus("the Kubernetes API cannot be used since", true)

	t.Log("started from what was saved")
	h.waitKubeSaved("10.4.0.0/15")
	h.daemon.Kill()
	h.start()
	h.waitReady()
	follows("10.0.0.0/13")
	n.pause(time.Second)
	h.waitStatus("10.0.0.0/13", false) // nothing is the matter with it
	check(t, n.kube.Start(n.ctx))
	h.waitAnnotations(2*soon, nil)
	follows("10.5.0.0/16")
}

// After a reboot, which leaves nothing but files, all is as before: subnet, device, MAC. So
// it is also if the Node was made anew, and where subnet.env is of another subnet it is not
// left as it was.
func TestKubeReboot(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 2, kubeVXLAN, nil)
	h, other := n.nodes[0], n.nodes[1]
	mac, env := h.mac().String(), h.daemon.EnvText()
	h.waitKubeSaved(other.subnet().Addr().String())
	reboot := func(meanwhile func()) {
		t.Helper()
		h.restart(func() {
			check(t, h.DelLink(vtep))
			meanwhile()
		})
	}
	same := func() {
		t.Helper()
		if now := h.mac().String(); now != mac {
			t.Errorf("the MAC is %s, was %s", now, mac)
		}
		if now := h.daemon.EnvText(); now != env {
			t.Errorf("subnet.env is %q, was %q", now, env)
		}
		h.waitAnnotations(soon, nil)
		h.waitPeers(soon, other.peer())
		other.waitPeers(soon, h.peer())
	}
	t.Log("a reboot")
	reboot(func() { check(t, os.Remove(h.daemon.SubnetFile)) })
	same()
	t.Log("the Node is made anew meanwhile")
	reboot(func() {
		check(t, os.Remove(h.daemon.SubnetFile))
		check(t, n.kube.DeleteNode(n.ctx, h.Name))
		h.createNode(h.podCIDR())
	})
	same()
	t.Log("what is saved is lost, and the Node says it")
	reboot(func() {
		check(t, os.RemoveAll(filepath.Join(h.Dir, "state")))
		check(t, os.Remove(h.daemon.SubnetFile))
	})
	same()
	t.Log("an existing device has a MAC of its own")
	given := net.HardwareAddr{2, 7, 7, 7, 7, 7}
	h.restart(func() { check(t, h.SetHardwareAddr(vtep, given)) })
	mac = given.String()
	same()

	t.Log("the Node has another subnet by then")
	reboot(func() {
		check(t, n.kube.DeleteNode(n.ctx, h.Name))
		h.createNode("10.5.66.0/24")
	})
	if h.subnet() != mustPrefix("10.5.66.0/24") {
		t.Errorf("READY with subnet.env of %s", h.subnet())
	}
	other.waitPeers(2*soon, h.peer())
}

// A second daemon on a host, as in the middle of an upgrade that renames the DaemonSet,
// leaves everything to the first, and takes over when that has ended; also if it was given
// another subnet file.
func TestKubeSecondDaemon(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ args, says []string }{
		"the same subnet file": {nil, []string{"waiting", "another flanneld works for it"}},
		"another one":          {[]string{"-subnet-file=" + filepath.Join(t.TempDir(), "subnet.env")}, []string{"waiting", "claiming the Node host1", "another flanneld works for it"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testKubeSecondDaemon(t, c.args, c.says)
		})
	}
}

func testKubeSecondDaemon(t *testing.T, args, says []string) {
	n := newKubeNetwork(t, 2, kubeVXLAN, nil)
	h, other := n.nodes[0], n.nodes[1]
	first := h.daemon
	n.witnessAll(func() {
		h.start(args...)
		h.daemon.SubnetFile = first.SubnetFile
		h.waitLine(says...)
		n.pause(time.Second)
		h.waitAnnotations(0, nil)
		select {
		case <-h.daemon.Notify.Ready():
			t.Error("the second is ready, too")
		default:
		}
		must(first.Stop(soon))(t)
		h.waitReady()
		h.waitPeers(soon, other.peer())
	})
}

// The condition of the Node that lets pods onto it is set once its network is there, is tried
// again until it stands, and is left alone where someone else owns it.
func TestKubeCondition(t *testing.T) {
	t.Parallel()
	n := newKube(t, kubeVXLAN, nil)
	unavailable := func(h *node) {
		t.Helper()
		check(t, n.kube.PatchNodeStatus(n.ctx, h.Name, map[string]any{"status": map[string]any{"conditions": []any{
			map[string]any{"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"},
		}}}))
	}
	h := n.addKubeNode()
	h.createNode()
	unavailable(h)
	h.start()
	h.waitLine("podCIDR")
	n.pause(time.Second)
	if c := h.condition(); c.Status != "True" {
		t.Errorf("before there is a subnet, the condition is %v", c)
	}
	check(t, n.kube.SetPodCIDRs(n.ctx, h.Name, h.podCIDR()))
	h.waitReady()
	isSet := func(h *node) {
		t.Helper()
		n.wait(soon, "the condition", func() string {
			if c := h.condition(); c == nil || c.Status != "False" || c.Reason != "FlannelIsUp" || c.LastTransitionTime.IsZero() {
				return fmt.Sprintf("it is %v", c)
			}
			return ""
		})
	}
	isSet(h)

	t.Log("a Node that is made again gets it again")
	check(t, n.kube.DeleteNode(n.ctx, h.Name))
	h.createNode(h.podCIDR())
	unavailable(h)
	isSet(h)

	t.Log("someone says otherwise")
	n.pause(1100 * time.Millisecond)
	unavailable(h)
	isSet(h)
	h.waitLine("the Node says that its network does not work")

	t.Log("the API is gone when it is to be set")
	late := n.addKubeNode()
	late.createNode(late.podCIDR())
	late.start()
	late.waitReady()
	isSet(late)
	late.waitKubeSaved(late.subnet().Addr().String())
	late.daemon.Kill()
	unavailable(late)
	n.kube.Kill()
	late.start()
	late.waitReady()
	check(t, n.kube.Start(n.ctx))
	isSet(late)

	t.Log("it belongs to someone else")
	route := n.addKubeNode("-set-node-network-unavailable=false")
	route.createNode(route.podCIDR())
	unavailable(route)
	route.start()
	route.waitReady()
	n.pause(2 * time.Second)
	if c := route.condition(); c == nil || c.Status != "True" {
		t.Errorf("the condition is %v", c)
	}
}

// The bridge of the pods has an address of another subnet, as the CNI plugins leave it when
// the subnet has changed: that is said.
func TestKubeBridgeOfAnotherSubnet(t *testing.T) {
	t.Parallel()
	n := newKube(t, kubeVXLAN, nil)
	h := n.addKubeNode()
	h.createNode(h.podCIDR())
	h.run("ip", "link", "add", "cni0", "type", "bridge")
	h.run("ip", "addr", "add", "10.5.99.1/24", "dev", "cni0")
	h.run("ip", "link", "set", "cni0", "up")
	h.start()
	h.waitReady()
	h.waitLine("cni0", "10.5.99.1/24", h.podCIDR())
}
