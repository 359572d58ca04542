package main_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// checked has the daemon's binary check a configuration on a host.
func (h *node) checked(config string, args ...string) (code int, out string) {
	h.n.t.Helper()
	file := filepath.Join(h.Dir, "net.json")
	check(h.n.t, os.WriteFile(file, []byte(config), 0o600))
	p := must(h.Start("flanneld", append([]string{daemonBinary, "-check-config=" + file}, args...), h.env, lab.ProcessOptions{}))(h.n.t)
	return must(p.Wait(h.n.ctx))(h.n.t), p.Log()
}

// What a configuration is said to mean is what a daemon makes of it.
func TestCheckConfig(t *testing.T) {
	inParallel(t, func(t *testing.T, f func(*testing.T, variant)) {
		dualToo(t, f)
		t.Run(allocOnly.name(), func(t *testing.T) { f(t, allocOnly) })
	}, func(t *testing.T, v variant) {
		n := newConfigured(t, v, nil)
		h := n.addNode(lab.HostOptions{})
		before := h.run("ip", "link")
		code, out := h.checked(n.config(nil), "-o=json")
		var m struct {
			Valid    bool
			Hosts    int
			Devices  []string
			MTU      int
			HereMTU  int    `json:"interfaceMTU"`
			Here     string `json:"interface"`
			Networks []struct{ Network, First, Last netip.Prefix }
			Remarks  []string
		}
		if err := json.Unmarshal([]byte(out), &m); err != nil || code != 0 || !m.Valid || m.Hosts == 0 || m.MTU != 1500-v.overheadOf() || m.Here != "eth0" || len(m.Remarks) > 0 {
			t.Fatalf("status %d, %v: %s", code, err, out)
		}
		if now := h.run("ip", "link"); now != before {
			t.Errorf("there was %s, and there is %s", before, now)
		}
		_, screen := h.checked(n.config(nil))
		for _, has := range append(m.Devices, m.Networks[0].First.String(), m.Networks[0].Last.String(), v.backend.name) {
			if !strings.Contains(screen, has) {
				t.Errorf("no %s in %s", has, screen)
			}
		}
		h.start()
		h.waitReady()
		if mtu := h.daemon.Env()["FLANNEL_MTU"]; mtu != jsonText(t, m.HereMTU) {
			t.Errorf("the MTU is %s, and %d was said", mtu, m.HereMTU)
		}
		for _, device := range m.Devices {
			h.run("ip", "link", "show", device)
		}
		if p := h.peer(); len(m.Networks) != len(p.views()) {
			t.Errorf("%d networks were said for %s", len(m.Networks), p.subnets())
		}
		for i, view := range h.peer().views() {
			if s, is := view.subnet.Addr(), m.Networks[i]; s.Less(is.First.Addr()) || is.Last.Addr().Less(s) || view.subnet.Bits() != is.First.Bits() || !is.Network.Contains(s) {
				t.Errorf("the subnet is %s, and %+v was said", view.subnet, is)
			}
		}
	})
}

// overheadOf is how many bytes of a packet are the backend's, in the narrowest family.
func (v variant) overheadOf() int {
	if v.backend.name == "vxlan" && v.families != ipv4Only {
		return v.backend.overhead + 20
	}
	return v.backend.overhead
}

func jsonText(t *testing.T, value any) string {
	t.Helper()
	return string(must(json.Marshal(value))(t))
}

// What a daemon could not follow is said so, with key and value, and by the exit status.
func TestCheckConfigRefuses(t *testing.T) {
	t.Parallel()
	n := newLab(t, vxlan)
	h := n.addNode(lab.HostOptions{})
	for _, c := range []struct {
		config, want string
		code         int
		args         []string
	}{
		{`{`, `network configuration "{" not valid JSON`, 1, nil},
		{`{"Network":"10.5.0.0/16","SubnetLen":31}`, `SubnetLen 31 is above 30`, 1, nil},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"warp"}}`, `Backend.Type "warp" is not a known backend; there are alloc`, 1, nil},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":10000000}}`, `Backend.VNI 10000000 is not between`, 1, nil},
		{`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan","VNI":10000}}`, `Backend.VNI 10000 is above 9999`, 1, nil},
		{`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"host-gw","MTU":1279}}`, `Backend.MTU 1279 leaves 1279 bytes`, 1, nil},
		{`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"udp"}}`, `EnableIPv6 true asks the backend udp`, 1, []string{"-o=json"}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MTU":9000}}`, `this host could not follow it: network configuration: Backend.MTU 9000 is more than the MTU 1500 of the interface eth0`, 0, nil},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","VNI":1}}`, `Backend.VNI is ignored: it is a key of vxlan`, 0, nil},
		{`{"Network":"10.5.0.0/16","SubnetLen":16}`, `of which the Nodes of Kubernetes have their podCIDRs`, 0, []string{"-kube-subnet-mgr"}},
	} {
		code, out := h.checked(c.config, c.args...)
		if c.args != nil {
			out = strings.ReplaceAll(out, `\"`, `"`)
		}
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: status %d, %s", c.config, code, out)
		}
	}
	p := must(h.Start("flanneld", []string{daemonBinary, "-check-config=" + filepath.Join(h.Dir, "none")}, nil, lab.ProcessOptions{}))(t)
	if code := must(p.Wait(n.ctx))(t); code != 2 || !strings.Contains(p.Log(), "no such file") {
		t.Errorf("without a file: status %d, %s", code, p.Log())
	}
	if out := h.runCommand(`echo '{"Network":"10.5.0.0/16"}' | ` + daemonBinary + ` -check-config - -iface-regex=none`); !strings.Contains(out, "up to 255\n") || strings.Contains(out, "\nhere") {
		t.Errorf("of standard input it says %s", out)
	}
}
