package vpc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"k8s.io/klog/v2"
)

const (
	// period is the least time between two looks where nothing happens, and
	// spread how much longer it is at most: hosts that were started together do
	// not look together for long.
	period = time.Minute
	spread = 15 * time.Second
	// again is how soon a look follows a change, and settled how long EC2 may
	// show what was before it.
	again   = 2 * time.Second
	settled = 10 * time.Second
	// The pauses after looks that failed.
	pauseFirst = time.Second
	// Every so many looks include what does not change without a reason: who this
	// host is, which table its packets go by, and whether its interface passes
	// those of others.
	recheck = 10
)

// table is a route table as it was seen.
type table struct {
	id     string
	routes map[netip.Prefix]route
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

// write is what this process made of a route: nil is a route that was deleted.
type write struct {
	route *route
	until time.Time // when EC2 shows it, at the latest
}

// look asks EC2 how things are. What can't be seen stays as it was seen last.
func (t *Target) look(ctx context.Context) {
	select {
	case t.looking <- struct{}{}:
		defer func() { <-t.looking }()
	case <-ctx.Done():
		return
	}
	err := t.tryLook(ctx)
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil:
		if t.why == nil || t.why.Error() != err.Error() {
			klog.Warningf("looking at the VPC: %v; trying again", err)
		}
		t.pause = min(max(2*t.pause, pauseFirst), period)
		t.due = time.Now().Add(jitter(t.pause))
	default:
		if t.why != nil {
			klog.Info("looking at the VPC succeeds again")
		}
		t.pause = 0
		t.due = time.Now().Add(period + rand.N(spread))
		for _, w := range t.written {
			if time.Until(w.until) > 0 && w.until.Before(t.due) {
				t.due = w.until
			}
		}
	}
	t.why = err
}

// jitter is a time between three quarters of d and d.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/4+1) }

func (t *Target) tryLook(ctx context.Context) error {
	if t.session == nil || t.looks%recheck == 0 {
		s, self, err := connect(ctx, t.options)
		switch {
		case err == nil && t.session == nil:
			t.session = s
			klog.Infof("this is the instance %s in %s", self.instance, self.region)
		case err != nil && t.session == nil:
			return err
		}
		if err == nil {
			t.mu.Lock()
			t.self = self
			t.mu.Unlock()
		}
	}
	t.looks++
	t.mu.Lock()
	self, host := t.self, t.host
	var names []string
	for k := range t.want {
		if !slices.Contains(names, k.Dev) {
			names = append(names, k.Dev)
		}
	}
	checked := t.passes != nil && *t.passes && t.looks%recheck != 1
	t.mu.Unlock()
	n, ok := self.interfaces[host]
	if !ok {
		t.session = nil // it may be a new one
		return fmt.Errorf("none of the network interfaces of %s has the address %s", self.instance, host)
	}
	var errs []error
	if !checked {
		passes, err := t.session.passes(ctx, n.id)
		errs = append(errs, err)
		if err == nil {
			t.mu.Lock()
			t.passes = &passes
			t.mu.Unlock()
		}
	}
	for _, name := range names {
		tab, err := t.session.table(ctx, name, n)
		errs = append(errs, err)
		if err == nil {
			t.saw(name, tab)
		}
	}
	return errors.Join(errs...)
}

// saw takes what a look shows of a table, unless it can't show yet what was written.
func (t *Target) saw(name string, tab *table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, w := range t.written {
		shown, there := tab.routes[k.Dst]
		switch {
		case k.Dev != name:
		case time.Until(w.until) <= 0, w.route == nil && !there, w.route != nil && there && *w.route == shown:
			delete(t.written, k)
		case w.route == nil:
			delete(tab.routes, k.Dst)
		default:
			tab.routes[k.Dst] = *w.route
		}
	}
	for k, h := range t.holds {
		if k.Dev == name && h.routes > len(tab.routes) {
			delete(t.holds, k) // there is room again
		}
	}
	t.tables[name] = tab
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

// table asks for a table by its name in objects: its ID; or empty for the one that
// the packets of a network interface go by.
func (s *session) table(ctx context.Context, name string, n nic) (*table, error) {
	if name != "" {
		return s.find(ctx, "route table "+name, map[string]string{"route-table-id": name})
	}
	tab, err := s.find(ctx, "the route table of "+n.subnet, map[string]string{"association.subnet-id": n.subnet})
	if errors.As(err, new(*notThere)) {
		tab, err = s.find(ctx, "the main route table of "+n.vpc, map[string]string{"association.main": "true", "vpc-id": n.vpc})
	}
	return tab, err
}

// notThere is the error of looking for a table that there is none of.
type notThere struct{ what string }

func (n *notThere) Error() string { return fmt.Sprintf("there is no %s in this region", n.what) }

func (s *session) find(ctx context.Context, what string, by map[string]string) (*table, error) {
	in := &ec2.DescribeRouteTablesInput{}
	for name, value := range by {
		in.Filters = append(in.Filters, types.Filter{Name: &name, Values: []string{value}})
	}
	var tab *table
	err := s.do(ctx, "DescribeRouteTables", what, func(ctx context.Context) error {
		out, err := s.ec2.DescribeRouteTables(ctx, in)
		if err == nil && len(out.RouteTables) > 0 {
			tab = read(out.RouteTables[0])
		}
		return err
	})
	if err == nil && tab == nil {
		err = &notThere{what}
	}
	return tab, err
}

// read leaves out routes that others make by themselves, or that are not to an IPv4
// network: a route of ours can be beside those.
func read(rt types.RouteTable) *table {
	tab := &table{id: aws.ToString(rt.RouteTableId), routes: make(map[netip.Prefix]route, len(rt.Routes))}
	for _, r := range rt.Routes {
		dst, err := netip.ParsePrefix(aws.ToString(r.DestinationCidrBlock))
		if err != nil || r.Origin == types.RouteOriginEnableVgwRoutePropagation {
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
