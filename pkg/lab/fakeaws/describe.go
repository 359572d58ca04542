package fakeaws

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// set is a list in an answer, which is there also when it is empty.
type set[T any] struct {
	Items []T `xml:"item"`
}

// each makes a list of what fn makes of the elements.
func each[T, U any](list []T, fn func(T) U) (s set[U]) {
	for _, x := range list {
		s.Items = append(s.Items, fn(x))
	}
	return s
}

type routeTablesAnswer struct {
	head
	Tables    set[routeTableItem] `xml:"routeTableSet"`
	NextToken string              `xml:"nextToken,omitempty"`
}

type routeTableItem struct {
	ID           string               `xml:"routeTableId"`
	VPC          string               `xml:"vpcId"`
	Owner        string               `xml:"ownerId"`
	Routes       set[routeItem]       `xml:"routeSet"`
	Associations set[associationItem] `xml:"associationSet"`
	Propagating  set[string]          `xml:"propagatingVgwSet"`
	Tags         set[string]          `xml:"tagSet"`
}

type routeItem struct {
	Dst           string `xml:"destinationCidrBlock,omitempty"`
	Dst6          string `xml:"destinationIpv6CidrBlock,omitempty"`
	PrefixList    string `xml:"destinationPrefixListId,omitempty"`
	Gateway       string `xml:"gatewayId,omitempty"`
	Instance      string `xml:"instanceId,omitempty"`
	InstanceOwner string `xml:"instanceOwnerId,omitempty"`
	Interface     string `xml:"networkInterfaceId,omitempty"`
	State         string `xml:"state"`
	Origin        string `xml:"origin"`
}

type associationItem struct {
	ID     string `xml:"routeTableAssociationId"`
	Table  string `xml:"routeTableId"`
	Subnet string `xml:"subnetId,omitempty"`
	Main   bool   `xml:"main"`
	State  string `xml:"associationState>state"`
}

func (c *Cloud) apiDescribeRouteTables(form url.Values) (response, error) {
	s := selection[*RouteTable]{
		code: "InvalidRouteTableID", prefix: "rtb", kind: "routeTable", parameter: "RouteTableId",
		maxResults: 100, pageSize: 100, fields: c.routeTableFields(),
	}
	tables, next, err := s.choose(c.tables, form)
	if err != nil {
		return nil, err
	}
	return &routeTablesAnswer{Tables: each(tables, c.routeTableItem), NextToken: next}, nil
}

func (c *Cloud) routeTableItem(t *RouteTable) routeTableItem {
	return routeTableItem{
		ID: t.ID, VPC: t.VPC.ID, Owner: accountID,
		Routes: each(c.show(t.routes.at(c.visible()), c.visible()), func(r Route) routeItem {
			item := routeItem{
				PrefixList: r.PrefixListID, Gateway: r.GatewayID, Instance: r.InstanceID, Interface: r.InterfaceID,
				State: r.State, Origin: r.Origin,
			}
			switch {
			case !r.Dst.IsValid():
			case r.Dst.Addr().Is4():
				item.Dst = r.Dst.String()
			default:
				item.Dst6 = r.Dst.String()
			}
			if item.Instance != "" {
				item.InstanceOwner = accountID
			}
			return item
		}),
		Associations: each(t.associations.at(c.visible()), func(a association) associationItem {
			item := associationItem{ID: a.id, Table: t.ID, Main: a.subnet == nil, State: "associated"}
			if a.subnet != nil {
				item.Subnet = a.subnet.ID
			}
			return item
		}),
	}
}

// routeTableFields has no filter for the interface of a route, as EC2 has none.
// The main table has no association with the subnets that use it silently.
func (c *Cloud) routeTableFields() fields[*RouteTable] {
	associations := func(value func(associationItem) string) func(*RouteTable) []string {
		return func(t *RouteTable) []string { return each(c.routeTableItem(t).Associations.Items, value).Items }
	}
	routes := func(value func(routeItem) string) func(*RouteTable) []string {
		return func(t *RouteTable) []string { return each(c.routeTableItem(t).Routes.Items, value).Items }
	}
	return fields[*RouteTable]{
		"association.route-table-association-id": associations(func(a associationItem) string { return a.ID }),
		"association.route-table-id":             associations(func(a associationItem) string { return a.Table }),
		"association.subnet-id":                  associations(func(a associationItem) string { return a.Subnet }),
		"association.main":                       associations(func(a associationItem) string { return strconv.FormatBool(a.Main) }),
		"owner-id":                               one(func(*RouteTable) string { return accountID }),
		"route-table-id":                         one((*RouteTable).id),
		"route.destination-cidr-block":           routes(func(r routeItem) string { return r.Dst }),
		"route.destination-ipv6-cidr-block":      routes(func(r routeItem) string { return r.Dst6 }),
		"route.destination-prefix-list-id":       routes(func(r routeItem) string { return r.PrefixList }),
		"route.gateway-id":                       routes(func(r routeItem) string { return r.Gateway }),
		"route.instance-id":                      routes(func(r routeItem) string { return r.Instance }),
		"route.origin":                           routes(func(r routeItem) string { return r.Origin }),
		"route.state":                            routes(func(r routeItem) string { return r.State }),
		"vpc-id":                                 one(func(t *RouteTable) string { return t.VPC.ID }),
	}
}

type subnetsAnswer struct {
	head
	Subnets   set[subnetItem] `xml:"subnetSet"`
	NextToken string          `xml:"nextToken,omitempty"`
}

type subnetItem struct {
	ID        string      `xml:"subnetId"`
	ARN       string      `xml:"subnetArn"`
	State     string      `xml:"state"`
	Owner     string      `xml:"ownerId"`
	VPC       string      `xml:"vpcId"`
	Prefix    string      `xml:"cidrBlock"`
	Blocks6   set[block6] `xml:"ipv6CidrBlockAssociationSet"`
	Available int         `xml:"availableIpAddressCount"`
	Zone      string      `xml:"availabilityZone"`
	Default   bool        `xml:"defaultForAz"`
	Public    bool        `xml:"mapPublicIpOnLaunch"`
	Tags      set[string] `xml:"tagSet"`
}

func (c *Cloud) apiDescribeSubnets(form url.Values) (response, error) {
	prefix := one(func(s *Subnet) string { return s.Prefix.String() })
	zone := one(func(s *Subnet) string { return s.Zone })
	s := selection[*Subnet]{
		code: "InvalidSubnetID", prefix: "subnet", kind: "subnet", parameter: "SubnetId", maxResults: 1000,
		fields: fields[*Subnet]{
			"availability-zone": zone, "availabilityZone": zone,
			"cidr": prefix, "cidr-block": prefix, "cidrBlock": prefix,
			"owner-id":  one(func(*Subnet) string { return accountID }),
			"state":     one(func(*Subnet) string { return "available" }),
			"subnet-id": one((*Subnet).id),
			"vpc-id":    one(func(s *Subnet) string { return s.VPC.ID }),
		},
	}
	subnets, next, err := s.choose(c.subnets, form)
	if err != nil {
		return nil, err
	}
	return &subnetsAnswer{NextToken: next, Subnets: each(subnets, func(s *Subnet) subnetItem {
		taken := slices.DeleteFunc(slices.Clone(c.interfaces.at(c.visible())), func(n *Interface) bool { return n.Subnet != s })
		return subnetItem{
			ID: s.ID, ARN: c.arn("subnet", s.ID), State: "available", Owner: accountID, VPC: s.VPC.ID,
			Prefix: s.Prefix.String(), Blocks6: blocks6(s.ID, s.six), Available: 1<<(32-s.Prefix.Bits()) - 5 - len(taken), Zone: s.Zone,
		}
	})}, nil
}

type vpcsAnswer struct {
	head
	VPCs      set[vpcItem] `xml:"vpcSet"`
	NextToken string       `xml:"nextToken,omitempty"`
}

type vpcItem struct {
	ID      string            `xml:"vpcId"`
	Owner   string            `xml:"ownerId"`
	State   string            `xml:"state"`
	Prefix  string            `xml:"cidrBlock"`
	Blocks  set[vpcBlockItem] `xml:"cidrBlockAssociationSet"`
	Blocks6 set[block6]       `xml:"ipv6CidrBlockAssociationSet"`
	Tenancy string            `xml:"instanceTenancy"`
	Default bool              `xml:"isDefault"`
	Tags    set[string]       `xml:"tagSet"`
}

type vpcBlockItem struct {
	ID     string `xml:"associationId"`
	Prefix string `xml:"cidrBlock"`
	State  string `xml:"cidrBlockState>state"`
}

// block6 is an IPv6 network of a VPC or of a subnet.
type block6 struct {
	ID     string `xml:"associationId"`
	Prefix string `xml:"ipv6CidrBlock"`
	State  string `xml:"ipv6CidrBlockState>state"`
}

// blocks6 lists the IPv6 network of what has an ID such as vpc-…, if there is one.
func blocks6(id string, p netip.Prefix) (s set[block6]) {
	if kind, number, _ := strings.Cut(id, "-"); p.IsValid() {
		s.Items = []block6{{ID: kind + "-cidr-assoc-" + number, Prefix: p.String(), State: "associated"}}
	}
	return s
}

func (c *Cloud) apiDescribeVpcs(form url.Values) (response, error) {
	prefix := one(func(v *VPC) string { return v.Prefix.String() })
	s := selection[*VPC]{
		code: "InvalidVpcID", prefix: "vpc", kind: "vpc", parameter: "VpcId", maxResults: 1000,
		fields: fields[*VPC]{
			"cidr": prefix, "cidr-block-association.cidr-block": prefix,
			"owner-id": one(func(*VPC) string { return accountID }),
			"state":    one(func(*VPC) string { return "available" }),
			"vpc-id":   one((*VPC).id),
		},
	}
	vpcs, next, err := s.choose(c.vpcs, form)
	if err != nil {
		return nil, err
	}
	return &vpcsAnswer{NextToken: next, VPCs: each(vpcs, func(v *VPC) vpcItem {
		p := v.Prefix.String()
		return vpcItem{
			ID: v.ID, Owner: accountID, State: "available", Prefix: p, Tenancy: "default", Blocks6: blocks6(v.ID, v.six),
			Blocks: set[vpcBlockItem]{[]vpcBlockItem{{ID: "vpc-cidr-assoc-" + v.ID[len("vpc-"):], Prefix: p, State: "associated"}}},
		}
	})}, nil
}
