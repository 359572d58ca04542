package main_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/network/doctor"
	"flanneld/pkg/lab"
	"flanneld/pkg/status"
)

// examined has -doctor look at a host, with the options of its daemon.
func (h *node) examined(args ...string) (code int, r doctor.Report) {
	h.n.t.Helper()
	code, out := h.act(append([]string{"-doctor", "-o=json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		h.n.t.Fatalf("-doctor -o=json, with status %d: %v in %s", code, err, out)
	}
	return code, r
}

// names checks that -doctor finds something with a check, and nothing else to be wrong.
func (h *node) names(what, check, text string, args ...string) {
	h.n.t.Helper()
	h.n.wait(3*soon, what+": what -doctor finds", func() string {
		code, r := h.examined(args...)
		found := false
		for _, f := range r.Findings {
			switch {
			case f.Verdict != doctor.Bad:
			case f.Check != check:
				return f.Check + " is bad: " + f.Text
			case strings.Contains(f.Text, text):
				found = true
			}
		}
		if !found || code != 1 || r.OK {
			return jsonText(h.n.t.(*testing.T), r)
		}
		return ""
	})
}

// named is names of what is in the way of packets, and checks that the daemon tells it, too.
func (h *node) named(what, check, text string) {
	h.n.t.Helper()
	h.names(what, check, text)
	h.tells(what, status.ComponentPackets, text)
}

// well checks that -doctor finds nothing to be wrong, and knows all, but for the checks that
// are named.
func (h *node) well(what string, unknown ...string) {
	h.n.t.Helper()
	h.n.wait(3*soon, what+": nothing that -doctor finds", func() string {
		code, r := h.examined()
		for _, f := range r.Findings {
			expected := f.Verdict == doctor.Unknown && slices.Contains(unknown, f.Check)
			if f.Verdict != doctor.Good && !expected {
				return f.Check + ": " + f.Text
			}
		}
		if code != 0 || !r.OK || len(r.Findings) < 15 {
			return jsonText(h.n.t.(*testing.T), r)
		}
		return ""
	})
}

// Where all is well -doctor says so, changes nothing, and tells no secret.
func TestDoctorFindsNothing(t *testing.T) {
	inParallel(t, func(t *testing.T, f func(*testing.T, variant)) {
		everyVariant(t, f)
		for _, v := range []variant{allocOnly, vxlan.in(dualStack)} {
			t.Run(v.name(), func(t *testing.T) { f(t, v) })
		}
	}, func(t *testing.T, v variant) {
		n := newNetwork(t, 2, v, nil)
		h := n.nodes[0]
		state := func() string {
			return h.run("ip", "link") + h.run("ip", "-4", "route", "show", "table", "all") + h.run("ls", filepath.Dir(h.stateFile())) + h.daemon.EnvText()
		}
		n.wait(soon, "the pods' bridge to have a carrier", func() string {
			if now := h.run("ip", "link"); strings.Contains(now, "NO-CARRIER") {
				return now
			}
			return ""
		})
		before := state()
		if v.backend.name == allocBackend.name {
			h.well("beside a daemon", "reachability") // which others see to
		} else {
			h.well("beside a daemon")
		}
		if now := state(); now != before {
			t.Errorf("there was\n%s\nand there is\n%s", before, now)
		}
		if code, out := h.act("-doctor"); code != 0 || strings.Count(out, "✓ ") < 15 || strings.Contains(out, "✗") {
			t.Errorf("status %d, %s", code, out)
		}
		must(h.daemon.Stop(soon))(t)
		h.well("without a daemon", "daemon", "reachability")
	})
}

// What is wrong on a host is named by one check.
func TestDoctorNames(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan, nil)
	h, other := n.addNode(lab.HostOptions{}), n.addNode(lab.HostOptions{})
	h.start()
	other.start()
	n.readyWithPods()
	h.well("at first")

	h.sysctl("net.ipv4.ip_forward", 0)
	h.named("no forwarding", "forwarding", "net.ipv4.ip_forward is 0")
	h.sysctl("net.ipv4.ip_forward", 1)

	h.nft("table inet mine {\n chain last {\n type filter hook forward priority 5; policy accept;\n ct state established,related accept\n counter reject\n }\n}\n")
	h.named("a REJECT at the end", "filters", "table inet mine of nftables")
	h.nft("delete table inet mine")

	h.ip("tuntap add vpn mode tun")
	h.ip("link set vpn up")
	h.ip("route add " + netip.PrefixFrom(other.subnet().Addr(), 25).String() + " dev vpn proto static")
	h.named("a route to a part of a peer's subnet", "routes", other.subnet().String()+": in part not reachable")
	h.ip("route flush dev vpn proto static")
	free := "10.5.250.0/24"
	if other.subnet().String() == free || h.subnet().String() == free {
		free = "10.5.251.0/24"
	}
	h.ip("route add " + free + " dev vpn proto static")
	h.names("a route in Network", "overlap", free+" dev vpn")
	h.ip("route flush dev vpn proto static")

	// What is for the other host leaves by another way than what comes from it.
	check(t, h.AddNIC("eth1", n.sw, netip.Addr{}))
	h.sysctl("net.ipv4.conf.eth1.rp_filter", 0)
	h.ip("route add " + other.Addr.String() + "/32 dev eth1")
	h.sysctl("net.ipv4.conf.eth0.rp_filter", 1)
	h.named("asymmetric routes", "rp_filter", "packets that come in by eth0 are dropped, as the way back is by eth1")
	h.sysctl("net.ipv4.conf.eth0.rp_filter", 2)
	h.ip("route del " + other.Addr.String() + "/32 dev eth1")
	h.ip("link del eth1")
	h.well("mended", "reachability")

	h.ip("link set docker0 down")
	h.ip("addr flush dev docker0")
	h.ip("addr add 172.17.0.1/16 dev docker0")
	h.ip("link set docker0 up")
	h.named("docker0 of another network", "pods", "docker0: it has 172.17.0.1/16")
	h.ip("addr flush dev docker0")
	h.ip("addr add " + netip.PrefixFrom(h.subnet().Addr().Next(), 24).String() + " dev docker0")

	// The lease is another host's, while no daemon sees it.
	subnet, key := h.subnet(), h.key()
	must(h.daemon.Stop(soon))(t)
	n.delete(key)
	n.putPeer(stranger(subnet.String(), "192.168.0.77"))
	h.names("a lease that is taken", "lease", "is the lease of another host: 192.168.0.77")
	n.delete(key)
	h.start()
	h.waitReady()
	h.well("at last", "reachability")
}

// A REJECT of iptables at FORWARD's end is named by either variant.
func TestDoctorNamesIPTables(t *testing.T) {
	t.Parallel()
	everyIPTables(t, func(t *testing.T, variant string) {
		t.Parallel()
		n := newConfigured(t, hostGW, nil)
		for range 2 {
			h := n.addNode(lab.HostOptions{}, "-iptables-forward-rules=false")
			h.setIPTables(variant)
			h.start()
		}
		n.readyWithPods()
		h := n.nodes[0]
		h.restore("*filter\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -j REJECT\nCOMMIT\n", true)
		h.named("a REJECT", "filters", "table filter of "+variant)
	})
}

// The interface that leads to no other host is named, with the one that does.
func TestDoctorNamesWrongInterface(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan, nil)
	nat := must(n.lab.AddSwitch("nat", netip.MustParsePrefix("10.0.2.0/24")))(t)
	h, other := n.addNode(lab.HostOptions{}, "-iface=eth1"), n.addNode(lab.HostOptions{})
	check(t, h.AddNIC("eth1", nat, netip.Addr{}))
	h.start()
	other.start()
	h.waitReady()
	other.waitReady()
	h.addPod()
	h.waitPeers(soon, other.peer())
	h.named("the interface of a NAT", "interface", "leads to none of the other hosts, and eth0 is in their network")
}

// A lease that another host has taken, while no other subnet is free, is named.
func TestDoctorNamesTakenLease(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, vxlan, map[string]any{"SubnetMin": "10.5.9.0", "SubnetMax": "10.5.9.0"})
	h := n.addNode(lab.HostOptions{})
	h.start()
	h.waitReady()
	h.addPod()
	n.putPeer(stranger("10.5.9.0/24", "192.168.0.77"))
	h.names("a lease that is taken", "lease", "this subnet now belongs to the host with the public address 192.168.0.77")
	h.tells("a lease that is taken", status.ComponentLease, "this subnet now belongs to")
}

// An etcd that is slow or down is named, and what depends on it is not known, and no fault.
func TestDoctorNamesStore(t *testing.T) {
	t.Parallel()
	const password = "open-sesame-4711"
	n := newConfigured(t, vxlan, nil)
	check(t, n.etcd.EnableAuth(n.ctx, "root-password-1234"))
	check(t, n.etcd.AddUser(n.ctx, "flannel", password, keyPrefix+"/*"))
	p, url := n.startProxy(2000)
	h := n.addNode(lab.HostOptions{}, "-etcd-endpoints="+strings.Replace(url, "http://", "http://flannel:"+password+"@", 1))
	h.start()
	h.waitReady()
	h.addPod()
	h.well("at first")
	folder := t.TempDir()
	check(t, os.WriteFile(filepath.Join(folder, "05-other.conf"), []byte("{}"), 0o600))
	h.names("another CNI file", "CNI", "05-other.conf: the container runtime takes the first file by name", "-cni-conf-file="+filepath.Join(folder, "10-flannel.conflist"))

	p.slow(1500 * time.Millisecond)
	h.names("a slow etcd", "store", "to answer")
	h.tells("a slow etcd", status.ComponentStore, "to answer")
	p.slow(0)
	n.wait(noticed, "etcd to be quick again", func() string { // it is asked once a minute
		if code, s := h.status(); code != 0 {
			return fmt.Sprint(s.Problems)
		}
		return ""
	})
	h.waitLine("etcd answers in time again")
	h.well("quick again")

	n.etcd.Kill()
	h.waitScreen(1, "etcd cannot be used")
	h.names("no etcd", "store", "connection")
	h.tells("no etcd", status.ComponentStore, "etcd cannot be used")
	_, r := h.examined("-etcd-password=" + password)
	_, screen := h.act("-doctor", "-etcd-password="+password)
	if all := jsonText(t, r) + screen; strings.Contains(all, password) {
		t.Errorf("a password is in %s", all)
	}
}

// With Kubernetes the API is looked at, and what Services need.
func TestDoctorWithKubernetes(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 2, kubeVXLAN, nil)
	h := n.nodes[0]
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil { // else br_netfilter is not loaded, and is not for a test to load
		h.sysctl("net.bridge.bridge-nf-call-iptables", 1)
		h.well("beside a daemon")
		h.sysctl("net.bridge.bridge-nf-call-iptables", 0)
	}
	h.names("Services that do not work", "bridge", "net.bridge.bridge-nf-call-iptables is not 1")
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
		h.sysctl("net.bridge.bridge-nf-call-iptables", 1)
		n.kube.Kill()
		h.waitScreen(1, "the Kubernetes API cannot be used")
		h.names("no API", "store", "connection refused")
	}
}

// A tunnel's port that is shut on another host is named as that here, and by its rule there.
func TestDoctorNamesPeer(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 2, vxlan, nil)
	h, other := n.nodes[0], n.nodes[1]
	h.well("at first")
	other.nft("table inet mine {\n chain shut {\n type filter hook input priority 5; policy accept;\n udp dport 8472 drop\n }\n}\n")
	h.names("a port that is shut", "reachability", other.subnet().String()+" ("+other.Addr.String()+") is unreachable")
	h.tells("a port that is shut", status.ComponentPeers, other.subnet().String())
	other.named("its own rule", "filters", "table inet mine of nftables")
	other.nft("delete table inet mine")
	h.well("open again")
	other.well("open again")
}
