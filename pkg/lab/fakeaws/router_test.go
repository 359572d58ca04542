package fakeaws_test

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// vpcLab is a fixture whose instances are hosts of a lab.
type vpcLab struct {
	*fixture
	lab        *lab.Lab
	router     *fakeaws.Router
	hostA      *lab.Host
	hostB      *lab.Host
	podA, podB *lab.Pod // 10.1.5.2 and 10.1.6.2
}

const (
	subnetA = "10.1.5.0/24"
	subnetB = "10.1.6.0/24"
)

func newVPCLab(t *testing.T) *vpcLab {
	t.Helper()
	v := &vpcLab{fixture: newFixture(t, fakeaws.Options{}), lab: must(lab.New(lab.Options{}))(t)}
	t.Cleanup(func() { check(t, v.lab.Close()) })
	v.router = must(fakeaws.NewRouter(v.lab, v.Cloud))(t)
	t.Cleanup(func() { check(t, v.router.Close()) })
	v.hostA = must(v.router.AddHost("a", v.a))(t)
	v.hostB = must(v.router.AddHost("b", v.b))(t)
	v.podA, v.podB = addPod(t, v.hostA, subnetA), addPod(t, v.hostB, subnetB)
	return v
}

func addPod(t *testing.T, h *lab.Host, subnet string) *lab.Pod {
	t.Helper()
	p := netip.MustParsePrefix(subnet)
	return must(h.AddPod("pod", map[string]string{
		"FLANNEL_SUBNET": netip.PrefixFrom(p.Addr().Next(), p.Bits()).String(), "FLANNEL_MTU": "9001",
	}))(t)
}

// connect sets what lets the pods of a and b reach each other.
func (v *vpcLab) connect(t *testing.T) {
	t.Helper()
	v.a.Interface().SetSourceDestCheck(false)
	v.b.Interface().SetSourceDestCheck(false)
	check(t, v.table.CreateRoute(subnetA, v.a.Interface().ID))
	check(t, v.vpc.Main.CreateRoute(subnetB, v.b.Interface().ID))
	wantPing(t, v.podA.Namespace, v.podB.Addr)
	wantPing(t, v.podB.Namespace, v.podA.Addr)
}

func wantPing(t *testing.T, from *lab.Namespace, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := from.WaitPing(ctx, to); err != nil {
		t.Fatal(err)
	}
}

func wantNoPing(t *testing.T, from *lab.Namespace, to netip.Addr) {
	t.Helper()
	if rtt, err := from.Ping(t.Context(), to, 300*time.Millisecond); err == nil {
		t.Fatalf("%s reached %s in %s", from.Name, to, rtt)
	}
}

// The instances of a VPC reach each other whatever their tables say, and ones
// in a subnet do so without the router's address.
func TestLocalRoute(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	wantPing(t, v.hostA.Namespace, v.hostB.Addr)
	neighbour := must(v.RunInstance(v.first, fakeaws.InstanceOptions{}))(t)
	third := must(v.router.AddHost("c", neighbour))(t)
	wantPing(t, v.hostA.Namespace, third.Addr)
	wantPing(t, third.Namespace, v.hostB.Addr)
	wantNoPing(t, v.hostA.Namespace, netip.MustParseAddr("10.0.1.99"))
	elsewhere := must(must(v.AddVPC("10.9.0.0/16"))(t).AddSubnet("10.9.1.0/24", "a"))(t)
	stranger := must(v.router.AddHost("stranger", must(v.RunInstance(elsewhere, fakeaws.InstanceOptions{}))(t)))(t)
	wantNoPing(t, v.hostA.Namespace, stranger.Addr)
	neighbour.Stop()
	wantNoPing(t, v.hostA.Namespace, third.Addr)
	neighbour.Start()
	wantPing(t, v.hostA.Namespace, third.Addr)
	// A route to the whole subnet goes before the local one.
	check(t, v.table.CreateRoute("10.0.1.0/24", v.b.Interface().ID))
	wantNoPing(t, v.hostB.Namespace, v.hostA.Addr)
	check(t, v.table.DeleteRoute("10.0.1.0/24"))
	wantPing(t, v.hostB.Namespace, v.hostA.Addr)
}

func TestRoutedPods(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	a, b := v.a.Interface(), v.b.Interface()
	wantNoPing(t, v.podA.Namespace, v.podB.Addr)
	v.connect(t)
	for _, tt := range []struct {
		name     string
		do, undo func() error
	}{
		{
			"no route there", func() error { return v.vpc.Main.DeleteRoute(subnetB) },
			func() error { return v.vpc.Main.CreateRoute(subnetB, b.ID) },
		},
		{
			"no route back", func() error { return v.table.DeleteRoute(subnetA) },
			func() error { return v.table.CreateRoute(subnetA, a.ID) },
		},
		{
			"wrong route", func() error { return v.vpc.Main.ReplaceRoute(subnetB, a.ID) },
			func() error { return v.vpc.Main.ReplaceRoute(subnetB, b.ID) },
		},
		{
			"other table", func() error { return v.vpc.Main.Associate(v.second) },
			func() error { return v.table.Associate(v.second) },
		},
		{
			"sender checked", func() error { a.SetSourceDestCheck(true); return nil },
			func() error { a.SetSourceDestCheck(false); return nil },
		},
		{
			"receiver checked", func() error { b.SetSourceDestCheck(true); return nil },
			func() error { b.SetSourceDestCheck(false); return nil },
		},
	} {
		check(t, tt.do())
		if _, err := v.podA.Ping(t.Context(), v.podB.Addr, 300*time.Millisecond); err == nil {
			t.Errorf("%s: the pods reach each other", tt.name)
		}
		wantPing(t, v.hostA.Namespace, v.hostB.Addr)
		check(t, tt.undo())
		wantPing(t, v.podA.Namespace, v.podB.Addr)
	}
}

// The address of an instance that was replaced is the same, but routes lead to
// its interface, which is another one.
func TestReplacedInstance(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	v.connect(t)
	next := must(v.b.Replace())(t)
	wantNoPing(t, v.podA.Namespace, v.podB.Addr)
	v.hostB.Close()
	host := must(v.router.AddHost("b2", next))(t)
	pod := addPod(t, host, subnetB)
	wantPing(t, v.hostA.Namespace, host.Addr)
	wantNoPing(t, v.podA.Namespace, pod.Addr)
	check(t, v.vpc.Main.ReplaceRoute(subnetB, next.Interface().ID))
	wantNoPing(t, v.podA.Namespace, pod.Addr) // it is checked
	next.Interface().SetSourceDestCheck(false)
	wantPing(t, v.podA.Namespace, pod.Addr)
}

// Each host has its own metadata, also behind an interface that comes later, and
// all reach the API.
func TestServicesOfHosts(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	for _, h := range []struct {
		host *lab.Host
		want string
	}{{v.hostA, v.a.ID}, {v.hostB, v.b.ID}} {
		if id, err := instanceID(t, h.host.Namespace); err != nil || id != h.want {
			t.Errorf("%s is %q, %v", h.host.Name, id, err)
		}
		client := &http.Client{Transport: &http.Transport{DialContext: h.host.DialContext, DisableKeepAlives: true}}
		r := must(http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+fakeaws.EndpointAddr, nil))(t)
		answer, err := client.Do(r)
		check(t, err)
		check(t, answer.Body.Close())
		if answer.StatusCode != http.StatusBadRequest { // it is not signed
			t.Errorf("the API answers %s", answer.Status)
		}
	}
	second := must(v.a.Attach(v.second, netip.Addr{}))(t)
	if got := must(v.hostA.Addrs("eth1"))(t); len(got) != 1 || got[0] != netip.PrefixFrom(second.Addr, 24) {
		t.Errorf("eth1 has %s", got)
	}
	wantPing(t, v.hostB.Namespace, second.Addr)
	check(t, second.Detach())
	if _, err := v.hostA.Addrs("eth1"); err == nil {
		t.Error("eth1 is still there")
	}
}

// With a hop limit of 1 a token does not get beyond the host.
func TestHopLimit(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	v.connect(t)

	for limit, reaches := range map[int]bool{1: false, 2: true} {
		v.a.SetMetadata(fakeaws.MetadataOptions{TokensRequired: true, HopLimit: limit})
		if id, err := instanceID(t, v.podA.Namespace); (err == nil && id == v.a.ID) != reaches {
			t.Errorf("with a limit of %d a pod gets %q, %v", limit, id, err)
		}
		if id, err := instanceID(t, v.hostA.Namespace); err != nil || id != v.a.ID {
			t.Errorf("with a limit of %d the host gets %q, %v", limit, id, err)
		}
	}
}

// instanceID asks the metadata from within a namespace, with a token.
func instanceID(t *testing.T, ns *lab.Namespace) (string, error) {
	t.Helper()
	transport := &http.Transport{DialContext: ns.DialContext, DisableKeepAlives: true}
	client := imds.New(imds.Options{HTTPClient: &http.Client{Transport: transport, Timeout: 2 * time.Second}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	out, err := client.GetMetadata(ctx, &imds.GetMetadataInput{Path: "instance-id"})
	if err != nil {
		return "", err
	}
	defer out.Content.Close()
	text, err := io.ReadAll(out.Content)
	return string(text), err
}

// What a checked interface may not send and what it may not receive are two
// things: here the pod's packets leave by one interface and come by another.
func TestChecksApart(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	out, in := v.a.Interface(), must(v.a.Attach(v.second, netip.Addr{}))(t)
	in.SetSourceDestCheck(false)
	v.connect(t)
	check(t, v.table.ReplaceRoute(subnetA, in.ID))
	for _, checked := range []*fakeaws.Interface{out, in} {
		wantPing(t, v.podA.Namespace, v.podB.Addr)
		checked.SetSourceDestCheck(true)
		wantNoPing(t, v.podA.Namespace, v.podB.Addr)
		checked.SetSourceDestCheck(false)
	}
}
