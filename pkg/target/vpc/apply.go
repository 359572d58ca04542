package vpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"k8s.io/klog/v2"

	"flanneld/pkg/state"
	"flanneld/pkg/target"
)

// The pauses before a step that EC2 refused is tried again: until then the answer is
// taken to be the same.
const (
	holdFirst = 2 * time.Second
	holdMost  = time.Minute
	// holdFull is for a table that is full: only people make room.
	holdFull = 5 * time.Minute
)

// hold is the last answer to a step that failed.
type hold struct {
	err    error
	until  time.Time
	pause  time.Duration
	routes int // that the table had when it was full; 0 if that is not why
}

// Apply implements target.Target.
func (t *Target) Apply(ctx context.Context, ops []state.Op) []error {
	errs := make([]error, len(ops))
	t.mu.Lock()
	self, why := t.self, t.why
	t.mu.Unlock()
	if self != nil {
		select {
		case t.looking <- struct{}{}:
			defer func() { <-t.looking }()
		case <-ctx.Done():
			return slices.Repeat([]error{ctx.Err()}, len(ops))
		}
	}
	for i, op := range ops {
		if op.Key().Kind == state.KindCloudPeer {
			errs[i] = t.watchOver(op)
			continue
		}
		if self == nil {
			errs[i] = blind(why)
			continue
		}
		errs[i] = t.held(op.Key(), func() error { return t.apply(ctx, op) })
	}
	return errs
}

// blind is the error of a step while it is not known which instance this is: nothing
// is ready before that.
func blind(why error) error {
	if why == nil {
		why = errors.New("the instance metadata service (IMDS) has not answered yet")
	}
	return fmt.Errorf("%w: %w", target.ErrNoLink, why)
}

// held takes a step unless it was refused a moment ago.
func (t *Target) held(k state.Key, step func() error) error {
	t.mu.Lock()
	before := t.holds[k]
	t.mu.Unlock()
	if before != nil && time.Now().Before(before.until) {
		return before.err
	}
	err := step()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.holds, k)
	if codeOf(err) == "" {
		return err // no answer of EC2, or none needed
	}
	h := &hold{err: err, pause: holdFirst}
	if before != nil {
		h.pause = min(2*before.pause, holdMost)
	}
	if f := (*full)(nil); errors.As(err, &f) {
		h.pause, h.routes = holdFull, f.routes
	}
	h.until = time.Now().Add(jitter(h.pause))
	t.holds[k] = h
	return err
}

// full is a table in which there is no room.
type full struct {
	error
	routes int
}

func (f *full) Unwrap() error { return f.error }

func (f *full) Error() string {
	return fmt.Sprintf("%s; the table has %d routes: have its quota raised, or routes removed that nobody needs", f.error, f.routes)
}

func (t *Target) apply(ctx context.Context, op state.Op) error {
	t.mu.Lock()
	self, why := t.self, t.why
	tab := t.tables[op.Key().Dev]
	t.mu.Unlock()
	if t.session == nil {
		return blind(why)
	}
	switch op.Key().Kind {
	case state.KindCloudInterface:
		if op.Verb == state.Delete {
			return nil
		}
		return t.uncheck(ctx, self.interfaces[op.Want.(state.CloudInterface).Host].id)
	case state.KindCloudRoute:
	default:
		return fmt.Errorf("a VPC has no %s", op.Key().Kind)
	}
	if tab == nil {
		if why == nil {
			why = errors.New("it was not looked at yet")
		}
		return fmt.Errorf("%s is not known: %w", state.CloudTableName(op.Key().Dev), why)
	}
	if op.Verb == state.Delete {
		return t.remove(ctx, tab, op.Key())
	}
	n, ok := self.interfaces[op.Want.(state.CloudRoute).Host]
	if !ok {
		return fmt.Errorf("%w: no network interface of %s has the address", target.ErrNoLink, self.instance)
	}
	return t.put(ctx, tab, op.Key(), n.id)
}

// uncheck has a network interface pass packets of others.
func (t *Target) uncheck(ctx context.Context, id string) error {
	if id == "" {
		return fmt.Errorf("%w: no network interface of this instance has the address", target.ErrNoLink)
	}
	s := t.session
	err := s.do(ctx, "ModifyNetworkInterfaceAttribute", id, func(ctx context.Context) error {
		_, err := s.ec2.ModifyNetworkInterfaceAttribute(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
			NetworkInterfaceId: &id, SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("EC2 drops what pods of this host send and get, while its source/destination check is on: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.passes = aws.Bool(true)
	return nil
}

// put leads a destination to a network interface, in one call if the table is as it
// was seen.
func (t *Target) put(ctx context.Context, tab *table, k state.Key, nic string) error {
	t.mu.Lock()
	is, there := tab.routes[k.Dst]
	routes := len(tab.routes)
	t.mu.Unlock()
	if there && is.nic == nic && !is.blackhole {
		return nil
	}
	dst := k.Dst.String()
	err := t.session.put(ctx, tab.id, dst, nic, there)
	switch {
	case !there && codeOf(err) == "RouteAlreadyExists":
		klog.V(1).Infof("route table %s has a route to %s that was not seen", tab.id, dst)
		err = t.session.put(ctx, tab.id, dst, nic, true)
	case there && isNoRoute(err):
		err = t.session.put(ctx, tab.id, dst, nic, false)
	}
	if codeOf(err) == "RouteLimitExceeded" {
		return &full{err, routes}
	}
	if err != nil {
		return err
	}
	t.wrote(tab, k, &route{nic: nic})
	return nil
}

// isNoRoute reports whether EC2 says that a route is not there.
func isNoRoute(err error) bool {
	r := (*refusal)(nil)
	return errors.As(err, &r) && (r.code == "InvalidRoute.NotFound" ||
		r.code == "InvalidParameterValue" && strings.Contains(r.message, "no route defined"))
}

func (s *session) put(ctx context.Context, table, dst, nic string, replace bool) error {
	if replace {
		return s.do(ctx, "ReplaceRoute", table, func(ctx context.Context) error {
			_, err := s.ec2.ReplaceRoute(ctx, &ec2.ReplaceRouteInput{RouteTableId: &table, DestinationCidrBlock: &dst, NetworkInterfaceId: &nic})
			return err
		})
	}
	return s.do(ctx, "CreateRoute", table, func(ctx context.Context) error {
		_, err := s.ec2.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: &table, DestinationCidrBlock: &dst, NetworkInterfaceId: &nic})
		return err
	})
}

// remove deletes a route that is gone already for all that its packets can tell.
func (t *Target) remove(ctx context.Context, tab *table, k state.Key) error {
	s, dst := t.session, k.Dst.String()
	err := s.do(ctx, "DeleteRoute", tab.id, func(ctx context.Context) error {
		_, err := s.ec2.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: &tab.id, DestinationCidrBlock: &dst})
		return err
	})
	if err != nil && !isNoRoute(err) {
		return err
	}
	t.wrote(tab, k, nil)
	return nil
}

// wrote notes what a route is now, and has a look follow.
func (t *Target) wrote(tab *table, k state.Key, is *route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if is == nil {
		delete(tab.routes, k.Dst)
	} else {
		tab.routes[k.Dst] = *is
	}
	t.written[k] = write{route: is, until: time.Now().Add(settled)}
	t.soon(again)
}

// watchOver begins to watch over the route of another host, or tells that it is
// missing.
func (t *Target) watchOver(op state.Op) error {
	k := op.Key()
	t.mu.Lock()
	defer t.mu.Unlock()
	if op.Verb == state.Delete {
		delete(t.peers, k)
		return nil
	}
	since, known := t.peers[k]
	if !known {
		t.peers[k] = time.Time{}
	}
	if since.IsZero() || time.Since(since) < absentFor || !t.missing(k) {
		return nil
	}
	return fmt.Errorf("for %s there has been no route that leads anywhere: the host with the lease is to keep it, and what its daemon says tells why not", absentFor)
}
