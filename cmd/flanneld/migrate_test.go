package main_test

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/lab"
)

// A network moves from version 2 to version 3 under its daemons, and then etcd to a
// version that has no other, as the documentation says: no packet is lost, and no
// host's subnet changes.
func TestMigration(t *testing.T) {
	t.Parallel()
	v := vxlan
	v.store = etcdV2
	n := newNetwork(t, 3, v, nil)
	v3 := newAdminV3(t, n.etcd)
	n.put("subnets/10.5.200.0-24", n.backend.lease(stranger("10.5.200.0/24", "192.168.0.200")))
	inV3 := func(key string) *entry {
		t.Helper()
		return must(v3.get(n.ctx, keyPrefix+"/"+key))(t)
	}
	type was struct {
		subnet string
		mac    net.HardwareAddr
	}
	var before []was
	for _, h := range n.nodes {
		before = append(before, was{h.subnet().String(), h.mac()})
	}
	n.witnessAll(func() {
		code, out := n.nodes[0].act("-etcd-migrate", "-dry-run")
		if code != 0 || strings.Count(out, "would copy lease ") != 3 || inV3("config") != nil {
			t.Errorf("the dry run: status %d, %s", code, out)
		}
		code, out = n.nodes[0].act("-etcd-migrate")
		for _, line := range []string{
			fmt.Sprintf("copied lease %s of %s, 23h59m left\n", before[1].subnet, n.nodes[1].Addr),
			"copied reservation 10.5.200.0/24 of 192.168.0.200\n",
			"copied the network's configuration\n",
			"leases: 4 copied\n",
			"restart all daemons within 23h59m: ",
		} {
			if code != 0 || !strings.Contains(out, line) {
				t.Errorf("status %d, %q without %q", code, out, line)
			}
		}
		for i, h := range n.nodes {
			h.restart(func() {})
			h.waitLog("using version 3 of etcd's API: the same network configuration is in version 2 and 3, and there are leases in version 3")
			n.wait(soon, "the lease in version 3 to be its daemon's", func() string {
				if e := inV3(h.key()); e == nil || e.ttl < 86000*time.Second || e.value != n.backend.lease(h.peer()) {
					return fmt.Sprint(e)
				}
				return ""
			})
			for _, other := range n.nodes { // whichever version they are in
				other.waitPeers(soon, append(other.others(), stranger("10.5.200.0/24", "192.168.0.200"))...)
			}
			if s := h.subnet().String(); s != before[i].subnet || !bytes.Equal(h.mac(), before[i].mac) {
				t.Errorf("%s had %v and has %s, %s", h.Name, before[i], s, h.mac())
			}
		}
		if code, out := n.nodes[0].act("-etcd-migrate"); code != 0 || !strings.Contains(out, "leases: 0 copied, 4 in version 3 already\n") {
			t.Errorf("again: status %d, %s", code, out)
		}

		keys := must(n.etcd.Keys())(t)
		must(keys.Delete(n.ctx, "/coreos.com", &client.DeleteOptions{Recursive: true}))(t)
		check(t, n.etcd.Change(n.ctx, "", "--enable-v2=false", "--snapshot-count=10"))
		for range 40 {
			check(t, v3.put(n.ctx, "/some/key", "", 0))
		}
		check(t, n.etcd.Change(n.ctx, etcdV3.version))
		n.admin = newAdminV3(t, n.etcd)
		n.delete("subnets/10.5.200.0-24")
		for _, h := range n.nodes {
			h.waitPeers(20*time.Second, h.others()...)
		}
	})
	for i, h := range n.nodes {
		h.restart(func() {})
		if s := h.subnet().String(); s != before[i].subnet {
			t.Errorf("%s had %v and has %s", h.Name, before[i], s)
		}
	}
	if code, out := n.nodes[0].act("-etcd-migrate"); code != 1 || !strings.Contains(out, "does not offer the v2 API (it ended with etcd 3.5, where --enable-v2 turns it on") {
		t.Errorf("in the end: status %d, %s", code, out)
	}
}

// While some hosts are on version 2 and some on version 3, neither see what is new
// in the other; a daemon that starts goes to version 3, and a second migration
// brings there whoever joined in version 2.
func TestHalfMigrated(t *testing.T) {
	t.Parallel()
	v := vxlan
	v.store = etcdV2
	n := newNetwork(t, 2, v, nil)
	moved, stays := n.nodes[0], n.nodes[1]
	if code, out := moved.act("-etcd-migrate"); code != 0 {
		t.Fatalf("status %d, %s", code, out)
	}
	moved.restart(func() {})
	new3 := n.addNode(lab.HostOptions{})
	new3.start()
	new3.waitReady()
	new3.waitLog("using version 3")
	new2 := n.addNode(lab.HostOptions{}, "-etcd-api=2")
	// Else it might have the same subnet as new3, once in a hundred times.
	check(t, os.WriteFile(filepath.Join(new2.Dir, "subnet.env"), []byte("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.150.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"), 0o600))
	new2.start()
	new2.waitReady()
	if s := new2.subnet().String(); s != "10.5.150.0/24" {
		t.Errorf("the subnet is %s", s)
	}
	moved.waitPeers(soon, stays.peer(), new3.peer())
	stays.waitPeers(soon, moved.peer(), new2.peer())
	n.witness(moved, stays, func() { n.pause(time.Second) })

	code, out := moved.act("-etcd-migrate")
	if code != 0 || !strings.Contains(out, fmt.Sprintf("copied lease %s of %s, 23h59m left\n", new2.subnet(), new2.Addr)) || !strings.Contains(out, "leases: 1 copied, 2 in version 3 already\n") {
		t.Errorf("again: status %d, %s", code, out)
	}
	moved.waitPeers(soon, stays.peer(), new2.peer(), new3.peer())
	stays.restart(func() {})
	stays.waitPeers(soon, moved.peer(), new2.peer(), new3.peer())
}

// Two hosts with one subnet: none is overwritten, and no daemon goes where it would
// lose its own.
func TestMigrationConflict(t *testing.T) {
	t.Parallel()
	v := vxlan
	v.store = etcdV2
	n := newNetwork(t, 1, v, nil)
	h := n.nodes[0]
	v3 := newAdminV3(t, n.etcd)
	other := n.backend.lease(stranger(h.subnet().String(), "192.168.0.200"))
	check(t, v3.put(n.ctx, keyPrefix+"/"+h.key(), other, 0))
	for _, args := range [][]string{{"-etcd-migrate", "-dry-run"}, {"-etcd-migrate"}} {
		code, out := h.act(args...)
		if code != 1 || !strings.Contains(out, fmt.Sprintf("conflict: version 2 has %s of %s, and version 3 has it of 192.168.0.200; left alone", h.subnet(), h.Addr)) {
			t.Errorf("%q: status %d, %s", args, code, out)
		}
	}
	if e := must(v3.get(n.ctx, keyPrefix+"/"+h.key()))(t); e.value != other {
		t.Errorf("in version 3 there is %s", e)
	}
	was := h.subnet()
	h.restart(func() {})
	h.waitLog("using version 2")
	if s := h.subnet(); s != was {
		t.Errorf("the subnet was %s and is %s", was, s)
	}
}

// It reaches etcd as the daemon does, and tells no secrets.
func TestMigrationWithTLSAndPassword(t *testing.T) {
	t.Parallel()
	n, ca := tlsNetwork(t, hostGW, true, validServer)
	h := n.addNode(lab.HostOptions{})
	good := must(ca.Client("good", lab.Valid))(t)
	const password = "open-sesame-4711"
	check(t, n.etcd.EnableAuth(n.ctx, "root-password-1234"))
	check(t, n.etcd.AddUser(n.ctx, "flannel", password, keyPrefix+"/*"))
	args := []string{"-etcd-migrate", "-v=10", "-etcd-cafile=" + ca.Cert, "-etcd-certfile=" + good.Cert, "-etcd-keyfile=" + good.Key, "-etcd-username=flannel"}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-etcd-migrate"}, 1, "certificate signed by unknown authority"},
		{append(args, "-etcd-password=guess-0815"), 1, "wrong -etcd-username or -etcd-password"},
		{append(args, "-etcd-password="+password), 0, "copied the network's configuration"},
	} {
		code, out := h.act(c.args...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%q: status %d, %s", c.args, code, out)
		}
		if strings.Contains(out, password) || strings.Contains(out, "guess-0815") {
			t.Errorf("a password is in %s", out)
		}
	}
}

// act runs the daemon's binary to do something else than the daemon's work.
func (h *node) act(args ...string) (code int, out string) {
	h.n.t.Helper()
	argv := []string{cmp.Or(h.binary, daemonBinary), "-subnet-file=" + filepath.Join(h.Dir, "subnet.env"), "-state-dir=" + filepath.Dir(h.stateFile())}
	if h.n.etcd != nil {
		argv = append(argv, "-etcd-endpoints="+h.n.etcd.Endpoint())
	}
	p, err := h.Start("flanneld", slices.Concat(argv, h.args, args), h.env, lab.ProcessOptions{})
	check(h.n.t, err)
	code, err = p.Wait(h.n.ctx)
	check(h.n.t, err)
	return code, p.Log()
}
