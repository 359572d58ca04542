package fakeaws_test

import (
	"fmt"
	"net/netip"
	"testing"

	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

func TestRoutes(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	ctx, c := t.Context(), w.client()
	a, b := w.a.Interface().ID, w.b.Interface().ID
	check(t, createRoute(ctx, c, w.table, "10.1.5.0/24", a))
	check(t, createRoute(ctx, c, w.table, "10.1.6.7/24", b)) // EC2 clears the bits
	wantRoutes(t, c, w.table, "10.1.5.0/24 "+a+" active CreateRoute", "10.1.6.0/24 "+b+" active CreateRoute")
	wantRoutes(t, c, w.vpc.Main)

	check(t, replaceRoute(ctx, c, w.table, "10.1.5.0/24", b))
	check(t, deleteRoute(ctx, c, w.table, "10.1.6.0/24"))
	wantRoutes(t, c, w.table, "10.1.5.0/24 "+b+" active CreateRoute")

	_, err := c.CreateRoute(ctx, &ec2.CreateRouteInput{
		RouteTableId: &w.table.ID, DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: aws.String("igw-00000000000000001"),
	})
	check(t, err)
	_, err = c.CreateRoute(ctx, &ec2.CreateRouteInput{
		RouteTableId: &w.table.ID, DestinationCidrBlock: aws.String("10.1.7.0/24"), InstanceId: &w.a.ID,
	})
	check(t, err)
	wantRoutes(t, c, w.table, "10.1.5.0/24 "+b+" active CreateRoute",
		"0.0.0.0/0 igw-00000000000000001 active CreateRoute", "10.1.7.0/24 "+a+" active CreateRoute")
}

func TestRefusedRoutes(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	ctx, c := t.Context(), w.client()
	nic := w.a.Interface().ID
	two := must(w.RunInstance(w.first, fakeaws.InstanceOptions{}))(t)
	must(two.Attach(w.second, netip.Addr{}))(t)
	other := must(w.AddVPC("10.9.0.0/16"))(t)
	stranger := must(w.RunInstance(must(other.AddSubnet("10.9.1.0/24", "a"))(t), fakeaws.InstanceOptions{}))(t)
	gone := must(w.RunInstance(w.first, fakeaws.InstanceOptions{}))(t)
	goneNIC := gone.Interface().ID
	gone.Terminate()
	check(t, createRoute(ctx, c, w.table, "10.1.5.0/24", nic))

	instance := func(id string) func(*ec2.CreateRouteInput) {
		return func(in *ec2.CreateRouteInput) { in.NetworkInterfaceId, in.InstanceId = nil, &id }
	}
	for _, tt := range []struct {
		name          string
		dst           string
		change        func(*ec2.CreateRouteInput)
		code, message string
	}{
		{"twice", "10.1.5.0/24", nil, "RouteAlreadyExists", "The route identified by 10.1.5.0/24 already exists."},
		{"twice, with other bits", "10.1.5.9/24", nil, "RouteAlreadyExists", ""},
		{"the local one", "10.0.0.0/16", nil, "RouteAlreadyExists", ""},
		{
			"not a network", "10.1.5/24", nil, "InvalidParameterValue",
			"Value (10.1.5/24) for parameter destinationCidrBlock is invalid. This is not a valid CIDR block.",
		},
		{"too long", "10.1.5.0/33", nil, "InvalidParameterValue", ""},
		{
			"a part of no subnet", "10.0.2.0/25", nil, "InvalidParameterValue",
			"Route destination doesn't match any subnet CIDR blocks.",
		},
		{"link-local", "169.254.169.0/24", nil, "InvalidParameterValue", ""},
		{
			"unknown table", "10.1.6.0/24", func(in *ec2.CreateRouteInput) { in.RouteTableId = aws.String("rtb-0123456789abcdef0") },
			"InvalidRouteTableID.NotFound", "The routeTable ID 'rtb-0123456789abcdef0' does not exist",
		},
		{
			"not a table", "10.1.6.0/24", func(in *ec2.CreateRouteInput) { in.RouteTableId = aws.String("table") },
			"InvalidRouteTableId.Malformed", `Invalid id: "table" (expecting "rtb-...")`,
		},
		{
			"unknown interface", "10.1.6.0/24", func(in *ec2.CreateRouteInput) { in.NetworkInterfaceId = aws.String("eni-01234567") },
			"InvalidNetworkInterfaceID.NotFound", "The networkInterface ID 'eni-01234567' does not exist",
		},
		{
			"not an interface", "10.1.6.0/24", func(in *ec2.CreateRouteInput) { in.NetworkInterfaceId = aws.String("eni-x") },
			"InvalidNetworkInterfaceId.Malformed", "",
		},
		{
			"interface that is gone", "10.1.6.0/24", func(in *ec2.CreateRouteInput) { in.NetworkInterfaceId = &goneNIC },
			"InvalidNetworkInterfaceID.NotFound", "",
		},
		{
			"interface of another VPC", "10.1.6.0/24",
			func(in *ec2.CreateRouteInput) { in.NetworkInterfaceId = &stranger.Interface().ID }, "InvalidParameterValue", "",
		},
		{"unknown instance", "10.1.6.0/24", instance("i-01234567"), "InvalidInstanceID.NotFound", ""},
		{
			"instance with two interfaces", "10.1.6.0/24", instance(two.ID), "InvalidInstanceID",
			"There are multiple interfaces attached to instance '" + two.ID +
				"'. Please specify an interface ID for the operation instead.",
		},
		{"no target", "10.1.6.0/24", func(in *ec2.CreateRouteInput) { in.NetworkInterfaceId = nil }, "MissingParameter", ""},
		{"two targets", "10.1.6.0/24", func(in *ec2.CreateRouteInput) { in.InstanceId = &w.a.ID }, "InvalidParameterCombination", ""},
		{"gateway in the VPC", "10.0.2.0/24", func(in *ec2.CreateRouteInput) {
			in.NetworkInterfaceId, in.GatewayId = nil, aws.String("igw-00000000000000001")
		}, "InvalidParameterValue", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := &ec2.CreateRouteInput{RouteTableId: &w.table.ID, DestinationCidrBlock: &tt.dst, NetworkInterfaceId: &nic}
			if tt.change != nil {
				tt.change(in)
			}
			_, err := c.CreateRoute(ctx, in)
			wantError(t, err, tt.code, tt.message)
		})
	}
	wantError(t, replaceRoute(ctx, c, w.table, "10.1.6.0/24", nic), "InvalidParameterValue",
		"There is no route defined for '10.1.6.0/24' in the route table. Use CreateRoute instead.")
	wantError(t, deleteRoute(ctx, c, w.table, "10.1.6.0/24"), "InvalidRoute.NotFound",
		"no route with destination-cidr-block 10.1.6.0/24 in route table "+w.table.ID)
	wantError(t, replaceRoute(ctx, c, w.table, "10.0.0.0/16", nic), "InvalidParameterValue", "")
	wantError(t, deleteRoute(ctx, c, w.table, "10.0.0.0/16"), "InvalidParameterValue",
		"cannot remove local route 10.0.0.0/16 in route table "+w.table.ID)
	wantRoutes(t, c, w.table, "10.1.5.0/24 "+nic+" active CreateRoute")
	// A subnet as a whole may be routed to an interface.
	check(t, createRoute(ctx, c, w.table, "10.0.1.0/24", nic))
}

func TestRouteLimit(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	nic := w.a.Interface().ID
	for i := range 49 {
		check(t, w.table.CreateRoute(fmt.Sprintf("10.1.%d.0/24", i), nic))
	}
	ctx, c := t.Context(), w.client()
	wantError(t, createRoute(ctx, c, w.table, "10.2.0.0/24", nic), "RouteLimitExceeded",
		"The maximum number of routes has been reached.")
	check(t, createRoute(ctx, c, w.vpc.Main, "10.2.0.0/24", nic))
	check(t, deleteRoute(ctx, c, w.table, "10.1.7.0/24"))
	check(t, createRoute(ctx, c, w.table, "10.2.0.0/24", nic))
	w.SetRouteLimit(51)
	check(t, createRoute(ctx, c, w.table, "10.2.1.0/24", nic))
}

// A route is a black hole while its interface receives nothing.
func TestBlackhole(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	c := w.client()
	nic := w.a.Interface()
	second := must(w.a.Attach(w.second, netip.Addr{}))(t)
	check(t, w.table.CreateRoute("10.1.5.0/24", nic.ID))
	check(t, w.table.CreateRoute("10.1.6.0/24", second.ID))
	want := func(first, then string) {
		t.Helper()
		wantRoutes(t, c, w.table,
			"10.1.5.0/24 "+nic.ID+" "+first+" CreateRoute", "10.1.6.0/24 "+second.ID+" "+then+" CreateRoute")
	}
	want("active", "active")
	w.a.Stop()
	want("blackhole", "blackhole")
	w.a.Start()
	want("active", "active")
	check(t, second.Detach())
	want("active", "blackhole")
	next := must(w.a.Replace())(t)
	want("blackhole", "blackhole")
	if next.Interface().Addr != nic.Addr || next.Interface().ID == nic.ID {
		t.Errorf("%s in place of %s", next.Interface().Addr, nic.Addr)
	}
	check(t, replaceRoute(t.Context(), c, w.table, "10.1.5.0/24", next.Interface().ID))
	for _, r := range w.table.Routes() {
		if r.InterfaceID == next.Interface().ID && (r.State != "active" || r.InstanceID != next.ID) {
			t.Errorf("%+v", r)
		}
	}
}

// Routes that come by themselves, or are to something else than a network, are beside
// those that were created.
func TestRoutesOfOthers(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	ctx, c := t.Context(), w.client()
	nic := w.a.Interface().ID
	w.SetRouteLimit(3)
	check(t, w.table.Propagate("10.1.5.0/24", "vgw-00000000000000001"))
	check(t, w.table.AddEndpoint("pl-00000001", "vpce-00000000000000001"))
	const (
		list       = " vpce-00000000000000001 active CreateRoute"
		propagated = "10.1.5.0/24 vgw-00000000000000001 active EnableVgwRoutePropagation"
	)
	wantRoutes(t, c, w.table, propagated, list)
	wantError(t, replaceRoute(ctx, c, w.table, "10.1.5.0/24", nic), "InvalidParameterValue", "")
	check(t, createRoute(ctx, c, w.table, "10.1.5.0/24", nic))
	wantRoutes(t, c, w.table, propagated, list, "10.1.5.0/24 "+nic+" active CreateRoute")
	wantError(t, createRoute(ctx, c, w.table, "10.1.6.0/24", nic), "RouteLimitExceeded", "")
	check(t, deleteRoute(ctx, c, w.table, "10.1.5.0/24"))
	wantError(t, deleteRoute(ctx, c, w.table, "10.1.5.0/24"), "InvalidRoute.NotFound", "")
	wantRoutes(t, c, w.table, propagated, list)
}

func TestDeletedTable(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	ctx, c := t.Context(), w.client()
	for _, table := range []*fakeaws.RouteTable{w.vpc.Main, w.table} {
		if err := table.Delete(); err == nil {
			t.Errorf("%s was deleted in spite of its associations", table.ID)
		}
	}
	w.second.Dissociate()
	check(t, w.table.Delete())
	wantError(t, createRoute(ctx, c, w.table, "10.1.5.0/24", w.a.Interface().ID), "InvalidRouteTableID.NotFound", "")
	_, err := c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{RouteTableIds: []string{w.table.ID}})
	wantError(t, err, "InvalidRouteTableID.NotFound", "")
}
