package ec2

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"flanneld/pkg/ip"
)

// table is a route table as it was seen.
type table struct {
	id     string
	routes map[netip.Prefix]route
	size   map[ip.Family]int // number of its routes that count for its limit, which each family has
	seen   time.Time
	// expireAt is when routes that lead nowhere are to be deleted.
	expireAt map[netip.Prefix]time.Time
}

// route is where packets are led to.
type route struct {
	nic       string // ID of a network interface, or empty
	other     string // what else it leads to, or empty
	blackhole bool
	fixed     bool // not made by anyone, and not to be changed
}

func (r route) String() string {
	to := r.nic + r.other
	if r.blackhole {
		to += ", which is gone or stopped"
	}
	return to
}

// passes asks whether a network interface passes packets of others.
func (s *session) passes(ctx context.Context, id string) (bool, error) {
	var passes bool
	err := s.do(ctx, "DescribeNetworkInterfaceAttribute", id, func(ctx context.Context) error {
		out, err := s.ec2.DescribeNetworkInterfaceAttribute(ctx, &ec2.DescribeNetworkInterfaceAttributeInput{
			NetworkInterfaceId: &id, Attribute: types.NetworkInterfaceAttributeSourceDestCheck,
		})
		if err == nil && out.SourceDestCheck != nil {
			passes = !aws.ToBool(out.SourceDestCheck.Value)
		}
		return err
	})
	return passes, err
}

// tables asks for route tables by their names in objects; all in one call, but for the
// ones that the packets of network interfaces go by, which these have the names of. That of its
// subnet comes with the answer to which it is; if there is none, it is the main one, and to find
// that out takes a call more, so it is done only if it is not known, or anew. Among those that it
// returns, one that does not exist is nil. The errors, too, are by name.
func (s *session) tables(ctx context.Context, names []string, subnets map[string]nic, anew bool) (map[string]*table, map[string]error) {
	found := make(map[string]*table, len(names))
	errs := make(map[string]error)
	ids := make(map[string][]string, len(names)) // names by ID
	for _, name := range names {
		main := s.main[name]
		switch {
		case !isOwn(name):
			ids[name] = append(ids[name], name)
		case main != "" && !anew:
			ids[main] = append(ids[main], name)
		default:
			tab, isMain, err := s.ownTable(ctx, subnets[name])
			if err != nil {
				errs[name] = err
				break
			}
			found[name] = tab
			delete(s.main, name)
			if isMain {
				s.main[name] = tab.id
			}
		}
	}
	for some := range slices.Chunk(slices.Sorted(maps.Keys(ids)), filterValues) {
		tables, err := s.byID(ctx, some...)
		if err != nil {
			for _, id := range some {
				for _, name := range ids[id] {
					errs[name] = err
				}
			}
			continue
		}
		for _, id := range some {
			i := slices.IndexFunc(tables, func(tab *table) bool { return tab.id == id })
			for _, name := range ids[id] {
				if found[name] = nil; i >= 0 {
					tab := *tables[i]
					tab.routes = maps.Clone(tab.routes)
					found[name] = &tab
					continue
				}
				errs[name] = &notThere{"route table " + id}
				delete(s.main, name)
			}
		}
	}
	return found, errs
}

// byID asks for the tables with these IDs.
func (s *session) byID(ctx context.Context, ids ...string) ([]*table, error) {
	return s.describe(ctx, "route table "+strings.Join(ids, ", "), types.Filter{Name: aws.String("route-table-id"), Values: ids})
}

// ownTable finds the table that the packets of a network interface go by.
func (s *session) ownTable(ctx context.Context, n nic) (tab *table, isMain bool, err error) {
	for i, query := range []struct {
		what    string
		filters []types.Filter
	}{
		{"the route table of " + n.subnet, []types.Filter{{Name: aws.String("association.subnet-id"), Values: []string{n.subnet}}}},
		{"the main route table of " + n.vpc, []types.Filter{
			{Name: aws.String("association.main"), Values: []string{"true"}},
			{Name: aws.String("vpc-id"), Values: []string{n.vpc}},
		}},
	} {
		tables, err := s.describe(ctx, query.what, query.filters...)
		if err != nil {
			return nil, false, err
		}
		if len(tables) > 0 {
			return tables[0], i > 0, nil
		}
	}
	return nil, false, &notThere{"main route table of " + n.vpc}
}

// notThere is the error of looking for a table that there is none of.
type notThere struct{ what string }

func (n *notThere) Error() string { return fmt.Sprintf("there is no %s in this region", n.what) }

const (
	// filterValues is how many values a filter may have, and pageSize how many
	// tables come with one call.
	filterValues = 200
	pageSize     = 100
)

// describe asks for tables, page by page.
func (s *session) describe(ctx context.Context, what string, filters ...types.Filter) ([]*table, error) {
	var tables []*table
	err := s.do(ctx, "DescribeRouteTables", what, func(ctx context.Context) error {
		in := &ec2.DescribeRouteTablesInput{Filters: filters, MaxResults: aws.Int32(pageSize)}
		for {
			out, err := s.ec2.DescribeRouteTables(ctx, in)
			if err != nil {
				return err
			}
			for _, rt := range out.RouteTables {
				tables = append(tables, read(rt))
			}
			if aws.ToString(out.NextToken) == "" {
				return nil
			}
			in.NextToken = out.NextToken
		}
	})
	return tables, err
}

// read leaves out routes that others make by themselves, or that are not to a network: a route
// of ours can be beside those.
func read(rt types.RouteTable) *table {
	tab := &table{id: aws.ToString(rt.RouteTableId), routes: make(map[netip.Prefix]route, len(rt.Routes)), size: make(map[ip.Family]int)}
	for _, r := range rt.Routes {
		if r.Origin == types.RouteOriginEnableVgwRoutePropagation {
			continue
		}
		f, to := ip.V4, r.DestinationCidrBlock
		if r.DestinationIpv6CidrBlock != nil {
			f, to = ip.V6, r.DestinationIpv6CidrBlock
		}
		tab.size[f]++
		dst, err := netip.ParsePrefix(aws.ToString(to))
		if err != nil {
			continue
		}
		is := route{
			nic:       aws.ToString(r.NetworkInterfaceId),
			blackhole: r.State == types.RouteStateBlackhole,
			fixed:     r.Origin == types.RouteOriginCreateRouteTable,
		}
		if is.nic == "" {
			is.other = other(r)
		}
		tab.routes[dst.Masked()] = is
	}
	return tab
}

// other is the ID of what a route leads to that is no network interface.
func other(r types.Route) string {
	for _, id := range []*string{
		r.GatewayId, r.NatGatewayId, r.InstanceId, r.TransitGatewayId, r.VpcPeeringConnectionId,
		r.EgressOnlyInternetGatewayId, r.LocalGatewayId, r.CarrierGatewayId, r.CoreNetworkArn,
	} {
		if id != nil {
			return *id
		}
	}
	return "somewhere else"
}
