package fakeaws

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"flanneld/pkg/ip"
)

// localGateway is the target of the route to the VPC's own network.
const localGateway = "local"

// reserved may not be routed: it is for the services of the link.
var reserved = map[ip.Family]netip.Prefix{
	ip.V4: netip.MustParsePrefix("169.254.168.0/22"), ip.V6: netip.MustParsePrefix("fd00:ec2::/32"),
}

// destinations are the names of the parameter for a destination, in requests and in messages.
var destinations = map[ip.Family]struct{ parameter, message string }{
	ip.V4: {"DestinationCidrBlock", "destination-cidr-block"},
	ip.V6: {"DestinationIpv6CidrBlock", "destination-ipv6-cidr-block"},
}

// route is an entry of a table. It has one target.
type route struct {
	dst        netip.Prefix
	list       string // pl-…, in place of dst
	gateway    string // local, igw-…, vgw-… or vpce-…
	nic        string // eni-…; it may be gone
	propagated bool   // by the gateway
}

// Route is an entry of a table as EC2 shows it.
type Route struct {
	Dst          netip.Prefix // zero where there is a list
	PrefixListID string       // of a service's addresses
	GatewayID    string       // local, igw-…, vgw-… or vpce-…
	InterfaceID  string
	InstanceID   string // that the interface is attached to
	State        string // active or blackhole
	Origin       string // CreateRouteTable, CreateRoute or EnableVgwRoutePropagation
}

// target names where a route shall lead to. One of its fields is set.
type target struct {
	gateway, nic, instance string
}

// Routes lists the routes as they are now, without lag.
func (t *RouteTable) Routes() []Route {
	c := t.VPC.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.show(t.routes.now(), c.clock())
}

// CreateRoute adds a route to an interface or a gateway (igw-…), as an operator
// may.
func (t *RouteTable) CreateRoute(dst, to string) error {
	return t.change(func() error { return t.createRoute(dst, parseTarget(to)) })
}

// ReplaceRoute changes where a route leads to.
func (t *RouteTable) ReplaceRoute(dst, to string) error {
	return t.change(func() error { return t.replaceRoute(dst, parseTarget(to)) })
}

// DeleteRoute removes a route.
func (t *RouteTable) DeleteRoute(dst string) error {
	return t.change(func() error { return t.deleteRoute(dst) })
}

// Propagate adds a route that a virtual private gateway (vgw-…) has announced. It may
// be beside one to the same destination that was created: packets go by that one.
func (t *RouteTable) Propagate(dst, gateway string) error {
	return t.change(func() error {
		p, err := parseDestination(dst)
		if err != nil {
			return err
		}
		t.setRoutes(append(slices.Clone(t.routes.now()), route{dst: p.Masked(), gateway: gateway, propagated: true}))
		return nil
	})
}

// AddEndpoint adds the route that an endpoint (vpce-…) has to the addresses of its
// service, which are a list (pl-…).
func (t *RouteTable) AddEndpoint(list, endpoint string) error {
	return t.change(func() error {
		t.setRoutes(append(slices.Clone(t.routes.now()), route{list: list, gateway: endpoint}))
		return nil
	})
}

func (t *RouteTable) change(fn func() error) error {
	if err := t.VPC.cloud.change(fn); err != nil {
		return fmt.Errorf("changing %s: %w", t.ID, err)
	}
	return nil
}

func parseTarget(to string) target {
	switch {
	case strings.HasPrefix(to, "eni-"):
		return target{nic: to}
	case strings.HasPrefix(to, "i-"):
		return target{instance: to}
	default:
		return target{gateway: to}
	}
}

func (t *RouteTable) createRoute(cidr string, to target) error {
	dst, err := parseDestination(cidr)
	if err != nil {
		return err
	}
	r, err := t.resolve(dst.Masked(), to)
	if err != nil {
		return err
	}
	list := t.routes.now()
	if t.index(r.dst) >= 0 {
		return errorf("RouteAlreadyExists", "The route identified by %s already exists.", r.dst)
	}
	if count(list, ip.FamilyOf(r.dst.Addr())) >= t.VPC.cloud.routeLimit {
		return errorf("RouteLimitExceeded", "The maximum number of routes has been reached.")
	}
	t.setRoutes(append(slices.Clone(list), r))
	return nil
}

func (t *RouteTable) replaceRoute(cidr string, to target) error {
	dst, err := parseDestination(cidr)
	if err != nil {
		return err
	}
	i := t.index(dst)
	if i < 0 {
		return errorf("InvalidParameterValue",
			"There is no route defined for '%s' in the route table. Use CreateRoute instead.", cidr)
	}
	if t.routes.now()[i].gateway == localGateway {
		return errorf("InvalidParameterValue", "cannot replace local route %s in route table %s", dst, t.ID)
	}
	r, err := t.resolve(dst, to)
	if err != nil {
		return err
	}
	list := slices.Clone(t.routes.now())
	list[i] = r
	t.setRoutes(list)
	return nil
}

func (t *RouteTable) deleteRoute(cidr string) error {
	dst, err := parseDestination(cidr)
	if err != nil {
		return err
	}
	i := t.index(dst)
	if i < 0 {
		return errorf("InvalidRoute.NotFound", "no route with %s %s in route table %s",
			destinations[ip.FamilyOf(dst.Addr())].message, cidr, t.ID)
	}
	if t.routes.now()[i].gateway == localGateway {
		return errorf("InvalidParameterValue", "cannot remove local route %s in route table %s", dst, t.ID)
	}
	t.setRoutes(slices.Delete(slices.Clone(t.routes.now()), i, i+1))
	return nil
}

func (t *RouteTable) setRoutes(list []route) { t.routes.set(t.VPC.cloud.clock(), list) }

// index is where the route to exactly this destination is that was created, or -1.
func (t *RouteTable) index(dst netip.Prefix) int {
	return slices.IndexFunc(t.routes.now(), func(r route) bool { return r.dst == dst && !r.propagated })
}

// count is how many of the routes the limit of a family is about. Lists are of IPv4 here.
func count(list []route, f ip.Family) (n int) {
	for _, r := range list {
		if !r.propagated && (r.dst.IsValid() && ip.FamilyOf(r.dst.Addr()) == f || !r.dst.IsValid() && f == ip.V4) {
			n++
		}
	}
	return n
}

// parseDestination reads a network of either family.
func parseDestination(cidr string) (netip.Prefix, error) {
	dst, err := netip.ParsePrefix(cidr)
	if err != nil || dst.Addr().Is4In6() {
		return netip.Prefix{}, invalidDestination(ip.V4, cidr)
	}
	return dst, nil
}

// inFamily refuses a destination that is not of the family that its parameter is for.
func inFamily(f ip.Family, cidr string) error {
	if dst, err := parseDestination(cidr); err != nil || ip.FamilyOf(dst.Addr()) != f {
		return invalidDestination(f, cidr)
	}
	return nil
}

func invalidDestination(f ip.Family, cidr string) error {
	return errorf("InvalidParameterValue", "Value (%s) for parameter %s is invalid. This is not a valid CIDR block.",
		cidr, lowerFirst(destinations[f].parameter))
}

// resolve checks that a route may lead to its target.
func (t *RouteTable) resolve(dst netip.Prefix, to target) (route, error) {
	c := t.VPC.cloud
	var n *Interface
	switch {
	case to.gateway != "":
		if !strings.HasPrefix(to.gateway, "igw-") {
			return route{}, errorf("InvalidGatewayID.NotFound", "The gateway ID '%s' does not exist", to.gateway)
		}
	case to.instance != "":
		i, err := c.instance(to.instance)
		if err != nil {
			return route{}, err
		}
		if n, err = i.onlyInterface(); err != nil {
			return route{}, err
		}
	default:
		var err error
		if n, err = c.nic(to.nic); err != nil {
			return route{}, err
		}
	}
	if err := t.checkDestination(dst, n); err != nil {
		return route{}, err
	}
	if n == nil {
		return route{dst: dst, gateway: to.gateway}, nil
	}
	if n.Subnet.VPC != t.VPC {
		return route{}, errorf("InvalidParameterValue",
			"route table %s and interface %s belong to different networks", t.ID, n.ID)
	}
	if f := ip.FamilyOf(dst.Addr()); !n.in(f).IsValid() {
		return route{}, errorf("InvalidParameterValue", "Network interface %s has no %s address.", n.ID, f)
	}
	return route{dst: dst, nic: n.ID}, nil
}

// checkDestination refuses what may not be routed to an interface or, if that
// is nil, to a gateway. The local route itself is left to the caller.
func (t *RouteTable) checkDestination(dst netip.Prefix, n *Interface) error {
	f := ip.FamilyOf(dst.Addr())
	if r := reserved[f]; r.Contains(dst.Addr()) && dst.Bits() >= r.Bits() {
		return errorf("InvalidParameterValue", "Value (%s) for parameter %s is invalid. It lies in %s, which is reserved.",
			dst, lowerFirst(destinations[f].parameter), r)
	}
	if !t.VPC.contains(dst) || dst == t.VPC.in(f) {
		return nil
	}
	if n == nil {
		return errorf("InvalidParameterValue", "The destination CIDR block %s is equal to or more specific than "+
			"one of this VPC's CIDR blocks. This route can target only an interface or an instance.", dst)
	}
	for _, s := range t.VPC.cloud.subnets {
		if s.VPC == t.VPC && s.in(f) == dst {
			return nil
		}
	}
	return errorf("InvalidParameterValue", "Route destination doesn't match any subnet CIDR blocks.")
}

// onlyInterface is the interface that is meant where an instance is named.
func (i *Instance) onlyInterface() (*Interface, error) {
	switch nics := i.interfaces.now(); len(nics) {
	case 0:
		return nil, errorf("IncorrectInstanceState", "The instance '%s' is not in a valid state for this operation.", i.ID)
	case 1:
		return nics[0], nil
	default:
		return nil, errorf("InvalidInstanceID", "There are multiple interfaces attached to instance '%s'. "+
			"Please specify an interface ID for the operation instead.", i.ID)
	}
}

// instance finds one by its ID.
func (c *Cloud) instance(id string) (*Instance, error) {
	return lookUp(c.instances.now(), "InvalidInstanceID", "i", "instance", id)
}

// nic finds an interface by its ID.
func (c *Cloud) nic(id string) (*Interface, error) {
	return lookUp(c.interfaces.now(), "InvalidNetworkInterfaceID", "eni", "networkInterface", id)
}

// table finds a route table by its ID.
func (c *Cloud) routeTable(id string) (*RouteTable, error) {
	return lookUp(c.tables, "InvalidRouteTableID", "rtb", "routeTable", id)
}

// malformed has the codes that EC2 spells otherwise when an ID is no ID.
var malformed = map[string]string{
	"InvalidNetworkInterfaceID": "InvalidNetworkInterfaceId",
	"InvalidRouteTableID":       "InvalidRouteTableId",
}

// lookUp finds a thing by its ID, which must be PREFIX-HEX.
func lookUp[T thing](list []T, code, prefix, kind, id string) (found T, err error) {
	digits, ok := strings.CutPrefix(id, prefix+"-")
	if !ok || strings.Trim(digits, "0123456789abcdef") != "" || len(digits) != 8 && len(digits) != 17 {
		return found, errorf(cmp.Or(malformed[code], code)+".Malformed", "Invalid id: \"%s\" (expecting \"%s-...\")", id, prefix)
	}
	var none T
	if found = find(list, id); found == none {
		return none, errorf(code+".NotFound", "The %s ID '%s' does not exist", kind, id)
	}
	return found, nil
}

// show is what EC2 tells about routes, as things were at a time: they are black holes
// while nothing receives what follows them.
func (c *Cloud) show(list []route, at time.Time) []Route {
	shown := make([]Route, len(list))
	for i, r := range list {
		s := Route{
			Dst: r.dst, PrefixListID: r.list, GatewayID: r.gateway, InterfaceID: r.nic, State: "active", Origin: "CreateRoute",
		}
		switch {
		case r.gateway == localGateway:
			s.Origin = "CreateRouteTable"
		case r.propagated:
			s.Origin = "EnableVgwRoutePropagation"
		}
		if r.nic != "" {
			var i *Instance
			if n := find(c.interfaces.at(at), r.nic); n != nil {
				i = n.instance.at(at)
			}
			if i == nil || i.state.at(at) != running {
				s.State = "blackhole"
			}
			if i != nil {
				s.InstanceID = i.ID
			}
		}
		shown[i] = s
	}
	return shown
}
