package lab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// TableRoute is a route of a table that is none of the kernel's own.
type TableRoute struct {
	Table int
	Dst   netip.Prefix
	Dev   string     // empty for a black hole
	Via   netip.Addr // zero for a network that is on the link
}

// TableRule has packets looked up in a table. Packets that the table has no route
// for go on to the next rule.
type TableRule struct {
	Family   ip.Family
	Priority int
	Iif, Oif string       // empty for any
	Src      netip.Prefix // zero for any
	Table    int
}

// SetTables makes these the only routes outside of the tables main, local and
// default, and the only rules that lead to such tables. What is there already
// is not touched, and a route is replaced in one step.
func (ns *Namespace) SetTables(routes []TableRoute, rules []TableRule) error {
	for _, f := range ip.Families {
		if err := ns.setTableRoutes(f, routes); err != nil {
			return fmt.Errorf("setting the routing tables of %s for %s: %w", ns.Name, f, err)
		}
		if err := ns.setTableRules(f, rules); err != nil {
			return fmt.Errorf("setting the routing rules of %s for %s: %w", ns.Name, f, err)
		}
	}
	return nil
}

func (ns *Namespace) setTableRoutes(f ip.Family, want []TableRoute) error {
	list, err := ns.nl.RouteListFiltered(afOf(f), &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	names, err := ns.linkNames()
	if err != nil {
		return err
	}
	have := map[TableRoute]bool{}
	for _, r := range list {
		if ownTable(r.Table) {
			have[tableRoute(f, r, names)] = true
		}
	}
	type place struct {
		table int
		dst   netip.Prefix
	}
	kept := map[place]bool{}
	for _, r := range want {
		if ip.FamilyOf(r.Dst.Addr()) != f {
			continue
		}
		kept[place{r.Table, r.Dst}] = true
		if have[r] {
			continue
		}
		route, err := ns.tableRoute(r)
		if err == nil {
			err = ns.nl.RouteReplace(route)
		}
		if err != nil {
			return fmt.Errorf("route to %s in table %d: %w", r.Dst, r.Table, err)
		}
	}
	for _, r := range list {
		if dst := routeDst(f, r); ownTable(r.Table) && !kept[place{r.Table, dst}] {
			if err := ns.nl.RouteDel(&r); err != nil {
				return fmt.Errorf("deleting route to %s from table %d: %w", dst, r.Table, err)
			}
		}
	}
	return nil
}

// ownTable tells whether a table is none of the kernel's.
func ownTable(table int) bool { return table < unix.RT_TABLE_DEFAULT || table > unix.RT_TABLE_LOCAL }

func routeDst(f ip.Family, r netlink.Route) netip.Prefix {
	if dst := prefix(r.Dst); dst.Bits() > 0 {
		return dst
	}
	return Everywhere(f)
}

// Everywhere is the destination of default routes.
func Everywhere(f ip.Family) netip.Prefix {
	if f == ip.V4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func tableRoute(f ip.Family, r netlink.Route, names map[int]string) TableRoute {
	t := TableRoute{Table: r.Table, Dst: routeDst(f, r)}
	if r.Type != unix.RTN_BLACKHOLE {
		t.Dev = names[r.LinkIndex]
	}
	if r.Gw != nil {
		via, _ := netip.AddrFromSlice(r.Gw)
		t.Via = via.Unmap()
	}
	return t
}

func (ns *Namespace) tableRoute(r TableRoute) (*netlink.Route, error) {
	if r.Dev == "" {
		return &netlink.Route{Dst: ipNet(r.Dst), Table: r.Table, Protocol: protoBoot, Type: unix.RTN_BLACKHOLE}, nil
	}
	route, err := ns.route(Route{Dst: r.Dst, Via: r.Via, Dev: r.Dev})
	if err != nil {
		return nil, err
	}
	route.Table = r.Table
	if r.Via.IsValid() {
		route.Flags = int(netlink.FLAG_ONLINK)
	}
	return route, nil
}

// setTableRules adds before it deletes, so that no packet finds no rule.
func (ns *Namespace) setTableRules(f ip.Family, want []TableRule) error {
	list, err := ns.nl.RuleList(afOf(f))
	if err != nil {
		return err
	}
	have := map[TableRule]bool{}
	for _, r := range list {
		have[tableRule(f, r)] = true
	}
	kept := map[TableRule]bool{}
	for _, r := range want {
		if r.Family != f {
			continue
		}
		kept[r] = true
		if have[r] {
			continue
		}
		if err := ns.nl.RuleAdd(r.rule()); err != nil {
			return fmt.Errorf("adding %+v: %w", r, err)
		}
	}
	for _, r := range list {
		if t := tableRule(f, r); ownTable(r.Table) && !kept[t] {
			if err := ns.nl.RuleDel(t.rule()); err != nil {
				return fmt.Errorf("deleting %+v: %w", t, err)
			}
		}
	}
	return nil
}

func tableRule(f ip.Family, r netlink.Rule) TableRule {
	t := TableRule{Family: f, Priority: r.Priority, Iif: r.IifName, Oif: r.OifName, Table: r.Table}
	if r.Src != nil {
		t.Src = prefix(r.Src)
	}
	return t
}

func (r TableRule) rule() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table = afOf(r.Family), r.Priority, r.Table
	rule.IifName, rule.OifName = r.Iif, r.Oif
	if r.Src.IsValid() {
		rule.Src = ipNet(r.Src)
	}
	return rule
}
