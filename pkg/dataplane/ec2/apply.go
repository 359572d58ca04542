package ec2

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

const (
	// callsAtOnce is how many objects are made at the same time.
	callsAtOnce = 8
	// fresh is how old may be what was seen of a route that is deleted, and how long
	// deletes go on with what was wanted when they began.
	fresh = 500 * time.Millisecond
	// fullPause is how long a table is not tried again in which there was no room: only
	// people make some.
	fullPause = 5 * time.Minute
)

// step makes one object as wanted.
type step struct {
	call func(context.Context) error // nil if EC2 need not be asked
	done func(error) error           // takes the outcome of the call, and returns that of the step
}

// Apply implements dataplane.Dataplane. What is made is made at the same time: READY waits
// for it.
func (t *Dataplane) Apply(ctx context.Context, ops []state.Op) []error {
	errs := make([]error, len(ops))
	steps := make([]step, len(ops))
	var calls errgroup.Group
	called := 0
	for i, op := range ops {
		if op.Verb == state.Delete {
			continue
		}
		steps[i], errs[i] = t.step(op)
		switch call := steps[i].call; {
		case call == nil:
		case called == callsAtOnce: // the next pass knows what is wanted by then
			steps[i] = step{}
			errs[i] = dataplane.Later{Err: dataplane.ErrSettling, After: 1, Pending: true}
		default:
			called++
			calls.Go(func() error {
				errs[i] = call(ctx)
				return nil
			})
		}
	}
	_ = calls.Wait()
	for i, s := range steps {
		if s.call != nil {
			errs[i] = t.spaced(s.done(errs[i]))
		}
	}
	t.delete(ctx, ops, errs)
	return errs
}

// step returns what is to be done to make an object as wanted.
func (t *Dataplane) step(op state.Op) (step, error) {
	k := op.Key()
	host := k.Prefix.Addr()
	r, isRoute := op.Want.(state.CloudRoute)
	if isRoute {
		if host = r.Host; !host.IsValid() {
			return step{}, t.watchOver(k)
		}
	}
	if err := t.putOff(); err != nil {
		return step{}, err
	}
	if t.session == nil {
		return step{}, dataplane.Later{Err: t.why, Pending: true}
	}
	if err := t.self.lacks(host); err != nil {
		return step{}, dataplane.Later{Err: err, Untried: true}
	}
	tab := t.table(k)
	if isRoute && tab == nil {
		return step{}, t.notKnown(k)
	}
	if r := (*refusal)(nil); errors.As(t.why, &r) && r.code == "" {
		return step{}, dataplane.Later{Err: r, Untried: true} // nor would this have an answer
	}
	n := t.self.interfaces[host]
	if !isRoute {
		return t.uncheck(host, n), nil
	}
	is, there := tab.routes[k.Prefix]
	if is.leadsTo(n) {
		return step{}, nil
	}
	if full := t.full[room{t.name(k), familyOf(k)}]; full != nil && time.Until(full.until) > 0 && !there {
		return step{}, dataplane.Later{Err: full, Untried: true}
	}
	own := t.own[k]
	if own == nil {
		return step{}, dataplane.ErrSettling // the next dump takes it
	}
	if err := own.conflict(is.nic + is.other); err != nil {
		return step{}, err
	}
	return t.put(tab, k, n, there), nil
}

// watchOver begins to watch over the route of another host, or reports that it is
// missing.
func (t *Dataplane) watchOver(k state.Key) error {
	if _, known := t.peers[k]; !known {
		t.peers[k] = time.Time{}
	}
	if !t.absent(k) {
		return nil
	}
	return fmt.Errorf("for %s there has been no route that leads anywhere: the host with the lease is to keep it, and what its daemon says tells why not", absentFor)
}

// notKnown is the error of a step in a table that was not seen. It does not wrap the reason,
// which is no answer to this step: the next look may bring the table.
func (t *Dataplane) notKnown(k state.Key) error {
	lack := t.lacks[t.name(k)]
	if lack == nil {
		lack = t.why
	}
	return dataplane.Later{Err: fmt.Errorf("%s is not known: %s", state.CloudTableName(k.Scope), lack.Error()), Untried: true}
}

// uncheck has the network interface with an address pass packets of others.
func (t *Dataplane) uncheck(addr netip.Addr, n nic) step {
	s, known := t.session, t.passes[addr] != nil
	var passes bool
	var checkErr error
	return step{
		call: func(ctx context.Context) error {
			if !known {
				if passes, checkErr = s.passes(ctx, n.id); passes {
					return nil
				}
			}
			return s.do(ctx, "ModifyNetworkInterfaceAttribute", n.id, func(ctx context.Context) error {
				_, err := s.ec2.ModifyNetworkInterfaceAttribute(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
					NetworkInterfaceId: &n.id, SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)},
				})
				return err
			})
		},
		done: func(err error) error {
			if err == nil {
				t.sawPass(addr, true, nil)
				return nil
			}
			if !known {
				t.sawPass(addr, false, checkErr)
			}
			return fmt.Errorf("EC2 drops what pods of this host send and get, while its source/destination check is on: %w", err)
		},
	}
}

// put leads a destination to a network interface, in one call if the table is as it
// was seen.
func (t *Dataplane) put(tab *table, k state.Key, n nic, there bool) step {
	s, dst := t.session, k.Prefix
	return step{
		call: func(ctx context.Context) error {
			err := s.put(ctx, tab.id, dst, n.id, there)
			switch {
			case !there && codeOf(err) == "RouteAlreadyExists":
				klog.V(1).Infof("route table %s has a route to %s that was not seen", tab.id, dst)
				err = s.put(ctx, tab.id, dst, n.id, true)
			case there && isNoRoute(err):
				err = s.put(ctx, tab.id, dst, n.id, false)
			}
			switch codeOf(err) {
			case "RouteLimitExceeded":
				return s.isFull(ctx, tab, familyOf(k), err)
			case "InvalidParameterValue":
				return tab.isWithin(dst, err)
			}
			return err
		},
		done: func(err error) error {
			var f *full
			switch {
			case err == nil:
				t.wrote(tab, k, &route{nic: n.id})
				t.own[k].put()
			case errors.As(err, &f):
				t.full[room{t.name(k), familyOf(k)}] = f
			case codeOf(err) == "InvalidNetworkInterfaceID.NotFound":
				t.anew = true // another one has its address by now
				t.lookIn(again)
			}
			return err
		},
	}
}

func (s *session) put(ctx context.Context, table string, dst netip.Prefix, nic string, replace bool) error {
	four, six := destination(dst)
	if replace {
		return s.do(ctx, "ReplaceRoute", table, func(ctx context.Context) error {
			_, err := s.ec2.ReplaceRoute(ctx, &ec2.ReplaceRouteInput{RouteTableId: &table, DestinationCidrBlock: four, DestinationIpv6CidrBlock: six, NetworkInterfaceId: &nic})
			return err
		})
	}
	return s.do(ctx, "CreateRoute", table, func(ctx context.Context) error {
		_, err := s.ec2.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: four, DestinationIpv6CidrBlock: six, NetworkInterfaceId: &nic})
		return err
	})
}

// destination is the parameter for a destination, of which EC2 has one for each family.
func destination(dst netip.Prefix) (four, six *string) {
	if text := dst.String(); dst.Addr().Is4() {
		four = &text
	} else {
		six = &text
	}
	return four, six
}

// room is that for the routes of a family in a table: EC2 limits each.
type room struct {
	table  string // its name
	family ip.Family
}

// full is a table in which there is no room.
type full struct {
	error
	family ip.Family
	size   int // as of a table
	until  time.Time
}

func (f *full) Unwrap() error { return f.error }

func (f *full) Error() string {
	return fmt.Sprintf(`%s; the table has %d routes of %s, which is its limit: have the quota "Routes per route table" raised, or routes removed that nobody needs`, f.error, f.size, f.family)
}

// isFull counts the routes of a table that is full: others may have written since the
// last look.
func (s *session) isFull(ctx context.Context, tab *table, f ip.Family, err error) error {
	if now, _ := s.byID(ctx, tab.id); len(now) > 0 {
		tab = now[0]
	}
	return &full{err, f, tab.size[f], time.Now().Add(fullPause - rand.N(fullPause/4))}
}

// isWithin adds to an error that the destination is within an address range of the VPC, if so.
func (tab *table) isWithin(dst netip.Prefix, err error) error {
	for is, r := range tab.routes {
		if r.fixed && is.Bits() <= dst.Bits() && is.Contains(dst.Addr()) {
			key := "Network"
			if !dst.Addr().Is4() {
				key = "IPv6Network"
			}
			return fmt.Errorf("%w; %s is an address range of the VPC: choose another %s", err, is, key)
		}
	}
	return err
}

// isNoRoute reports whether EC2 says that a route is not there.
func isNoRoute(err error) bool {
	r := (*refusal)(nil)
	return errors.As(err, &r) && (r.code == "InvalidRoute.NotFound" ||
		r.code == "InvalidParameterValue" && strings.Contains(r.message, "no route defined"))
}

// errSeenAnew is why a route is not deleted that was looked at for it: that may have taken
// long, and the next pass, which is at once, knows whose leases there are by now.
var errSeenAnew = dataplane.Later{Err: dataplane.ErrSettling, After: 1, Untried: true}

// delete takes away routes that lead here or nowhere, and that nobody wants. Somebody may
// by now: so each was just seen, and those that are not done soon wait for the next pass,
// which knows the leases.
func (t *Dataplane) delete(ctx context.Context, ops []state.Op, errs []error) {
	looks := t.looks
	var begin time.Time
	var stop error
	for i, op := range ops {
		k := op.Key()
		switch {
		case op.Verb != state.Delete || k.Kind != state.KindCloudRoute:
		case op.Have == state.Object(state.CloudRoute{Table: k.Scope, Dst: k.Prefix}):
			delete(t.peers, k) // nobody watches over it any more
		case t.session == nil:
			errs[i] = dataplane.Later{Err: t.why, Pending: true}
		case stop != nil:
			errs[i] = stop // so would this one be
		case !begin.IsZero() && time.Since(begin) > fresh:
			errs[i] = dataplane.ErrSettling
		default:
			if begin.IsZero() {
				begin = time.Now()
			}
			errs[i] = t.spaced(t.remove(ctx, k, looks))
			if isThrottled(errs[i]) || codeOf(errs[i]) == denied || unanswered(errs[i]) || errors.Is(errs[i], errSeenAnew) {
				stop = errs[i]
			}
		}
	}
}

// remove deletes a route that is gone already for all that its packets can tell. looks is how
// many looks there were when its step was decided on. If the answer is lost, that is not tried
// again: by then it may be the route of a new lease.
func (t *Dataplane) remove(ctx context.Context, k state.Key, looks int) error {
	if tab := t.table(k); tab != nil && time.Since(tab.seen) > fresh {
		t.look(ctx)
	}
	tab := t.table(k)
	if tab == nil {
		return nil // nor is it seen by the next pass
	}
	r, there := tab.routes[k.Prefix]
	if !there {
		return nil
	}
	if _, live := t.peers[k]; live || time.Since(tab.seen) > fresh || t.entry(k, r).Owner != state.Ours {
		return dataplane.ErrSettling // it has a lease, the look failed, or has shown something else
	}
	if t.looks != looks {
		return errSeenAnew
	}
	s := t.session
	four, six := destination(k.Prefix)
	err := s.do(ctx, "DeleteRoute", tab.id, func(ctx context.Context) error {
		_, err := s.ec2.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: &tab.id, DestinationCidrBlock: four, DestinationIpv6CidrBlock: six}, oneAttempt)
		return err
	})
	if err != nil && !isNoRoute(err) {
		return err
	}
	t.wrote(tab, k, nil)
	return nil
}

func oneAttempt(o *ec2.Options) { o.RetryMaxAttempts = 1 }

// wrote notes what a route is now, and has a look follow.
func (t *Dataplane) wrote(tab *table, k state.Key, is *route) {
	if is == nil {
		delete(tab.routes, k.Prefix)
	} else {
		tab.routes[k.Prefix] = *is
	}
	t.written[k] = write{route: is, until: time.Now().Add(settled)}
	t.lookIn(again)
}
