package fakeaws

import (
	"fmt"
	"net/netip"
	"slices"

	"flanneld/pkg/ip"
)

// VPC is a network with its subnets and tables.
type VPC struct {
	ID     string
	Prefix netip.Prefix
	// Main is the table of the subnets that have no other.
	Main *RouteTable

	cloud *Cloud
	six   netip.Prefix // zero without IPv6; under the cloud's lock
}

// Subnet is a part of a VPC in one availability zone.
type Subnet struct {
	ID     string
	Prefix netip.Prefix
	Zone   string
	VPC    *VPC

	six netip.Prefix // zero without IPv6; under the cloud's lock
}

// RouteTable is a table of routes for the subnets that are associated with it.
type RouteTable struct {
	ID  string
	VPC *VPC

	routes       versioned[[]route]
	associations versioned[[]association]
}

// association ties a subnet to a table, or the VPC's other subnets if subnet is nil.
type association struct {
	id     string
	subnet *Subnet
}

func (v *VPC) id() string        { return v.ID }
func (s *Subnet) id() string     { return s.ID }
func (t *RouteTable) id() string { return t.ID }

// AddVPC adds a network such as 10.0.0.0/16, with its main table.
func (c *Cloud) AddVPC(prefix string) (*VPC, error) {
	p, err := parsePrefix(ip.V4, prefix)
	if err != nil {
		return nil, fmt.Errorf("adding VPC %q: %w", prefix, err)
	}
	if p.Bits() < 16 || p.Bits() > 28 {
		return nil, fmt.Errorf("adding VPC %s: its length is not from 16 to 28", p)
	}
	var v *VPC
	err = c.change(func() error {
		v = &VPC{ID: c.newID("vpc"), Prefix: p, cloud: c}
		c.vpcs = append(c.vpcs, v)
		v.Main = v.addTable([]association{{id: c.newID("rtbassoc")}})
		return nil
	})
	return v, err
}

// AddSubnet adds a part of the VPC's network, in the region's zone of the
// given letter.
func (v *VPC) AddSubnet(prefix, zone string) (*Subnet, error) {
	p, err := parsePrefix(ip.V4, prefix)
	if err != nil {
		return nil, fmt.Errorf("adding subnet %q: %w", prefix, err)
	}
	if !v.contains(p) || p.Bits() > 28 {
		return nil, fmt.Errorf("adding subnet %s: it is not in %s, or smaller than a /28", p, v.Prefix)
	}
	var s *Subnet
	err = v.cloud.change(func() error {
		for _, other := range v.cloud.subnets {
			if other.VPC == v && other.Prefix.Overlaps(p) {
				return fmt.Errorf("adding subnet %s: it overlaps with %s", p, other.Prefix)
			}
		}
		s = &Subnet{ID: v.cloud.newID("subnet"), Prefix: p, Zone: v.cloud.Region + zone, VPC: v}
		v.cloud.subnets = append(v.cloud.subnets, s)
		return nil
	})
	return s, err
}

// AssociateIPv6 gives the VPC a network such as 2001:db8:1::/56, to which each table gets a
// local route.
func (v *VPC) AssociateIPv6(prefix string) error {
	return v.cloud.change(func() error {
		p, err := parsePrefix(ip.V6, prefix)
		switch {
		case err != nil:
			return fmt.Errorf("associating %q with %s: %w", prefix, v.ID, err)
		case p.Bits() < 44 || p.Bits() > 60 || v.six.IsValid():
			return fmt.Errorf("associating %s with %s: its length is not from 44 to 60, or there is one already", p, v.ID)
		}
		v.six = p
		for _, t := range v.cloud.tables {
			if t.VPC == v {
				t.setRoutes(append(slices.Clone(t.routes.now()), route{dst: p, gateway: localGateway}))
			}
		}
		return nil
	})
}

// AssociateIPv6 gives the subnet a /64 of its VPC's network. Interfaces that are made in it from
// then on have an IPv6 address.
func (s *Subnet) AssociateIPv6(prefix string) error {
	return s.VPC.cloud.change(func() error {
		p, err := parsePrefix(ip.V6, prefix)
		switch {
		case err != nil:
			return fmt.Errorf("associating %q with %s: %w", prefix, s.ID, err)
		case p.Bits() != 64 || !s.VPC.contains(p) || s.six.IsValid():
			return fmt.Errorf("associating %s with %s: it is no /64 of the VPC's network, or there is one already", p, s.ID)
		}
		s.six = p
		return nil
	})
}

// in is the network of a family.
func (v *VPC) in(f ip.Family) netip.Prefix {
	if f == ip.V4 {
		return v.Prefix
	}
	return v.six
}

// in is the network of a family.
func (s *Subnet) in(f ip.Family) netip.Prefix {
	if f == ip.V4 {
		return s.Prefix
	}
	return s.six
}

// AddRouteTable adds a table that has the local routes only.
func (v *VPC) AddRouteTable() *RouteTable {
	var t *RouteTable
	_ = v.cloud.change(func() error {
		t = v.addTable(nil)
		return nil
	})
	return t
}

// Delete deletes a table that no subnet is associated with.
func (t *RouteTable) Delete() error {
	c := t.VPC.cloud
	return c.change(func() error {
		if len(t.associations.now()) > 0 {
			return fmt.Errorf("deleting %s: it has associations", t.ID)
		}
		c.tables = slices.DeleteFunc(c.tables, func(x *RouteTable) bool { return x == t })
		return nil
	})
}

func (v *VPC) addTable(associations []association) *RouteTable {
	c := v.cloud
	t := &RouteTable{ID: c.newID("rtb"), VPC: v}
	local := []route{{dst: v.Prefix, gateway: localGateway}}
	if v.six.IsValid() {
		local = append(local, route{dst: v.six, gateway: localGateway})
	}
	t.routes.set(c.clock(), local)
	t.associations.set(c.clock(), associations)
	c.tables = append(c.tables, t)
	return t
}

// contains tells whether a network is the VPC's or a part of it.
func (v *VPC) contains(p netip.Prefix) bool {
	own := v.in(ip.FamilyOf(p.Addr()))
	return own.IsValid() && own.Contains(p.Addr()) && own.Bits() <= p.Bits()
}

// Associate makes the table the subnet's own, in place of the one it had.
func (t *RouteTable) Associate(s *Subnet) error {
	if s.VPC != t.VPC {
		return fmt.Errorf("associating %s with %s: they are in different VPCs", t.ID, s.ID)
	}
	c := t.VPC.cloud
	return c.change(func() error {
		c.dissociate(s)
		t.associations.set(c.clock(), append(slices.Clone(t.associations.now()),
			association{id: c.newID("rtbassoc"), subnet: s}))
		return nil
	})
}

// Dissociate gives the subnet back to the VPC's main table.
func (s *Subnet) Dissociate() {
	_ = s.VPC.cloud.change(func() error {
		s.VPC.cloud.dissociate(s)
		return nil
	})
}

func (c *Cloud) dissociate(s *Subnet) {
	isIt := func(a association) bool { return a.subnet == s }
	for _, t := range c.tables {
		if list := t.associations.now(); slices.ContainsFunc(list, isIt) {
			t.associations.set(c.clock(), slices.DeleteFunc(slices.Clone(list), isIt))
		}
	}
}

// table is the one that the subnet's packets go by.
func (c *Cloud) table(s *Subnet) *RouteTable {
	for _, t := range c.tables {
		for _, a := range t.associations.now() {
			if a.subnet == s {
				return t
			}
		}
	}
	return s.VPC.Main
}

// freeAddr is the subnet's first address that no interface has. EC2 keeps the
// first four and the last.
func (c *Cloud) freeAddr(s *Subnet) (netip.Addr, error) {
	addr := s.gateway().Next().Next().Next()
	for ; s.Prefix.Contains(addr.Next()); addr = addr.Next() {
		if c.interfaceAt(s.VPC, addr) == nil {
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address left in %s", s.Prefix)
}

// gateway is the address of the VPC's router in the subnet.
func (s *Subnet) gateway() netip.Addr { return s.Prefix.Addr().Next() }

func (c *Cloud) interfaceAt(v *VPC, addr netip.Addr) *Interface {
	for _, n := range c.interfaces.now() {
		if n.Subnet.VPC == v && n.Addr == addr {
			return n
		}
	}
	return nil
}
