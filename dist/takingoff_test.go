package dist_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What running.md says about taking a host off needs no more than what is installed there:
// it gives the lease back and removes what the daemon made. While etcd is away it removes
// nothing.
func TestTakingOff(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	h := n.hosts[0]
	h.boot(map[string]string{
		// It matters that these are read: without -iface another address would be the host's.
		optionsFile: n.options() + "FLANNELD_IFACE_REGEX='^192\\.168\\.0\\.\\d+$'\n",
	}, "flanneld.service")
	h.waitShow("flanneld", "ActiveState", "active")
	subnet := h.env()["FLANNEL_SUBNET"]
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(h.sys.Root, path))
		return err == nil
	}
	leases := func() string {
		t.Helper()
		c, err := n.etcd.ClientV3()
		check(t, err)
		defer func() { check(t, c.Close()) }()
		all, err := c.Get(n.ctx, "/coreos.com/network/subnets/"+strings.Replace(subnet, ".1/", ".0-", 1))
		check(t, err)
		var text strings.Builder
		for _, kv := range all.Kvs {
			text.Write(kv.Key)
		}
		return text.String()
	}
	if leases() == "" {
		t.Fatal("there is no lease of the host")
	}
	var script string
	for _, b := range blocks(t, "../Documentation/running.md") {
		if strings.Contains(b.script, "flanneld -release") {
			script = b.script
		}
	}

	n.etcd.Kill()
	if out, err := h.sys.Run(n.ctx, "/bin/sh", "-c", script); err == nil {
		t.Errorf("without etcd it succeeds, and prints:\n%s", out)
	} else if !strings.Contains(err.Error(), n.etcd.Endpoint()) {
		t.Errorf("without etcd it fails, and does not name %s: %v", n.etcd.Endpoint(), err)
	}
	if devices := h.run("ip", "link"); !strings.Contains(devices, "flannel.1") {
		t.Errorf("without etcd it has removed flannel.1; there is\n%s", devices)
	}
	if saved, err := filepath.Glob(filepath.Join(h.sys.Root, "var/lib/flannel/*")); err != nil || len(saved) == 0 {
		t.Errorf("without etcd it has removed what is in /var/lib/flannel (%v)", err)
	}

	check(t, n.etcd.Start(n.ctx))
	t.Log(h.run("/bin/sh", "-euc", script))
	if left := leases(); left != "" {
		t.Errorf("the lease %s is still there", left)
	}
	if exists("run/flannel/subnet.env") {
		t.Error("subnet.env is still there")
	}
	if devices := h.run("ip", "link"); strings.Contains(devices, "flannel.1") {
		t.Errorf("flannel.1 is still there:\n%s", devices)
	}
	if enabled, _ := h.sys.Run(n.ctx, "systemctl", "is-enabled", "flanneld"); strings.TrimSpace(enabled) != "disabled" {
		t.Errorf("flanneld is %s, and would be back at the next boot", enabled)
	}
}
