package fakeaws_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// addIPv6 gives the VPC and its subnets IPv6, and a and b an address.
func (w *fixture) addIPv6(t *testing.T) {
	t.Helper()
	check(t, w.vpc.AssociateIPv6("2001:db8:10::/56"))
	check(t, w.first.AssociateIPv6("2001:db8:10:1::/64"))
	check(t, w.second.AssociateIPv6("2001:db8:10:2::/64"))
	check(t, w.a.Interface().AssignIPv6())
	check(t, w.b.Interface().AssignIPv6())
}

func createRoute6(t *testing.T, c *ec2.Client, table *fakeaws.RouteTable, dst, nic string) error {
	t.Helper()
	_, err := c.CreateRoute(t.Context(), &ec2.CreateRouteInput{RouteTableId: &table.ID, DestinationIpv6CidrBlock: &dst, NetworkInterfaceId: &nic})
	return err
}

// routes6 lists the routes of a table to IPv6 destinations.
func routes6(t *testing.T, c *ec2.Client, table *fakeaws.RouteTable) (lines []string) {
	t.Helper()
	out, err := c.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{RouteTableIds: []string{table.ID}})
	check(t, err)
	for _, r := range out.RouteTables[0].Routes {
		if r.DestinationIpv6CidrBlock != nil {
			lines = append(lines, fmt.Sprintf("%s %s %s", *r.DestinationIpv6CidrBlock, aws.ToString(r.GatewayId)+aws.ToString(r.NetworkInterfaceId), r.State))
		}
	}
	return lines
}

func TestIPv6Routes(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	c := w.client()
	a, b := w.a.Interface().ID, w.b.Interface().ID
	wantError(t, createRoute6(t, c, w.table, "fd00:5:0:1::/64", a), "InvalidParameterValue", "") // it has no IPv6 address
	w.addIPv6(t)
	want := func(lines ...string) {
		t.Helper()
		lines = append([]string{"2001:db8:10::/56 local active"}, lines...)
		if got := routes6(t, c, w.table); !slices.Equal(got, lines) {
			t.Errorf("routes:\n%q\nwant:\n%q", got, lines)
		}
	}
	want()
	check(t, createRoute6(t, c, w.table, "fd00:5:0:1::/64", a))
	check(t, createRoute6(t, c, w.table, "FD00:0005:0:2:0::9/64", b)) // EC2 has one form
	want("fd00:5:0:1::/64 "+a+" active", "fd00:5:0:2::/64 "+b+" active")
	dst := aws.String("fd00:5:0:1::/64")
	_, err := c.ReplaceRoute(t.Context(), &ec2.ReplaceRouteInput{RouteTableId: &w.table.ID, DestinationIpv6CidrBlock: dst, NetworkInterfaceId: &b})
	check(t, err)
	_, err = c.DeleteRoute(t.Context(), &ec2.DeleteRouteInput{RouteTableId: &w.table.ID, DestinationIpv6CidrBlock: aws.String("fd00:5:0:2::/64")})
	check(t, err)
	want("fd00:5:0:1::/64 " + b + " active")
	w.b.Stop()
	want("fd00:5:0:1::/64 " + b + " blackhole")
	out, err := c.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{Filters: []types.Filter{filter("route.destination-ipv6-cidr-block", *dst)}})
	check(t, err)
	if len(out.RouteTables) != 1 || *out.RouteTables[0].RouteTableId != w.table.ID {
		t.Errorf("%d tables", len(out.RouteTables))
	}
}

func TestRefusedIPv6Routes(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	w.addIPv6(t)
	c, nic := w.client(), w.a.Interface().ID
	check(t, createRoute6(t, c, w.table, "fd00:5:0:1::/64", nic))
	for dst, want := range map[string]string{
		"fd00:5:0:1::/64":    "RouteAlreadyExists",
		"2001:db8:10::/56":   "RouteAlreadyExists",
		"2001:db8:10:7::/64": "InvalidParameterValue", // in the VPC, and no subnet
		"10.1.5.0/24":        "InvalidParameterValue",
		"fd00:5:0:1::/129":   "InvalidParameterValue",
		"fd00:ec2::/64":      "InvalidParameterValue", // reserved
	} {
		wantError(t, createRoute6(t, c, w.table, dst, nic), want, "")
	}
	check(t, createRoute6(t, c, w.table, "2001:db8:10:1::/64", nic)) // a subnet as a whole
	wantError(t, createRoute(t.Context(), c, w.table, "fd00:5:0:2::/64", nic), "InvalidParameterValue",
		"Value (fd00:5:0:2::/64) for parameter destinationCidrBlock is invalid. This is not a valid CIDR block.")
	_, err := c.CreateRoute(t.Context(), &ec2.CreateRouteInput{
		RouteTableId: &w.table.ID, DestinationCidrBlock: aws.String("10.1.5.0/24"), DestinationIpv6CidrBlock: aws.String("fd00:5:0:2::/64"), NetworkInterfaceId: &nic,
	})
	wantError(t, err, "InvalidParameterCombination", "")
	_, err = c.DeleteRoute(t.Context(), &ec2.DeleteRouteInput{RouteTableId: &w.table.ID, DestinationIpv6CidrBlock: aws.String("fd00:5:0:2::/64")})
	wantError(t, err, "InvalidRoute.NotFound", "no route with destination-ipv6-cidr-block fd00:5:0:2::/64 in route table "+w.table.ID)
}

// Each family has a limit of its own.
func TestIPv6RouteLimit(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	w.addIPv6(t)
	w.SetRouteLimit(2)
	c, nic := w.client(), w.a.Interface().ID
	check(t, createRoute6(t, c, w.table, "fd00:5:0:1::/64", nic))
	wantError(t, createRoute6(t, c, w.table, "fd00:5:0:2::/64", nic), "RouteLimitExceeded", "")
	check(t, createRoute(t.Context(), c, w.table, "10.1.5.0/24", nic))
	wantError(t, createRoute(t.Context(), c, w.table, "10.1.6.0/24", nic), "RouteLimitExceeded", "")
}

// What a client, and the instance itself, see of IPv6.
func TestDescribeIPv6(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	macs := "/latest/meta-data/network/interfaces/macs/" + w.a.Interface().MAC.String() + "/"
	documents := map[string]string{
		"ipv6s": "2001:db8:10:1::a00:104", "subnet-ipv6-cidr-blocks": "2001:db8:10:1::/64", "vpc-ipv6-cidr-blocks": "2001:db8:10::/56",
	}
	for name := range documents {
		if status, _ := w.metadata(t, http.MethodGet, macs+name); status != http.StatusNotFound {
			t.Errorf("without IPv6, %s: %d", name, status)
		}
	}
	w.addIPv6(t)
	for name, want := range documents {
		if status, text := w.metadata(t, http.MethodGet, macs+name); status != http.StatusOK || text != want {
			t.Errorf("%s: %d %q, want %q", name, status, text, want)
		}
	}
	ctx, c := t.Context(), w.client()
	vpcs, err := c.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{VpcIds: []string{w.vpc.ID}})
	check(t, err)
	subnets, err := c.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{w.first.ID}})
	check(t, err)
	nics, err := c.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{w.a.Interface().ID}})
	check(t, err)
	vpc, subnet, nic := vpcs.Vpcs[0].Ipv6CidrBlockAssociationSet, subnets.Subnets[0].Ipv6CidrBlockAssociationSet, nics.NetworkInterfaces[0].Ipv6Addresses
	if len(vpc) != 1 || *vpc[0].Ipv6CidrBlock != "2001:db8:10::/56" || vpc[0].Ipv6CidrBlockState.State != types.VpcCidrBlockStateCodeAssociated ||
		len(subnet) != 1 || *subnet[0].Ipv6CidrBlock != "2001:db8:10:1::/64" || len(nic) != 1 || *nic[0].Ipv6Address != "2001:db8:10:1::a00:104" {
		t.Errorf("%+v %+v %+v", vpc, subnet, nic)
	}
}

// Packets of IPv6 go by the routes and checks as those of IPv4 do, and each family by its own.
func TestRoutedIPv6(t *testing.T) {
	t.Parallel()
	v := newVPCLab(t)
	v.connect(t)
	const six = "fd00:5:0:6::/64"
	pod := netip.MustParseAddr("fd00:5:0:6::2")
	v.addIPv6(t)
	wantPing(t, v.hostA.Namespace, v.hostB.Of(ip.V6))
	check(t, v.hostB.AddAddr("lo", netip.PrefixFrom(pod, 128)))
	wantNoPing(t, v.hostA.Namespace, pod)
	check(t, v.vpc.Main.CreateRoute(six, v.b.Interface().ID))
	wantPing(t, v.hostA.Namespace, pod)
	v.b.Interface().SetSourceDestCheck(true)
	wantNoPing(t, v.hostA.Namespace, pod)
	wantPing(t, v.hostA.Namespace, v.hostB.Of(ip.V6))
	v.b.Interface().SetSourceDestCheck(false)
	wantPing(t, v.hostA.Namespace, pod)
	check(t, v.vpc.Main.ReplaceRoute(six, v.a.Interface().ID))
	wantNoPing(t, v.hostA.Namespace, pod)
	check(t, v.vpc.Main.ReplaceRoute(six, v.b.Interface().ID))
	wantPing(t, v.hostA.Namespace, pod)
	check(t, v.vpc.Main.DeleteRoute(six))
	wantNoPing(t, v.hostA.Namespace, pod)
	wantPing(t, v.podA.Namespace, v.podB.Addr)
	third := must(v.router.AddHost("c", must(v.RunInstance(v.second, fakeaws.InstanceOptions{}))(t)))(t)
	wantPing(t, v.hostA.Namespace, third.Of(ip.V6))
}
