package lab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TableRoute is an IPv4 route of a table that is none of the kernel's own.
type TableRoute struct {
	Table int
	Dst   netip.Prefix
	Dev   string     // empty for a black hole
	Via   netip.Addr // zero for a network that is on the link
}

// TableRule has packets looked up in a table. Packets that the table has no route
// for go on to the next rule.
type TableRule struct {
	Priority int
	Iif, Oif string       // empty for any
	Src      netip.Prefix // zero for any
	Table    int
}

// SetTables makes these the only routes outside of the tables main, local and
// default, and the only rules that lead to such tables. What is there already
// is not touched, and a route is replaced in one step.
func (ns *Namespace) SetTables(routes []TableRoute, rules []TableRule) error {
	if err := ns.setTableRoutes(routes); err != nil {
		return fmt.Errorf("setting the routing tables of %s: %w", ns.Name, err)
	}
	if err := ns.setTableRules(rules); err != nil {
		return fmt.Errorf("setting the routing rules of %s: %w", ns.Name, err)
	}
	return nil
}

func (ns *Namespace) setTableRoutes(want []TableRoute) error {
	list, err := ns.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
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
			have[tableRoute(r, names)] = true
		}
	}
	type place struct {
		table int
		dst   netip.Prefix
	}
	kept := map[place]bool{}
	for _, r := range want {
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
		if ownTable(r.Table) && !kept[place{r.Table, prefix(r.Dst)}] {
			if err := ns.nl.RouteDel(&r); err != nil {
				return fmt.Errorf("deleting route to %s from table %d: %w", prefix(r.Dst), r.Table, err)
			}
		}
	}
	return nil
}

// ownTable tells whether a table is none of the kernel's.
func ownTable(table int) bool { return table < unix.RT_TABLE_DEFAULT || table > unix.RT_TABLE_LOCAL }

func tableRoute(r netlink.Route, names map[int]string) TableRoute {
	t := TableRoute{Table: r.Table, Dst: prefix(r.Dst)}
	if r.Type != unix.RTN_BLACKHOLE {
		t.Dev = names[r.LinkIndex]
	}
	if r.Gw != nil {
		t.Via, _ = netip.AddrFromSlice(r.Gw.To4())
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
func (ns *Namespace) setTableRules(want []TableRule) error {
	list, err := ns.nl.RuleList(unix.AF_INET)
	if err != nil {
		return err
	}
	have := map[TableRule]bool{}
	for _, r := range list {
		have[tableRule(r)] = true
	}
	kept := map[TableRule]bool{}
	for _, r := range want {
		kept[r] = true
		if have[r] {
			continue
		}
		if err := ns.nl.RuleAdd(r.rule()); err != nil {
			return fmt.Errorf("adding %+v: %w", r, err)
		}
	}
	for _, r := range list {
		if t := tableRule(r); ownTable(r.Table) && !kept[t] {
			if err := ns.nl.RuleDel(t.rule()); err != nil {
				return fmt.Errorf("deleting %+v: %w", t, err)
			}
		}
	}
	return nil
}

func tableRule(r netlink.Rule) TableRule {
	t := TableRule{Priority: r.Priority, Iif: r.IifName, Oif: r.OifName, Table: r.Table}
	if r.Src != nil {
		t.Src = prefix(r.Src)
	}
	return t
}

func (r TableRule) rule() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table = unix.AF_INET, r.Priority, r.Table
	rule.IifName, rule.OifName = r.Iif, r.Oif
	if r.Src.IsValid() {
		rule.Src = ipNet(r.Src)
	}
	return rule
}
