package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
	"flanneld/subnet"
)

const prefix = "flannel.alpha.coreos.com/"

var theNames = func() names {
	n, err := newNames("flannel.alpha.coreos.com")
	if err != nil {
		panic(err)
	}
	return n
}()

// peerNode is a Node such as flannel's daemon leaves it.
func peerNode(name, cidr, public, data string) node {
	n := node{name: name, uid: "u-" + name, created: 100, revision: 5, podCIDR: cidr, podCIDRs: cidr}
	for k, text := range map[key]string{managed: "true", backendType: "vxlan", backendData: data, publicIP: public} {
		n.notes[k] = note{text, true}
	}
	return n
}

// big is a Node of the size that Nodes have, with all that is skipped.
func big(name string) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID("0f8fad5b-d9cb-469f-a165-70867728950e"), ResourceVersion: "4711", Generation: 3,
			CreationTimestamp: metav1.Unix(1700000000, 0),
			Labels:            map[string]string{"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "a"},
			Annotations: map[string]string{
				prefix + "kube-subnet-manager": "true", prefix + "backend-type": "vxlan", prefix + "public-ip": "192.0.2.1",
				prefix + "backend-data":                    `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`,
				"node.alpha.kubernetes.io/ttl":             "0",
				"volumes.kubernetes.io/controller-managed": "true",
			},
		},
		Spec:   corev1.NodeSpec{PodCIDR: "10.244.1.0/24", PodCIDRs: []string{"10.244.1.0/24", "fd00:1::/64"}, ProviderID: "x://y", Unschedulable: true},
		Status: lab.KubeletStatus(),
	}
	for m := range 3 {
		n.ManagedFields = append(n.ManagedFields, metav1.ManagedFieldsEntry{Manager: fmt.Sprint("m", m), FieldsV1: &metav1.FieldsV1{Raw: []byte(strings.Repeat("x", 300))}})
	}
	return n
}

// wire is an object as the API sends it.
func wire(t testing.TB, kind string, o interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: kind}, Raw: raw}
	b, err := u.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(envelope), b...)
}

func TestReadNode(t *testing.T) {
	kind, raw, err := object(wire(t, "Node", big("w1")))
	if err != nil || kind != "Node" {
		t.Fatal(kind, err)
	}
	got, err := theNames.node(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := peerNode("w1", "10.244.1.0/24", "192.0.2.1", `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`)
	want.uid, want.created, want.revision, want.podCIDRs = "0f8fad5b-d9cb-469f-a165-70867728950e", 1700000000, 4711, "10.244.1.0/24,fd00:1::/64"
	if got != want {
		t.Errorf("read %+v, want %+v", got, want)
	}
}

func TestReadPage(t *testing.T) {
	list := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: "5000", Continue: "more"}, Items: []corev1.Node{*big("a"), *big("b")}}
	_, raw, err := object(wire(t, "NodeList", list))
	if err != nil {
		t.Fatal(err)
	}
	p, err := theNames.page(raw)
	if err != nil || p.revision != 5000 || p.next != "more" || len(p.nodes) != 2 || p.nodes[1].name != "b" {
		t.Errorf("read %+v, %v", p, err)
	}
}

func TestReadCutShort(t *testing.T) {
	whole := wire(t, "Node", big("w1"))
	for n := range whole {
		if _, raw, err := object(whole[:n]); err == nil {
			_, _ = theNames.node(raw)
		}
	}
	if _, _, err := object([]byte(`{"kind":"Node"}`)); err == nil {
		t.Error("JSON is taken for protocol buffers")
	}
}

// What is read must not depend on the buffer, which is used again.
func TestReadKeepsNothing(t *testing.T) {
	b := wire(t, "Node", big("w1"))
	_, raw, _ := object(b)
	got, err := theNames.node(raw)
	if err != nil {
		t.Fatal(err)
	}
	before := fmt.Sprint(got)
	for i := range b {
		b[i] = 'x'
	}
	if now := fmt.Sprint(got); now != before {
		t.Errorf("it was %s, and is %s", before, now)
	}
}

func TestSubnet(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:1::/64")
	for _, c := range []struct {
		cidr, cidrs string
		want        ip.Subnet
		fails       bool
	}{
		{"", "", ip.Subnet{}, false},
		{"10.244.1.0/24", "", ip.Subnet{V4: v4}, false},
		{"10.244.1.0/24", "10.244.1.0/24", ip.Subnet{V4: v4}, false},
		{"10.244.1.0/24", "10.244.1.0/24,fd00:1::/64", ip.Subnet{V4: v4, V6: v6}, false},
		{"fd00:1::/64", "fd00:1::/64,10.244.1.0/24", ip.Subnet{V4: v4, V6: v6}, false},
		{"fd00:1::/64", "", ip.Subnet{V6: v6}, false},
		{"10.244.1.7/24", "", ip.Subnet{V4: v4}, false},
		{"x", "", ip.Subnet{}, true},
		{"10.244.1.0", "", ip.Subnet{}, true},
		{"::ffff:10.244.1.0/120", "", ip.Subnet{}, true},
		{"", "10.244.1.0/24,10.244.2.0/24", ip.Subnet{}, true},
		{"", "10.244.1.0/24,fd00:1::/64,fd00:2::/64", ip.Subnet{}, true},
	} {
		n := node{podCIDR: c.cidr, podCIDRs: c.cidrs}
		got, err := n.subnet()
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%q %q: %v, %v", c.cidr, c.cidrs, got, err)
		}
	}
}

func TestAttrs(t *testing.T) {
	s := ip.SubnetOf(netip.MustParsePrefix("10.244.1.0/24"))
	public := ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}
	vxlan := `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`
	for name, c := range map[string]struct {
		change func(*notes)
		want   subnet.Attrs
		fails  string
	}{
		"flannel 0.28":         {func(*notes) {}, subnet.Attrs{PublicIP: public, BackendType: "vxlan", BackendData: vxlan, Machine: "w1"}, ""},
		"flannel 0.11":         {func(n *notes) { n[backendData].text = `{"VtepMAC":"02:00:00:00:00:01"}` }, subnet.Attrs{PublicIP: public, BackendType: "vxlan", BackendData: `{"VtepMAC":"02:00:00:00:00:01"}`, Machine: "w1"}, ""},
		"spaces":               {func(n *notes) { n[backendData].text = `{ "VNI": 1, "VtepMAC": "02:00:00:00:00:01" }` }, subnet.Attrs{PublicIP: public, BackendType: "vxlan", BackendData: vxlan, Machine: "w1"}, ""},
		"host-gw":              {func(n *notes) { n[backendType].text, n[backendData].text = "host-gw", "null" }, subnet.Attrs{PublicIP: public, BackendType: "host-gw", Machine: "w1"}, ""},
		"udp":                  {func(n *notes) { n[backendType].text, n[backendData].text = "", "null" }, subnet.Attrs{PublicIP: public, Machine: "w1"}, ""},
		"extension":            {func(n *notes) { n[backendType].text, n[backendData].text = "extension", "" }, subnet.Attrs{PublicIP: public, BackendType: "extension", Machine: "w1"}, ""},
		"garbage of IPv6":      {func(n *notes) { n[publicIPv6], n[backendV6Data] = note{"x", true}, note{"{", true} }, subnet.Attrs{PublicIP: public, BackendType: "vxlan", BackendData: vxlan, Machine: "w1"}, ""},
		"no address":           {func(n *notes) { n[publicIP] = note{} }, subnet.Attrs{}, "its annotation " + prefix + "public-ip is missing"},
		"IPv6 text":            {func(n *notes) { n[publicIP].text = "2001:db8::1" }, subnet.Attrs{}, `public-ip is "2001:db8::1", and not an address of the right family`},
		"mapped":               {func(n *notes) { n[publicIP].text = "::ffff:192.0.2.1" }, subnet.Attrs{}, "not an address of the right family"},
		"no host's":            {func(n *notes) { n[publicIP].text = "0.0.0.0" }, subnet.Attrs{}, "not the address of a host"},
		"no address at all":    {func(n *notes) { n[publicIP].text = "my host\n" }, subnet.Attrs{}, `public-ip is "my host\n", and not an address`},
		"data that is no JSON": {func(n *notes) { n[backendData].text = `{"VNI":` }, subnet.Attrs{}, "backend-data is"},
	} {
		n := peerNode("w1", "10.244.1.0/24", "192.0.2.1", vxlan)
		c.change(&n.notes)
		got, _, err := n.attrs(&theNames, s)
		switch {
		case c.fails == "" && (err != nil || got != c.want):
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
			t.Errorf("%s: %v, want %q", name, err, c.fails)
		}
	}
}

// What is written is what flannel 0.28 writes.
func TestAnnotations(t *testing.T) {
	s := ip.SubnetOf(netip.MustParsePrefix("10.244.1.0/24"))
	public := ip.Addrs{V4: netip.MustParseAddr("192.0.2.1")}
	for want, a := range map[string]subnet.Attrs{
		`backend-data={"VNI":1,"VtepMAC":"02:00:00:00:00:01"} backend-type=vxlan kube-subnet-manager=true public-ip=192.0.2.1`: {PublicIP: public, BackendType: "vxlan", BackendData: `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`, Machine: "w1"},
		`backend-data=null backend-type=host-gw kube-subnet-manager=true public-ip=192.0.2.1`:                                  {PublicIP: public, BackendType: "host-gw"},
		`backend-data=null backend-type= kube-subnet-manager=true public-ip=192.0.2.1`:                                         {PublicIP: public},
	} {
		var all []string
		for k, text := range annotations(s, a) {
			all = append(all, keyNames[k]+"="+text)
		}
		slices.Sort(all)
		if got := strings.Join(all, " "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// In both families, and in IPv6 alone.
func TestAnnotationsOfBoth(t *testing.T) {
	s := ip.Subnet{V4: netip.MustParsePrefix("10.244.1.0/24"), V6: netip.MustParsePrefix("fd00:1::/64")}
	a := subnet.Attrs{
		PublicIP: ip.Addrs{V4: netip.MustParseAddr("192.0.2.1"), V6: netip.MustParseAddr("2001:db8::1")}, BackendType: "vxlan",
		BackendData: `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`, BackendV6Data: `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`,
	}
	v6 := `backend-type=vxlan backend-v6-data={"VNI":1,"VtepMAC":"02:00:00:00:00:02"} kube-subnet-manager=true`
	for want, s := range map[string]ip.Subnet{
		`backend-data={"VNI":1,"VtepMAC":"02:00:00:00:00:01"} ` + v6 + ` public-ip=192.0.2.1 public-ipv6=2001:db8::1`: s,
		v6 + ` public-ipv6=2001:db8::1`: {V6: s.V6},
	} {
		var all []string
		for k, text := range annotations(s, a) {
			all = append(all, keyNames[k]+"="+text)
		}
		slices.Sort(all)
		if got := strings.Join(all, " "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// BenchmarkHeartbeat is what a Node's heartbeat costs once it has arrived.
func BenchmarkHeartbeat(b *testing.B) {
	raw := wire(b, "Node", big("w1"))
	b.ReportMetric(float64(len(raw)), "bytes")
	s := &Store{names: theNames}
	v := newView(&theNames, "w0")
	frame := event1(b, "MODIFIED", raw)
	if _, err := s.take(v, frame); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if changed, err := s.take(v, frame); changed || err != nil {
			b.Fatal(changed, err)
		}
	}
}

func event1(t testing.TB, kind string, raw []byte) []byte {
	t.Helper()
	e := metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: raw}}
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
