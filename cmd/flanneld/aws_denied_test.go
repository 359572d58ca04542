package main_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"flanneld/pkg/lab/fakeaws"
)

// denied is a permission that is missing while something is to be put right.
type denied struct {
	action string
	on     string // ID of the only thing that it is denied on; empty for all
	// harm is done to each table while the host's daemon does not run.
	harm  func(*fakeaws.RouteTable)
	apart bool // nobody reaches the host's pods meanwhile
	say   string
}

// Each permission of the policy that is missing is named, and takes away what needs it
// and nothing else. When it is there it is used, without a restart.
func TestAWSDenied(t *testing.T) {
	t.Parallel()
	c := newConnected(t, etcdV3, 1, 2)
	h, peer, third := c.nodes[0], c.nodes[1], c.nodes[2]
	subnet := h.subnet().String()
	withoutRoute := func(table *fakeaws.RouteTable) { check(t, table.DeleteRoute(subnet)) }
	checked := func(*fakeaws.RouteTable) { c.nic(h).SetSourceDestCheck(true) }
	cases := []denied{
		{action: "CreateRoute", harm: withoutRoute, apart: true},
		{action: "CreateRoute", on: c.main.ID, harm: withoutRoute, say: "CreateRoute on " + c.main.ID + ": "},
		{action: "DeleteRoute", harm: func(table *fakeaws.RouteTable) {
			gone := must(c.RunInstance(c.first, fakeaws.InstanceOptions{}))(t)
			check(t, table.CreateRoute("10.5.250.0/24", gone.Interface().ID))
			gone.Terminate()
		}},
		{action: "DescribeNetworkInterfaceAttribute", harm: checked}, // what can't be seen is set all the same
		{action: "DescribeRouteTables", harm: withoutRoute, apart: true},
		{
			action: "ModifyNetworkInterfaceAttribute", harm: checked, apart: true,
			say: "EC2 drops what pods of this host send and get, while its source/destination check is on: ModifyNetworkInterfaceAttribute on " + c.nic(h).ID,
		},
		{action: "ReplaceRoute", harm: func(table *fakeaws.RouteTable) { check(t, table.ReplaceRoute(subnet, c.nic(peer).ID)) }, apart: true},
	}
	for _, action := range policy(t) {
		if !slices.ContainsFunc(cases, func(d denied) bool { return d.action == action }) {
			t.Errorf("%s is in the policy, and never denied here", action)
		}
	}
	for _, d := range cases {
		t.Log(d.action, d.on)
		var resources []string
		if d.on != "" {
			resources = []string{d.on}
		}
		must(h.daemon.Stop(soon))(t)
		c.Deny(d.action, resources...)
		d.harm(c.main)
		d.harm(c.other)
		h.start()
		h.waitReady()
		h.waitLog("UnauthorizedOperation: the credentials lack the permission ec2:" + d.action)
		h.waitLog(d.say)
		c.waitPing(peer, third)
		if d.apart {
			c.noPing(peer, h)
			c.noPing(h, third)
		} else {
			c.waitPing(peer, h)
			c.waitPing(h, third)
		}
		if d.on != "" {
			c.waitRoutes(soon, c.other, c.nodes)
			c.waitRoutes(0, c.main, []*node{peer, third})
			if strings.Contains(h.daemon.Log(), d.action+" on "+c.other.ID) {
				t.Errorf("the table %s is complained of as well", c.other.ID)
			}
		}
		c.Allow(d.action, resources...)
		took := c.waitRoutes(3*soon, c.main, c.nodes) + c.waitRoutes(3*soon, c.other, c.nodes)
		c.waitPing(peer, h)
		c.waitPing(h, third)
		if strings.HasPrefix(d.action, "Describe") {
			check(t, h.daemon.WaitLog(c.ctx, "looking at the VPC succeeds again"))
		}
		t.Logf("right %s after it is allowed", took)
	}
}

// policy lists the actions that users are told to allow.
func policy(t *testing.T) (actions []string) {
	t.Helper()
	text := must(os.ReadFile("../../dist/aws/iam-policy.json"))(t)
	for _, match := range regexp.MustCompile(`"ec2:(\w+)"`).FindAllSubmatch(text, -1) {
		actions = append(actions, string(match[1]))
	}
	if len(actions) == 0 {
		t.Fatal("there is no action in the policy")
	}
	return actions
}
