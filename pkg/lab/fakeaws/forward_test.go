package fakeaws_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"flanneld/pkg/lab"
	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"golang.org/x/sync/errgroup"
)

// The longest match is taken, and within the VPC's network the local route whatever
// others there are.
func TestLongestMatch(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	v.connect(t)
	a, b := v.a.Interface(), v.b.Interface()
	for _, wide := range []string{"10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"} {
		check(t, v.vpc.Main.CreateRoute(wide, a.ID))
	}
	wantPing(t, v.podA.Namespace, v.podB.Addr)
	wantPing(t, v.hostA.Namespace, v.hostB.Addr)
	check(t, v.vpc.Main.ReplaceRoute("10.1.0.0/16", b.ID))
	check(t, v.vpc.Main.ReplaceRoute(subnetB, a.ID))
	wantNoPing(t, v.podA.Namespace, v.podB.Addr)
	check(t, v.vpc.Main.DeleteRoute(subnetB))
	wantPing(t, v.podA.Namespace, v.podB.Addr)
	// An address of the VPC that nobody has is not looked for elsewhere.
	check(t, v.hostB.AddAddr("lo", netip.MustParsePrefix("10.0.7.7/32")))
	check(t, v.vpc.Main.ReplaceRoute("10.0.0.0/8", b.ID))
	wantNoPing(t, v.hostA.Namespace, netip.MustParseAddr("10.0.7.7"))
	check(t, v.hostB.AddAddr("lo", netip.MustParsePrefix("10.2.7.7/32")))
	wantPing(t, v.hostA.Namespace, netip.MustParseAddr("10.2.7.7"))
}

// What a gateway has announced gives way to what was created, and to the local route.
func TestPropagatedRoutes(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	v.connect(t)
	check(t, v.vpc.Main.AddEndpoint("pl-00000001", "vpce-00000000000000001"))
	for _, dst := range []string{subnetB, "10.0.2.0/24"} {
		check(t, v.vpc.Main.Propagate(dst, "vgw-00000000000000001"))
		wantPing(t, v.podA.Namespace, v.podB.Addr)
		wantPing(t, v.hostA.Namespace, v.hostB.Addr)
	}
	check(t, v.vpc.Main.Propagate("10.1.6.0/28", "vgw-00000000000000001"))
	wantNoPing(t, v.podA.Namespace, v.podB.Addr)
}

// Packets between hosts of one subnet go by that subnet's table as well.
func TestPodsOfOneSubnet(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	v.connect(t)
	c := must(v.RunInstance(v.first, fakeaws.InstanceOptions{}))(t)
	host := must(v.router.AddHost("c", c))(t)
	pod := addPod(t, host, "10.1.7.0/24")
	c.Interface().SetSourceDestCheck(false)
	check(t, v.table.CreateRoute("10.1.7.0/24", c.Interface().ID))
	wantNoPing(t, v.podA.Namespace, pod.Addr) // it is in the other table
	check(t, v.vpc.Main.CreateRoute("10.1.7.0/24", c.Interface().ID))
	wantNoPing(t, v.podA.Namespace, pod.Addr) // there is no way back
	check(t, v.vpc.Main.CreateRoute("10.1.5.0/24", v.a.Interface().ID))
	wantPing(t, v.podA.Namespace, pod.Addr)
}

// No packet is lost by changes that are none for it.
func TestChangesLoseNothing(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	a, b := v.a.Interface(), v.b.Interface()
	v.connect(t)
	second := must(v.b.Attach(v.second, netip.Addr{}))(t)
	second.SetSourceDestCheck(false)
	twin := v.vpc.AddRouteTable()
	check(t, twin.CreateRoute(subnetB, b.ID))
	pinger := must(v.podA.StartPinger(v.podB.Addr, 2*time.Millisecond))(t)
	for range 5 {
		for _, do := range []func() error{
			func() error { return v.vpc.Main.ReplaceRoute(subnetB, b.ID) },
			func() error { return v.vpc.Main.ReplaceRoute(subnetB, second.ID) },
			func() error { return v.vpc.Main.ReplaceRoute(subnetB, b.ID) },
			func() error { return v.vpc.Main.CreateRoute("10.1.0.0/16", b.ID) },
			func() error { return v.vpc.Main.DeleteRoute(subnetB) },
			func() error { return v.vpc.Main.CreateRoute(subnetB, b.ID) },
			func() error { return v.vpc.Main.DeleteRoute("10.1.0.0/16") },
			func() error { return twin.Associate(v.first) },
			func() error { v.first.Dissociate(); return nil },
			func() error { a.SetSourceDestCheck(false); return nil },
			func() error { _, err := v.RunInstance(v.first, fakeaws.InstanceOptions{}); return err },
			func() error {
				n, err := v.b.Attach(v.second, netip.Addr{})
				if err == nil {
					err = n.Detach()
				}
				return err
			},
		} {
			check(t, do())
		}
	}
	if r := pinger.Stop(); r.Lost > 0 || r.Sent < 20 {
		t.Error(r)
	}
}

// What was done is in the kernel, also where the client was told otherwise.
func TestLostAnswerRouted(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	v.connect(t)
	v.LoseAnswers("DeleteRoute", 1)
	wantError(t, deleteRoute(t.Context(), v.client(), v.vpc.Main, subnetB), "InternalError", "")
	wantNoPing(t, v.podA.Namespace, v.podB.Addr)
}

// A host that was closed while its instance runs is a machine that crashed: EC2 does not
// know, and the network goes on for the others.
func TestCrash(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	v.connect(t)
	v.hostB.Close()
	check(t, v.table.CreateRoute("10.1.7.0/24", v.b.Interface().ID))
	for _, r := range v.vpc.Main.Routes() {
		if r.State != "active" {
			t.Errorf("%+v", r)
		}
	}
	wantNoPing(t, v.podA.Namespace, v.podB.Addr)
	other := must(v.router.AddHost("c", must(v.RunInstance(v.first, fakeaws.InstanceOptions{}))(t)))(t)
	wantPing(t, v.hostA.Namespace, other.Addr)
	must(v.b.Attach(v.second, netip.Addr{}))(t)
	v.hostB = must(v.router.AddHost("b2", v.b))(t)
	v.podB = addPod(t, v.hostB, subnetB)
	wantPing(t, v.podA.Namespace, v.podB.Addr)
}

// An interface that the host takes down is the host's affair alone.
func TestInterfaceDown(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	v.connect(t)
	check(t, v.hostB.LinkDown("eth0"))
	wantNoPing(t, v.podA.Namespace, v.podB.Addr)
	check(t, v.vpc.Main.ReplaceRoute(subnetB, v.a.Interface().ID))
	check(t, v.vpc.Main.ReplaceRoute(subnetB, v.b.Interface().ID))
	check(t, v.hostB.LinkUp("eth0"))
	wantPing(t, v.podA.Namespace, v.podB.Addr)
	wantPing(t, v.hostA.Namespace, v.hostB.Addr)
}

func TestMTU(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	for _, h := range []*lab.Host{v.hostA, v.hostB} {
		if mtu := must(h.MTU("eth0"))(t); mtu != 9001 {
			t.Errorf("the MTU of %s is %d", h.Name, mtu)
		}
	}
	v.connect(t)
	must(v.podA.Transfer(t.Context(), v.podB, 1<<20))(t)
}

// Whoever changes something last, the kernel has it when all have done.
func TestChangesAtOnce(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	v.connect(t)
	a, b := v.a.Interface(), v.b.Interface()
	spare := must(v.RunInstance(v.first, fakeaws.InstanceOptions{}))(t)
	must(v.router.AddHost("c", spare))(t)
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(10 + i), 1}) }
	subnet := func(i int) string { return netip.PrefixFrom(addr(i), 24).Masked().String() }
	const changers, turns = 8, 5
	for _, class := range []fakeaws.Class{fakeaws.Mutating, fakeaws.NonMutating} {
		v.SetLimit(class, fakeaws.Limit{Burst: 1000, Refill: 1000})
	}
	var all errgroup.Group
	for i := range changers {
		check(t, v.hostB.AddAddr("lo", netip.PrefixFrom(addr(i), 32)))
		c := v.client()
		all.Go(func() error {
			for range turns {
				if err := errors.Join(
					createRoute(t.Context(), c, v.vpc.Main, subnet(i), a.ID),
					deleteRoute(t.Context(), c, v.vpc.Main, subnet(i)),
					createRoute(t.Context(), c, v.vpc.Main, subnet(i), a.ID),
					replaceRoute(t.Context(), c, v.vpc.Main, subnet(i), b.ID),
				); err != nil {
					return err
				}
				_, err := c.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{})
				if err = errors.Join(err, deleteRoute(t.Context(), c, v.vpc.Main, subnet(i))); err != nil {
					return err
				}
			}
			return createRoute(t.Context(), c, v.vpc.Main, subnet(i), b.ID)
		})
	}
	all.Go(func() error {
		for range turns {
			n, err := spare.Attach(v.second, netip.Addr{})
			if err == nil {
				spare.Stop()
				spare.Start()
				err = n.Detach()
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	check(t, all.Wait())
	for i := range changers {
		wantPing(t, v.hostA.Namespace, addr(i))
	}
}
