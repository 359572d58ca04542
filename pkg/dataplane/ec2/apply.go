package ec2

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

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// job is steps that are handed to the watch.
type job struct {
	ops    []state.Op
	answer chan []error    // one slot
	left   <-chan struct{} // closed if nobody waits for the answer any more
}

// Apply implements dataplane.Dataplane. It waits for EC2 no longer than the rest of the host
// can: what takes longer goes on, and an event tells of its end.
func (t *Dataplane) Apply(ctx context.Context, ops []state.Op) []error {
	errs := make([]error, len(ops))
	j := job{answer: make(chan []error, 1)}
	var at []int // in ops, of each step of the job
	for i, op := range ops {
		var done bool
		if done, errs[i] = t.answered(op); !done {
			j.ops, at = append(j.ops, op), append(at, i)
		}
	}
	if len(j.ops) == 0 {
		return errs
	}
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	j.left = ctx.Done()
	var answer []error
	select {
	case t.jobs <- j:
		select {
		case answer = <-j.answer:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	if answer == nil {
		answer = t.lastAnswers(j.ops)
	}
	for i, err := range answer {
		errs[at[i]] = err
	}
	return errs
}

// errBusy is why a step has no outcome.
var errBusy = pending{errors.New("EC2 has not answered yet")}

// lastAnswers are the outcomes of steps when they were last tried: that they are being
// tried again, or that their table is being looked for again, is no news.
func (t *Dataplane) lastAnswers(ops []state.Op) []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	errs := slices.Repeat([]error{errBusy}, len(ops))
	for i, op := range ops {
		k := op.Key()
		if h := t.lastHold(op); h != nil {
			errs[i] = h.err
		} else if lack := t.lacks[k.Scope]; k.Kind == state.KindCloudRoute && lack != nil && t.tables[k.Scope] == nil {
			errs[i] = notKnown(k.Scope, lack)
		}
	}
	return errs
}

// answered returns the outcome of a step if that is known without asking EC2.
func (t *Dataplane) answered(op state.Op) (done bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := op.Key()
	if k.Kind == state.KindCloudPeer {
		return true, t.watchOver(op)
	}
	switch {
	case t.first != nil && time.Until(t.due) > 0:
		return true, errTurn
	case t.self == nil:
		return true, blind(t.why)
	case t.first != nil:
		return true, errBusy
	}
	if h := t.held(op); h != nil {
		return true, h.err
	}
	if op.Verb != state.Delete && t.inQueue() {
		return true, errTurn
	}
	return false, nil
}

// pending is a dataplane.ErrPending that says more.
type pending struct{ error }

// Is implements the interface that errors.Is asks for.
func (pending) Is(err error) bool { return err == dataplane.ErrPending }

func (p pending) Unwrap() error { return p.error }

// blind is the error of a step while it is not known which instance this is.
func blind(why error) error {
	if why == nil {
		why = errors.New("the instance metadata service (IMDS) has not answered yet")
	}
	return pending{why}
}

// run takes the steps, until nobody waits for how they go. It reports that: it is time
// for a look, and for steps that are of use by now.
func (j job) run(ctx context.Context, t *Dataplane) (unheard bool) {
	errs := slices.Repeat([]error{errBusy}, len(j.ops))
	for i, op := range j.ops {
		t.mu.Lock()
		h := t.held(op) // by one before it
		t.mu.Unlock()
		switch {
		case i > 0 && unanswered(errs[i-1]):
			errs[i] = errs[i-1] // so would this one be
		case h != nil:
			errs[i] = h.err
			continue
		case j.isLeft():
			continue
		default:
			errs[i] = t.step(ctx, op)
		}
		if ctx.Err() != nil {
			return false
		}
		t.mu.Lock()
		t.note(op, errs[i])
		t.mu.Unlock()
	}
	j.answer <- errs
	return j.isLeft()
}

// isLeft reports whether nobody waits for the answer any more.
func (j job) isLeft() bool {
	select {
	case <-j.left:
		return true
	default:
		return false
	}
}

// errChanged is why a step is not taken: what was wanted, or seen, when it was decided on
// has changed.
var errChanged = errors.New("it is not as it was any more")

// outdated reports whether a step is none that would be decided on now. The caller holds
// t.mu.
func (t *Dataplane) outdated(op state.Op) bool {
	k := op.Key()
	switch {
	case k.Kind == state.KindCloudInterface:
		return op.Verb != state.Delete && op.Want.(state.CloudInterface).Host != t.host
	case op.Verb != state.Delete:
		return !t.want[k]
	}
	if _, live := t.peers[state.CloudPeerKey(k.Scope, k.Prefix)]; live || t.want[k] {
		return true
	}
	if tab := t.tables[k.Scope]; tab != nil {
		r, there := tab.routes[k.Prefix]
		return there && t.entry(k, r).Owner != state.Ours
	}
	return false
}

// full is a table in which there is no room.
type full struct {
	error
	size int // as of a table
}

func (f *full) Unwrap() error { return f.error }

func (f *full) Error() string {
	return fmt.Sprintf(`%s; the table has %d routes, which is its limit: have the quota "Routes per route table" raised, or routes removed that nobody needs`, f.error, f.size)
}

func (t *Dataplane) step(ctx context.Context, op state.Op) error {
	k := op.Key()
	t.mu.Lock()
	self, why, tab, lack := t.self, t.why, t.tables[k.Scope], t.lacks[k.Scope]
	outdated := t.outdated(op)
	t.mu.Unlock()
	if t.session == nil {
		return blind(why)
	}
	if outdated {
		return errChanged
	}
	switch k.Kind {
	case state.KindCloudInterface:
		if op.Verb == state.Delete {
			return nil
		}
		return t.uncheck(ctx, self.interfaces[op.Want.(state.CloudInterface).Host].id)
	case state.KindCloudRoute:
	default:
		return fmt.Errorf("a VPC has no %s", k.Kind)
	}
	if tab == nil {
		if lack == nil {
			lack = errBusy
		}
		return notKnown(k.Scope, lack)
	}
	if op.Verb == state.Delete {
		if _, there := tab.routes[k.Prefix]; !there {
			return nil
		}
		return t.remove(ctx, tab, k)
	}
	n, ok := self.interfaces[op.Want.(state.CloudRoute).Host]
	if !ok {
		return pending{fmt.Errorf("no network interface of %s has the address", self.instance)}
	}
	return t.put(ctx, tab, k, n)
}

// notKnown is the error of a step in a table that was not seen. It does not wrap the reason,
// which is no answer to this step: the next look may bring the table.
func notKnown(name string, lack error) error {
	return fmt.Errorf("%s is not known: %s", state.CloudTableName(name), lack.Error())
}

// uncheck has a network interface pass packets of others.
func (t *Dataplane) uncheck(ctx context.Context, id string) error {
	if id == "" {
		return pending{errors.New("no network interface of this instance has the address")}
	}
	t.mu.Lock()
	known := t.passes != nil
	t.mu.Unlock()
	if !known {
		if passes, err := t.checkPasses(ctx, id); err == nil && passes {
			return nil
		}
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
	t.sawPass(id, true)
	return nil
}

// put leads a destination to a network interface, in one call if the table is as it
// was seen.
func (t *Dataplane) put(ctx context.Context, tab *table, k state.Key, n nic) error {
	t.mu.Lock()
	is, there := tab.routes[k.Prefix]
	err := t.kept[k].contested(is.nic + is.other)
	t.mu.Unlock()
	if is.leadsTo(n.id) {
		return nil
	}
	if err != nil {
		return err
	}
	dst := k.Prefix.String()
	err = t.session.put(ctx, tab.id, dst, n.id, there)
	switch {
	case !there && codeOf(err) == "RouteAlreadyExists":
		klog.V(1).Infof("route table %s has a route to %s that was not seen", tab.id, dst)
		err = t.session.put(ctx, tab.id, dst, n.id, true)
	case there && isNoRoute(err):
		err = t.session.put(ctx, tab.id, dst, n.id, false)
	}
	if codeOf(err) == "RouteLimitExceeded" {
		return t.isFull(ctx, tab, k.Scope, n, err)
	}
	if codeOf(err) == "InvalidNetworkInterfaceID.NotFound" {
		t.mu.Lock()
		t.anew = true // another one has its address by now
		t.soon(again)
		t.mu.Unlock()
	}
	if err != nil {
		return err
	}
	t.wrote(tab, k, &route{nic: n.id})
	return nil
}

// isFull counts the routes of a table that is full: others may have written since the
// last look.
func (t *Dataplane) isFull(ctx context.Context, tab *table, name string, n nic, err error) error {
	if now, _ := t.session.tables(ctx, []string{name}, n, false); now[name] != nil {
		tab = now[name]
	}
	return &full{err, tab.size}
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

// remove deletes a route that is gone already for all that its packets can tell. If the
// answer is lost, that is not tried again: by then it may be the route of a new lease.
func (t *Dataplane) remove(ctx context.Context, tab *table, k state.Key) error {
	s, dst := t.session, k.Prefix.String()
	err := s.do(ctx, "DeleteRoute", tab.id, func(ctx context.Context) error {
		_, err := s.ec2.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: &tab.id, DestinationCidrBlock: &dst}, once)
		return err
	})
	if err != nil && !isNoRoute(err) {
		return err
	}
	t.wrote(tab, k, nil)
	return nil
}

func once(o *ec2.Options) { o.RetryMaxAttempts = 1 }

// wrote notes what a route is now, and has a look follow.
func (t *Dataplane) wrote(tab *table, k state.Key, is *route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if is == nil {
		delete(tab.routes, k.Prefix)
	} else {
		tab.routes[k.Prefix] = *is
		t.regained(k)
	}
	t.written[k] = write{route: is, until: time.Now().Add(settled)}
	t.soon(again)
}

// watchOver begins to watch over the route of another host, or tells that it is
// missing. The caller holds t.mu.
func (t *Dataplane) watchOver(op state.Op) error {
	k := op.Key()
	if op.Verb == state.Delete {
		delete(t.peers, k)
		return nil
	}
	since, known := t.peers[k]
	if !known {
		t.peers[k] = time.Time{}
	}
	if since.IsZero() || !t.missing(k) {
		return nil
	}
	return fmt.Errorf("for %s there has been no route that leads anywhere: the host with the lease is to keep it, and what its daemon says tells why not", absentFor)
}
