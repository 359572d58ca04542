package fakeaws

import (
	"crypto/rand"
	"net/url"
	"slices"
	"time"
)

// denial is an action that nobody may do to a resource, or at all.
type denial struct {
	action   string
	resource string // an ID; empty for any
}

// Deny takes away the permission for an action such as CreateRoute, on the
// resources with these IDs or, if there are none, on all.
func (c *Cloud) Deny(action string, resources ...string) { c.setDenied(action, resources, true) }

// Allow gives back what Deny took with the same arguments.
func (c *Cloud) Allow(action string, resources ...string) { c.setDenied(action, resources, false) }

func (c *Cloud) setDenied(action string, resources []string, denied bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(resources) == 0 {
		resources = []string{""}
	}
	for _, r := range resources {
		c.denials[denial{action, r}] = denied
	}
}

// authorize checks that the caller may do this. As in EC2, a Describe action
// can be denied only as a whole.
func (c *Cloud) authorize(who, action string, class Class, form url.Values) error {
	kind, id := resource(form)
	if class != Mutating {
		kind, id = "", ""
	}
	if !c.denials[denial{action, ""}] && (id == "" || !c.denials[denial{action, id}]) {
		return nil
	}
	on, encoded := "", ""
	if id != "" {
		on = " on resource: " + c.arn(kind, id)
	}
	if class == Mutating { // no message is like another one, as it is encrypted
		encoded = ". Encoded authorization failure message: " + rand.Text() + rand.Text() + rand.Text()
	}
	return errorf("UnauthorizedOperation", "You are not authorized to perform this operation. User: %s is not "+
		"authorized to perform: ec2:%s%s because no identity-based policy allows the ec2:%s action%s",
		who, action, on, action, encoded)
}

// resource is what a request wants to change.
func resource(form url.Values) (kind, id string) {
	for _, r := range []struct{ parameter, kind string }{
		{"RouteTableId", "route-table"},
		{"NetworkInterfaceId", "network-interface"},
		{"InstanceId", "instance"},
	} {
		if id := form.Get(r.parameter); id != "" {
			return r.kind, id
		}
	}
	return "", ""
}

// Call is a request that came to the EC2 endpoint.
type Call struct {
	Time        time.Time
	Action      string
	Form        url.Values
	AccessKeyID string // empty if the request was not signed
	// Code is that of the error it was answered with, empty if it succeeded.
	Code string
}

// Calls lists the requests so far, of the actions given or of all.
func (c *Cloud) Calls(actions ...string) []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	var calls []Call
	for _, call := range c.calls {
		if len(actions) == 0 || slices.Contains(actions, call.Action) {
			calls = append(calls, call)
		}
	}
	return calls
}

// ForgetCalls empties the list of calls.
func (c *Cloud) ForgetCalls() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = nil
}
