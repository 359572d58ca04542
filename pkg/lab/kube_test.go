package lab_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"flanneld/pkg/lab"
)

// newKube starts a Kubernetes API on a host of a lab.
func newKube(t *testing.T, opts lab.KubeOptions) (context.Context, *lab.Kube) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	l := newLab(t)
	sw := must(l.AddSwitch("lan", lan4, lan6))(t)
	h1 := must(l.AddHost("h1", sw, lab.HostOptions{}))(t)
	begin := time.Now()
	k := must(l.StartKube(ctx, h1, opts))(t)
	t.Logf("the API was ready after %s", time.Since(begin))
	return ctx, k
}

func TestKube(t *testing.T) {
	t.Parallel()
	ctx, k := newKube(t, lab.KubeOptions{})
	version := string(must(k.REST.Get().AbsPath("/version").DoRaw(ctx))(t))
	if !strings.Contains(version, `"gitVersion": "v1.34.`) {
		t.Errorf("it is another version: %s", version)
	}
	must(k.CreateNode(ctx, "a"))(t)
	check(t, k.SetPodCIDRs(ctx, "a", "10.5.1.0/24"))
	check(t, k.Annotate(ctx, "a", map[string]any{"x": "1", "y": "2"}))
	check(t, k.Annotate(ctx, "a", map[string]any{"x": nil}))
	check(t, k.PatchNodeStatus(ctx, "a", map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{
		{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue},
	}}}))
	check(t, k.Heartbeat(ctx, "a"))
	n := must(k.Node(ctx, "a"))(t)
	if n.Spec.PodCIDR != "10.5.1.0/24" || fmt.Sprint(n.Annotations) != "map[y:2]" || len(n.Status.Conditions) != 2 {
		t.Errorf("the Node is %v", n)
	}

	// Killed, it has what it had.
	check(t, k.Restart(ctx))
	if again := must(k.Node(ctx, "a"))(t); again.UID != n.UID || again.ResourceVersion != n.ResourceVersion {
		t.Errorf("after a restart the Node is %v", again)
	}
	check(t, k.DeleteNode(ctx, "a"))
	if _, err := k.Node(ctx, "a"); !apierrors.IsNotFound(err) {
		t.Errorf("reading a deleted Node: %v", err)
	}
}

// What a daemon may do is what it needs, and nothing else.
func TestKubeRoles(t *testing.T) {
	t.Parallel()
	ctx, k := newKube(t, lab.KubeOptions{})
	must(k.CreateNode(ctx, "a", "10.5.1.0/24"))(t)
	bearer := "Bearer " + must(k.FlannelToken(ctx))(t)
	patch := []byte(`{"metadata": {"annotations": {"x": "1"}}}`)
	nodes := func() map[string]error {
		return map[string]error{
			"list":         k.REST.Get().Resource("nodes").SetHeader("Authorization", bearer).Do(ctx).Error(),
			"get":          k.REST.Get().Resource("nodes").Name("a").SetHeader("Authorization", bearer).Do(ctx).Error(),
			"patch status": k.REST.Patch(types.StrategicMergePatchType).Resource("nodes").Name("a").SubResource("status").Body(patch).SetHeader("Authorization", bearer).Do(ctx).Error(),
			"patch":        k.REST.Patch(types.StrategicMergePatchType).Resource("nodes").Name("a").Body(patch).SetHeader("Authorization", bearer).Do(ctx).Error(),
			"delete":       k.REST.Delete().Resource("nodes").Name("a").SetHeader("Authorization", bearer).Do(ctx).Error(),
			"get secrets":  k.REST.Get().Resource("secrets").SetHeader("Authorization", bearer).Do(ctx).Error(),
		}
	}
	for what, err := range nodes() {
		if allowed := what == "list" || what == "patch status"; allowed && err != nil || !allowed && !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	check(t, k.DryApply(ctx, lab.FlannelRBAC))
	if err := k.DryApply(ctx, []byte("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  nonsense: 1\n")); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("applying nonsense: %v", err)
	}
	check(t, k.Remove(ctx, lab.FlannelRBAC))
}

// Nodes get their subnets from Kubernetes, of each family that its network has.
func TestKubeControllerManager(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]struct {
		server  netip.Addr
		network string
		bits    []int
	}{
		"IPv4":              {network: "10.5.0.0/16", bits: []int{24}},
		"both, API by IPv6": {netip.MustParseAddr("fd00:50::2"), "10.5.0.0/16,fd00:5::/48", []int{24, 64}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, k := newKube(t, lab.KubeOptions{Addr: v.server})
			must(k.CreateNode(ctx, "a"))(t)
			must(k.StartControllerManager(v.network))(t)
			must(k.CreateNode(ctx, "b"))(t)
			for _, name := range []string{"a", "b"} {
				var has []string
				for ; len(has) == 0; time.Sleep(20 * time.Millisecond) {
					has = must(k.Node(ctx, name))(t).Spec.PodCIDRs
				}
				var bits []int
				for i, s := range has {
					p := netip.MustParsePrefix(s)
					if bits = append(bits, p.Bits()); !netip.MustParsePrefix(strings.Split(v.network, ",")[i]).Contains(p.Addr()) {
						t.Errorf("%s has %s", name, has)
					}
				}
				if !slices.Equal(bits, v.bits) {
					t.Errorf("%s has %s", name, has)
				}
			}
		})
	}
}

func TestConfigMapDir(t *testing.T) {
	t.Parallel()
	m := must(lab.NewConfigMapDir(filepath.Join(t.TempDir(), "cfg"), map[string]string{"a": "1", "b": "1"}))(t)
	want := func(name, text string) {
		t.Helper()
		got, err := os.ReadFile(filepath.Join(m.Dir, name))
		if string(got) != text || (err != nil) != (text == "") {
			t.Errorf("%s is %q, %v; want %q", name, got, err, text)
		}
	}
	want("a", "1")
	want("b", "1")
	check(t, m.Set(map[string]string{"a": "2", "c": "2"}))
	want("a", "2")
	want("b", "")
	want("c", "2")
	if entries := must(os.ReadDir(m.Dir))(t); len(entries) != 4 { // a, c, ..data and its folder
		t.Errorf("there is %v", entries)
	}
}
