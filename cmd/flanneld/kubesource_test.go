package main

import (
	"net/netip"
	"strings"
	"testing"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// Kubernetes is asked for by an option, and what a manifest puts into the environment is
// taken from there.
func TestParseKubernetes(t *testing.T) {
	parsed := func(args, environ []string) (*options, string) {
		t.Helper()
		var out strings.Builder
		o, err := parse(append([]string{"/opt/bin/flanneld"}, args...), environ, &out)
		if (err == nil) != (o != nil) {
			t.Errorf("%q: %v, %v", args, o, err)
		}
		return o, out.String()
	}
	o, said := parsed([]string{"--kube-subnet-mgr", "--ip-masq", "--kube-api-url=https://192.0.2.1:6443", "--set-node-network-unavailable=false"},
		[]string{"NODE_NAME=n1", "POD_NAME=p", "POD_NAMESPACE=ns", "EVENT_QUEUE_DEPTH=5000", "CONT_WHEN_CACHE_NOT_READY=true"})
	switch {
	case o == nil || o.kube == nil:
		t.Fatalf("it is refused: %s", said)
	case o.kube.NodeName != "n1" || o.kube.pod != "p" || o.kube.namespace != "ns" || o.kube.setAvailable ||
		o.kube.AnnotationPrefix != "flannel.alpha.coreos.com" || o.kube.NetConfigPath != "/etc/kube-flannel/net-conf.json" || len(o.unknown) > 0:
		t.Errorf("%+v, unknown %q", o.kube, o.unknown)
	case o.usedAPIFile() != "":
		t.Errorf("%s is etcd's, and would be removed", o.usedAPIFile())
	}
	if o, said := parsed(nil, []string{"NODE_NAME=n1"}); o == nil || o.kube != nil {
		t.Errorf("nobody asked for Kubernetes: %v %s", o, said)
	}
	for _, c := range []struct{ args, want string }{
		{"-kube-subnet-mgr", "-kubeconfig-file"},
		{"-kube-subnet-mgr -kube-api-url=https://", `-kube-api-url "https://"`},
		{"-kube-subnet-mgr -kube-api-url=https://192.0.2.1 -kube-annotation-prefix=a/b/c", "a/b/c"},
		{"-kube-subnet-mgr -kube-api-url=https://192.0.2.1 -release", "-release"},
		{"-kube-subnet-mgr -kube-api-url=https://192.0.2.1 -etcd-migrate", "-etcd-migrate"},
	} {
		if o, said := parsed(strings.Fields(c.args), nil); o != nil || !strings.Contains(said, c.want) {
			t.Errorf("%s: %q, want %q", c.args, said, c.want)
		}
	}
}

// Where an API has no CA of its own, its URL is what tells the cluster from others.
func TestSavedOfClusterWithoutCA(t *testing.T) {
	o := &options{stateDir: t.TempDir(), kube: &kubernetes{}}
	o.kube.NodeName, o.kube.AnnotationPrefix, o.kube.APIURL = "n1", "flannel.alpha.coreos.com", "http://192.0.2.1:8080"
	config, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16"}`))
	must(t, err)
	own := &subnet.Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.1.0/24")), Attrs: subnet.Attrs{PublicIP: ip.Addrs{V4: netip.MustParseAddr("192.0.2.9")}}}
	save := func() {
		t.Helper()
		of := &subnet.Assignment{Host: "n1", Subnet: own.Subnet, Cluster: o.kube.Cluster()}
		must(t, subnet.Holding{Config: config, Own: own, Snapshot: subnet.Snapshot{Own: of}}.Save(o.savedFile(), o.savedStore()))
	}
	save()
	if _, err := o.saved(); err != nil {
		t.Errorf("what was saved: %v", err)
	}
	o.kube.APIURL = "http://192.0.2.2:8080"
	if _, err := o.saved(); err == nil || !strings.Contains(err.Error(), o.savedFile()) || !strings.Contains(err.Error(), "its URL") {
		t.Errorf("what was saved by another URL: %v", err)
	}
	save() // once a daemon has reached it
	if _, err := o.saved(); err != nil {
		t.Errorf("what was saved by the URL of now: %v", err)
	}
}

// What the Node says of this host counts, in whichever address families that is; what was saved counts
// if it says nothing.
func TestLastLease(t *testing.T) {
	saved := subnet.Attrs{BackendType: "vxlan", BackendData: `{"VNI":1}`}
	d := &daemon{saved: func() (subnet.Saved, error) {
		return subnet.Saved{Holding: subnet.Holding{Own: &subnet.Lease{Attrs: saved}}}, nil
	}}
	for _, published := range []subnet.Attrs{
		{BackendType: "vxlan", BackendData: `{"VNI":2}`},
		{BackendType: "vxlan", BackendV6Data: `{"VNI":2}`},
		{BackendType: "vxlan", BackendData: `{"VNI":2}`, BackendV6Data: `{"VNI":2}`},
	} {
		if was := d.lastLease(&subnet.Assignment{Published: published}); was != published {
			t.Errorf("the Node says %+v, and the last lease is %+v", published, was)
		}
	}
	if was := d.lastLease(&subnet.Assignment{}); was != saved {
		t.Errorf("the Node says nothing, and the last lease is %+v", was)
	}
}
