package fakeaws

import (
	"net/netip"
	"slices"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// The numbers of the kernel's tables and rules.
const (
	dropTable  = 900   // nothing gets through
	firstTable = 1000  // of the route tables
	replyTable = 10000 // of the metadata's answers, by interface
	// A rule for any source is taken by the kernel for one with a source that is
	// there already, unless the priorities differ.
	checkedPriority   = 1000
	uncheckedPriority = 1001
	replyPriority     = 1002
	dropPriority      = 2000
)

// forwarding says what the kernel is to do: what comes in by an interface is
// looked up in the table of its subnet. With the source/destination check on,
// that is done for the interface's own address only, and a route to the
// interface is as good as none.
func (r *Router) forwarding() (routes []lab.TableRoute, rules []lab.TableRule) {
	c := r.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	up := slices.DeleteFunc(slices.Clone(c.interfaces.now()), func(n *Interface) bool {
		i := n.instance.now()
		return r.links[n] == nil || i == nil || i.state.now() != running
	})
	for _, t := range c.tables {
		routes = append(routes, r.tableRoutes(t, up)...)
	}
	for _, f := range ip.Families {
		routes = append(routes, lab.TableRoute{Table: dropTable, Dst: lab.Everywhere(f)})
	}
	for n, l := range r.links {
		for _, f := range ip.Families {
			rules = append(rules, lab.TableRule{Family: f, Priority: dropPriority, Iif: l.name, Table: dropTable})
			if !slices.Contains(up, n) || !n.in(f).IsValid() {
				continue
			}
			look := lab.TableRule{Family: f, Priority: uncheckedPriority, Iif: l.name, Table: r.tableNumber(c.table(n.Subnet))}
			if n.check.now() {
				look.Priority, look.Src = checkedPriority, host(n.in(f))
			}
			rules = append(rules, look)
			if f == ip.V4 { // that of the metadata
				reply := replyTable + l.number
				rules = append(rules, lab.TableRule{Family: f, Priority: replyPriority, Oif: l.name, Table: reply})
				routes = append(routes, lab.TableRoute{Table: reply, Dst: lab.Everywhere(f), Dev: l.name, Via: n.Addr})
			}
		}
	}
	return routes, rules
}

// host is the network of a single address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// tableRoutes are a table's routes, and in place of the local one those to the
// single interfaces.
func (r *Router) tableRoutes(t *RouteTable, up []*Interface) (routes []lab.TableRoute) {
	number := r.tableNumber(t)
	list := t.routes.now()
	for _, to := range list {
		if !to.dst.IsValid() || to.propagated && (t.index(to.dst) >= 0 || t.VPC.contains(to.dst)) {
			continue // a list, behind which there is nothing, or not as good as another route
		}
		route, f := lab.TableRoute{Table: number, Dst: to.dst}, ip.FamilyOf(to.dst.Addr())
		i := slices.IndexFunc(up, func(n *Interface) bool { return n.ID == to.nic })
		if i >= 0 && !up[i].check.now() && up[i].in(f).IsValid() {
			route.Dev, route.Via = r.links[up[i]].name, up[i].in(f)
		}
		routes = append(routes, route)
	}
	for _, n := range up {
		for _, f := range ip.Families {
			if a := n.in(f); n.Subnet.VPC == t.VPC && a.IsValid() && isLocal(list, a) {
				routes = append(routes, lab.TableRoute{Table: number, Dst: host(a), Dev: r.links[n].name})
			}
		}
	}
	return routes
}

// isLocal tells whether the longest match for an address is the local route.
func isLocal(list []route, addr netip.Addr) bool {
	best := route{dst: lab.Everywhere(ip.FamilyOf(addr))}
	for _, r := range list {
		if !r.propagated && r.dst.Contains(addr) && r.dst.Bits() >= best.dst.Bits() {
			best = r
		}
	}
	return best.gateway == localGateway
}

func (r *Router) tableNumber(t *RouteTable) int {
	if r.tables[t] == 0 {
		r.tables[t] = firstTable + len(r.tables)
	}
	return r.tables[t]
}

// attachedTo is the instance that has the interface, or nil.
func (c *Cloud) attachedTo(n *Interface) *Instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.interfaces.now(), n) {
		return nil
	}
	return n.instance.now()
}
