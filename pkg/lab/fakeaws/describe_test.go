package fakeaws_test

import (
	"net/netip"
	"slices"
	"testing"

	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestFilters(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	ctx, c := t.Context(), w.client()
	spare := w.vpc.AddRouteTable()
	other := must(w.AddVPC("10.9.0.0/16"))(t)
	nic := w.a.Interface()
	check(t, w.table.CreateRoute("10.1.5.0/24", nic.ID))
	main, own, third := w.vpc.Main.ID, w.table.ID, spare.ID
	for _, tt := range []struct {
		name    string
		filters []types.Filter
		want    []string
	}{
		{"all", nil, []string{main, own, third, other.Main.ID}},
		{"subnet with a table", []types.Filter{filter("association.subnet-id", w.second.ID)}, []string{own}},
		{"subnet without", []types.Filter{filter("association.subnet-id", w.first.ID)}, nil},
		{"main of a VPC", []types.Filter{filter("association.main", "true"), filter("vpc-id", w.vpc.ID)}, []string{main}},
		{"VPC", []types.Filter{filter("vpc-id", w.vpc.ID)}, []string{main, own, third}},
		{"either", []types.Filter{filter("route-table-id", third, own)}, []string{own, third}},
		{"destination", []types.Filter{filter("route.destination-cidr-block", "10.1.5.0/24")}, []string{own}},
		{"wildcard", []types.Filter{filter("route.destination-cidr-block", "10.1.?.0/2*")}, []string{own}},
		{"no wildcard", []types.Filter{filter("route.destination-cidr-block", `10.1.5.0/2\*`)}, nil},
		{"instance", []types.Filter{filter("route.instance-id", w.a.ID), filter("route.state", "active")}, []string{own}},
		{"black hole", []types.Filter{filter("route.state", "blackhole")}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: tt.filters})
			check(t, err)
			var got []string
			for _, table := range out.RouteTables {
				got = append(got, *table.RouteTableId)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	_, err := c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{
		Filters: []types.Filter{filter("route.network-interface-id", nic.ID)},
	})
	wantError(t, err, "InvalidParameterValue", "The filter 'route.network-interface-id' is invalid")
	_, err = c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{RouteTableIds: []string{own, "rtb-01234567"}})
	wantError(t, err, "InvalidRouteTableID.NotFound", "")
}

// What a client sees of an instance, its interfaces and their networks.
func TestDescribe(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	ctx, c := t.Context(), w.client()
	nic := w.a.Interface()
	instances, err := c.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{w.a.ID}})
	check(t, err)
	i := instances.Reservations[0].Instances[0]
	n := i.NetworkInterfaces[0]
	if *i.SubnetId != w.first.ID || *i.VpcId != w.vpc.ID || i.State.Name != types.InstanceStateNameRunning ||
		*i.PrivateIpAddress != "10.0.1.4" || !*i.SourceDestCheck || *i.PrivateDnsName != "ip-10-0-1-4.eu-central-1.compute.internal" {
		t.Errorf("instance %+v", i)
	}
	if *n.NetworkInterfaceId != nic.ID || *n.PrivateIpAddress != nic.Addr.String() || *n.Attachment.DeviceIndex != 0 ||
		*n.MacAddress != nic.MAC.String() || n.Attachment.Status != types.AttachmentStatusAttached {
		t.Errorf("interface of an instance %+v", n)
	}
	second := must(w.a.Attach(w.second, netip.Addr{}))(t)
	interfaces, err := c.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{Filters: []types.Filter{
		filter("attachment.instance-id", w.a.ID), filter("subnet-id", w.second.ID),
	}})
	check(t, err)
	if len(interfaces.NetworkInterfaces) != 1 {
		t.Fatalf("%d interfaces", len(interfaces.NetworkInterfaces))
	}
	got := interfaces.NetworkInterfaces[0]
	if *got.NetworkInterfaceId != second.ID || *got.Attachment.DeviceIndex != 1 || *got.Attachment.InstanceId != w.a.ID ||
		*got.PrivateIpAddress != "10.0.2.5" || got.Status != types.NetworkInterfaceStatusInUse {
		t.Errorf("interface %+v", got)
	}
	subnets, err := c.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{w.second.ID}})
	check(t, err)
	if s := subnets.Subnets[0]; *s.CidrBlock != "10.0.2.0/24" || *s.AvailabilityZone != "eu-central-1a" || *s.AvailableIpAddressCount != 249 {
		t.Errorf("subnet %+v", s)
	}
	vpcs, err := c.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{Filters: []types.Filter{filter("vpc-id", w.vpc.ID)}})
	check(t, err)
	if v := vpcs.Vpcs[0]; *v.CidrBlock != "10.0.0.0/16" || *v.CidrBlockAssociationSet[0].CidrBlock != "10.0.0.0/16" {
		t.Errorf("VPC %+v", v)
	}
	instances, err = c.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{w.a.ID}})
	check(t, err)
	if i := instances.Reservations[0].Instances[0]; len(i.NetworkInterfaces) != 2 || i.SourceDestCheck != nil {
		t.Errorf("instance with two interfaces %+v", i)
	}
	w.a.Terminate()
	instances, err = c.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{w.a.ID}})
	check(t, err)
	if i := instances.Reservations[0].Instances[0]; i.State.Name != types.InstanceStateNameTerminated || len(i.NetworkInterfaces) != 0 {
		t.Errorf("terminated instance %+v", i)
	}
}

func TestPages(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	ctx, c := t.Context(), w.client()
	for range 11 {
		w.vpc.AddRouteTable()
	}
	pages := ec2.NewDescribeRouteTablesPaginator(c, &ec2.DescribeRouteTablesInput{MaxResults: aws.Int32(5)})
	var sizes []int
	seen := map[string]bool{}
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		check(t, err)
		sizes = append(sizes, len(page.RouteTables))
		for _, table := range page.RouteTables {
			seen[*table.RouteTableId] = true
		}
	}
	if !slices.Equal(sizes, []int{5, 5, 3}) || len(seen) != 13 {
		t.Errorf("pages of %d tables, together %d", sizes, len(seen))
	}
	// What is filtered is a page: an empty one is not the last.
	last := w.vpc.AddRouteTable()
	in := &ec2.DescribeRouteTablesInput{MaxResults: aws.Int32(5), Filters: []types.Filter{filter("route-table-id", last.ID)}}
	for _, want := range []int{0, 0, 1} {
		page, err := c.DescribeRouteTables(ctx, in)
		check(t, err)
		if len(page.RouteTables) != want || (page.NextToken == nil) != (want > 0) {
			t.Errorf("a page of %d tables, want %d; the next one is %q", len(page.RouteTables), want, aws.ToString(page.NextToken))
		}
		in.NextToken = page.NextToken
	}
	// Nobody gets more than a hundred tables at once who does not name them.
	for range 100 - 14 {
		w.vpc.AddRouteTable()
	}
	all := func(want int, more bool) {
		t.Helper()
		out, err := c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{})
		check(t, err)
		if len(out.RouteTables) != want || (out.NextToken != nil) != more {
			t.Errorf("%d tables, and more: %t", len(out.RouteTables), out.NextToken != nil)
		}
	}
	all(100, false)
	last = w.vpc.AddRouteTable()
	all(100, true)
	named, err := c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{RouteTableIds: []string{last.ID}})
	check(t, err)
	if len(named.RouteTables) != 1 {
		t.Errorf("%d tables with the ID %s", len(named.RouteTables), last.ID)
	}

	_, err = c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{MaxResults: aws.Int32(4)})
	wantError(t, err, "InvalidParameterValue", "")
	_, err = c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{NextToken: aws.String("x")})
	wantError(t, err, "InvalidNextToken", "")
	_, err = c.DescribeInstances(ctx, &ec2.DescribeInstancesInput{MaxResults: aws.Int32(5), InstanceIds: []string{w.a.ID}})
	wantError(t, err, "InvalidParameterCombination", "")
}

func TestSourceDestCheck(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	ctx, c := t.Context(), w.client()
	nic := w.a.Interface()
	off := &types.AttributeBooleanValue{Value: aws.Bool(false)}
	attribute := func() bool {
		t.Helper()
		out, err := c.DescribeNetworkInterfaceAttribute(ctx, &ec2.DescribeNetworkInterfaceAttributeInput{
			NetworkInterfaceId: &nic.ID, Attribute: types.NetworkInterfaceAttributeSourceDestCheck,
		})
		check(t, err)
		return *out.SourceDestCheck.Value
	}
	if !attribute() || !nic.SourceDestCheck() {
		t.Error("the check is off")
	}
	_, err := c.ModifyNetworkInterfaceAttribute(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: &nic.ID, SourceDestCheck: off,
	})
	check(t, err)
	if attribute() || nic.SourceDestCheck() {
		t.Error("the check is on")
	}
	nic.SetSourceDestCheck(true)
	_, err = c.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &w.a.ID, SourceDestCheck: off})
	check(t, err)
	if attribute() {
		t.Error("the check is on")
	}
	must(w.a.Attach(w.second, netip.Addr{}))(t)
	_, err = c.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &w.a.ID, SourceDestCheck: off})
	wantError(t, err, "InvalidInstanceID", "")
}
