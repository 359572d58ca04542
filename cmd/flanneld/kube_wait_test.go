package main_test

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	daemon "flanneld/cmd/flanneld"
	"flanneld/pkg/lab"
)

// afterCure is how soon a daemon goes on once what it waits for is there.
var afterCure = slow(2 * time.Second)

// Whatever is missing, a daemon waits for it, says in a line what that is and what to do,
// is alive and not ready, and goes on as soon as it is there.
func TestKubeWaits(t *testing.T) {
	t.Parallel()
	n := newKube(t, kubeVXLAN, nil)
	type cause struct {
		// prepare is what is done to a host before its daemon is started. It has no Node
		// but one that is made here.
		prepare func(h *node)
		says    []string // in one line
		cure    func(h *node)
		within  time.Duration // afterCure, if it is 0
	}
	type waiting struct {
		what string
		*node
		cause
	}
	var waits []waiting
	causes := map[string]cause{
		"no Node": {
			prepare: func(*node) {},
			says:    []string{"Node ", "NODE_NAME"},
			cure:    func(h *node) { h.createNode(h.podCIDR()) },
		},
		"no podCIDR": {
			prepare: func(h *node) { h.createNode() },
			says:    []string{"podCIDR", "--allocate-node-cidrs", "--cluster-cidr"},
			cure:    func(h *node) { check(t, n.kube.SetPodCIDRs(n.ctx, h.Name, h.podCIDR())) },
		},
		"podCIDR outside Network": {
			prepare: func(h *node) { h.createNode("10.99.0.0/24") },
			says:    []string{"10.99.0.0/24", "10.5.0.0/16"},
			cure: func(h *node) {
				check(t, n.kube.DeleteNode(n.ctx, h.Name))
				h.createNode(h.podCIDR())
			},
		},
		"podCIDR that overlaps another": {
			prepare: func(h *node) {
				n.putKubePeer(stranger("10.5.128.0/24", "192.168.0.200"), nil)
				h.createNode("10.5.128.0/23")
			},
			says: []string{"10.5.128.0/23", "overlaps 10.5.128.0/24", "the Node stranger-"},
			cure: func(h *node) {
				check(t, n.kube.DeleteNode(n.ctx, h.Name))
				h.createNode(h.podCIDR())
			},
		},
		"no net-conf.json": {
			prepare: func(h *node) {
				h.createNode(h.podCIDR())
				h.args = append(h.args, "-net-config-path="+filepath.Join(h.Dir, netConf))
			},
			says: []string{netConf},
			cure: func(h *node) {
				check(t, os.WriteFile(filepath.Join(h.Dir, netConf), []byte(n.config(nil)), 0o600))
			},
		},
		"a bad net-conf.json": {
			prepare: func(h *node) {
				h.createNode(h.podCIDR())
				file := filepath.Join(h.Dir, netConf)
				check(t, os.WriteFile(file, []byte("{"), 0o600))
				h.args = append(h.args, "-net-config-path="+file)
			},
			says: []string{netConf, "JSON"},
			cure: func(h *node) {
				check(t, os.WriteFile(filepath.Join(h.Dir, netConf), []byte(n.config(nil)), 0o600))
			},
		},
		"a FIFO as net-conf.json": {
			prepare: func(h *node) {
				h.createNode(h.podCIDR())
				file := filepath.Join(h.Dir, netConf)
				check(t, unix.Mkfifo(file, 0o600))
				h.args = append(h.args, "-net-config-path="+file)
			},
			says: []string{netConf, "is not a regular file"},
			cure: func(h *node) {
				check(t, os.Remove(filepath.Join(h.Dir, netConf)))
				check(t, os.WriteFile(filepath.Join(h.Dir, netConf), []byte(n.config(nil)), 0o600))
			},
		},
		"no kubeconfig": {
			prepare: func(h *node) {
				h.createNode(h.podCIDR())
				h.args = append(h.args, "-kubeconfig-file="+filepath.Join(h.Dir, "kubeconfig"))
			},
			says: []string{"kubeconfig", "no such file"},
			cure: func(h *node) {
				check(t, os.WriteFile(filepath.Join(h.Dir, "kubeconfig"), []byte(readFile(t, n.kube.kubeconfig)), 0o600))
			},
			within: slow(10 * time.Second), // it is tried ever more rarely
		},
		"an API that refuses connections": {
			prepare: func(h *node) {
				h.createNode(h.podCIDR())
				h.useAPI("https://" + n.server.Addr.String() + ":2001")
			},
			says: []string{n.server.Addr.String() + ":2001", "connection refused"},
			cure: func(*node) {
				n.startProxyTo(n.server, 2001, 6443)
			},
			within: slow(10 * time.Second),
		},
	}
	folder := t.TempDir()
	if answer, err := daemon.Hang(t, folder); err == nil {
		causes["a file system that gives no answer, with net-conf.json"] = cause{
			prepare: func(h *node) {
				h.createNode(h.podCIDR())
				file := filepath.Join(h.Dir, netConf)
				check(t, os.Symlink(filepath.Join(folder, netConf), file))
				h.args = append(h.args, "-net-config-path="+file)
			},
			says: []string{netConf, "no answer from its file system"},
			cure: func(h *node) {
				answer()
				check(t, os.Remove(filepath.Join(h.Dir, netConf)))
				check(t, os.WriteFile(filepath.Join(h.Dir, netConf), []byte(n.config(nil)), 0o600))
			},
		}
	}
	for name, c := range causes {
		h := n.addKubeNode(healthPort)
		waits = append(waits, waiting{name, h, c})
		c.prepare(h)
		h.start()
	}
	for _, w := range waits {
		w.waitLine(w.says...)
	}
	n.pause(time.Second)
	for _, w := range waits {
		t.Log(w.what)
		w.notReady()
		if w.logged(w.says...) != 1 {
			t.Errorf("it is said %d times:\n%s", w.logged(w.says...), w.daemon.Log())
		}
		if got := w.health("readyz"); !strings.Contains(got, w.says[0]) {
			t.Errorf("/readyz says %s", got)
		}
		if o, err := n.kube.Node(n.ctx, w.Name); err == nil && (len(o.Annotations) > 0 || len(o.Status.Conditions) > 0) {
			t.Errorf("it has published %v and %v", o.Annotations, o.Status.Conditions)
		}
		begin := time.Now()
		w.cure(w.node)
		w.waitReady()
		took := time.Since(begin)
		t.Logf("ready %s after the cure", took)
		if took > cmp.Or(w.within, afterCure) {
			t.Errorf("it took %s", took)
		}
		w.waitHealth("readyz", "200 ok")
		if w.subnet().String() != w.podCIDR() {
			t.Errorf("its subnet is %s", w.subnet())
		}
		w.waitAnnotations(soon, nil)
	}
}

// useAPI has the host's daemons reach the API by another URL.
func (h *node) useAPI(url string) {
	t := h.n.t
	t.Helper()
	file := filepath.Join(h.Dir, "kubeconfig")
	token, err := h.n.kube.FlannelToken(h.n.ctx)
	check(t, err)
	check(t, h.n.kube.WriteKubeconfigFor(file, url, token))
	h.args = append(h.args, "-kubeconfig-file="+file)
}

// Permissions that are missing are named; once they are there, the daemon goes on. What is
// only of use if it is there is not missed.
func TestKubeRoles(t *testing.T) {
	t.Parallel()
	n := newKube(t, kubeVXLAN, nil)
	h := n.addKubeNode(healthPort)
	h.createNode() // that it has no subnet yet hides nothing
	check(t, n.kube.Remove(n.ctx, []byte("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: flannel\n")))
	grant := func(nodes, status string) {
		t.Helper()
		role := "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: flannel\nrules:\n"
		if nodes != "" {
			role += "- {apiGroups: [\"\"], resources: [nodes], verbs: [" + nodes + "]}\n"
		}
		if status != "" {
			role += "- {apiGroups: [\"\"], resources: [nodes/status], verbs: [" + status + "]}\n"
		}
		check(t, n.kube.Apply(n.ctx, []byte(role+"- {apiGroups: [\"\"], resources: [events], verbs: [get]}\n")))
	}
	h.start()
	h.waitLine("asked to list nodes", "ClusterRole")
	h.notReady()
	grant("list", "")
	h.waitLine("asked to watch nodes", "ClusterRole")
	h.notReady()
	check(t, n.kube.SetPodCIDRs(n.ctx, h.Name, h.podCIDR()))
	grant("list, watch", "")
	h.waitLine("asked to patch nodes/status", "ClusterRole")
	h.notReady()
	begin := time.Now()
	grant("list, watch", "patch") // and not get
	check(t, h.daemon.WaitReady(n.ctx))
	t.Logf("ready %s after all was granted", time.Since(begin))
	h.waitAnnotations(soon, nil)
	if h.daemon.ExitCode() != -1 {
		t.Errorf("it has ended")
	}

	t.Log("without the right to get Nodes, the device has the MAC that it had")
	mac := h.mac()
	h.daemon.Kill()
	check(t, h.DelLink(vtep))
	check(t, os.Remove(h.daemon.SubnetFile))
	h.start()
	h.waitReady()
	if now := h.mac(); now.String() != mac.String() {
		t.Errorf("the MAC is %s, was %s", now, mac)
	}
}

// What was saved of one cluster is not for another one, which a host with the same name was moved
// to, whether its daemon was stopped before that or not. A CA that is about to follow another is of the same cluster; and so is what was saved before
// it was known of which cluster that was.
func TestKubeSavedOfAnotherCluster(t *testing.T) {
	t.Parallel()
	n := newKubeNetwork(t, 1, kubeVXLAN, nil, healthPort)
	h := n.nodes[0]
	ours, kubeconfig := n.kube.CA.Cert, filepath.Join(h.Dir, "kubeconfig")
	h.args = append(h.args, "-kubeconfig-file="+kubeconfig)
	token := must(n.kube.FlannelToken(n.ctx))(t)
	trust := func(ca string) {
		t.Helper()
		text := readFile(t, n.kube.kubeconfig)
		check(t, os.WriteFile(kubeconfig, []byte(strings.ReplaceAll(text, ours, ca)), 0o600))
	}
	check(t, n.kube.WriteKubeconfigFor(n.kube.kubeconfig, n.kube.URL(), token))
	h.daemon.Kill()
	trust(ours)
	h.start()
	h.waitReady()
	other := must(lab.NewCA(t.TempDir(), "other"))(t).Cert
	both := filepath.Join(t.TempDir(), "both.pem")
	check(t, os.WriteFile(both, []byte(readFile(t, other)+readFile(t, ours)), 0o600))

	t.Log("another cluster")
	trust(other)
	late := stranger("10.5.200.0/24", "192.168.0.200")
	n.putKubePeer(late, nil)
	h.waitKubeSaved(late.public.String())
	n.kube.Kill()
	h.daemon.Kill()
	check(t, os.Remove(h.daemon.SubnetFile))
	h.start()
	h.waitLine("nothing to start with", h.kubeStateFile(), "another Kubernetes cluster")
	h.notReady()

	t.Log("the same, with a CA that is about to follow")
	h.daemon.Kill()
	trust(both)
	h.start()
	h.waitReady()

	t.Log("what was saved by a daemon that did not say of which cluster")
	h.daemon.Kill()
	state := readFile(t, h.kubeStateFile())
	older := regexp.MustCompile(`,"Cluster":"[^"]*"`).ReplaceAllString(state, "")
	if older == state {
		t.Fatalf("what is saved names no cluster: %s", state)
	}
	check(t, os.WriteFile(h.kubeStateFile(), []byte(older), 0o644))
	trust(other)
	h.start()
	h.waitReady()
}

// The API cannot be reached at the start: a host that has been one of the network goes by
// what it saved, keeps its pods connected, and is up to date as soon as the API is there.
func TestKubeStartWithoutAPI(t *testing.T) {
	t.Parallel()
	for _, v := range []variant{kubeVXLAN, kubeHostGW} {
		t.Run(v.name(), func(t *testing.T) {
			t.Parallel()
			testKubeStartWithoutAPI(t, v)
		})
	}
}

func testKubeStartWithoutAPI(t *testing.T, v variant) {
	n := newKubeNetwork(t, 2, v, nil, healthPort)
	h, other := n.nodes[0], n.nodes[1]
	env := h.daemon.EnvText()
	h.waitKubeSaved(other.subnet().Addr().String())
	n.witnessAll(func() {
		n.kube.Kill()
		h.daemon.Kill()
		check(t, os.Remove(h.daemon.SubnetFile))
		h.start()
		h.waitReady()
		h.waitPeers(0, other.peer())
		if got := h.daemon.EnvText(); got != env {
			t.Errorf("subnet.env is %q, was %q", got, env)
		}
		h.isLive()
		n.pause(slow(5 * time.Second))
		check(t, n.kube.Start(n.ctx))
		begin := time.Now()
		late := stranger("10.5.200.0/24", "192.168.0.200")
		n.putKubePeer(late, nil)
		h.waitPeers(slow(5*time.Second), other.peer(), late)
		t.Logf("up to date %s after the API was there", time.Since(begin))
		h.waitAnnotations(soon, nil)
	})

	t.Log("another subnet, which it had before, is not used")
	h.daemon.Kill()
	check(t, n.kube.DeleteNode(n.ctx, h.Name))
	h.createNode("10.5.150.0/24")
	h.start()
	h.waitReady()
	n.wait(soon, "the new subnet", func() string { return lacks(h.daemon.EnvText(), "FLANNEL_SUBNET=10.5.150.1/24") })
	other.waitPeers(soon, append(other.others(), stranger("10.5.200.0/24", "192.168.0.200"))...)
}
