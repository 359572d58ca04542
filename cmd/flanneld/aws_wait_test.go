package main_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab/fakeaws"
)

// cloudTime is for a daemon to see what happened in the cloud, which it asks about once a
// minute, and to do what is to be done then, for which it may wait another minute.
const cloudTime = 2*time.Minute + soon

// What somebody changed comes back with the next look, by one call for each route, also
// if meanwhile the credentials were revoked, or have ended. What is not ours stays.
func TestAWSHeals(t *testing.T) {
	t.Parallel()
	c := newCloudOf(t, etcdV2, dualStack)
	c.configure(c.both())
	revoked, ended := c.addInstance(c.first, "-v=9"), c.addInstance(c.second, "-v=9")
	revoked.start()
	revoked.waitReady()
	c.SetCredentialsLifetime(20 * time.Second)
	ended.start()
	c.connected()
	before := c.keysOfCallers()
	c.pause(15 * time.Second) // until no look is due because of a change

	c.instances[revoked].RevokeCredentials()
	foreign := []string{"10.5.250.0/24 to igw-00000000000000001", "10.77.0.0/16 to " + c.nic(ended).ID, "fd00:5:0:fa::/64 to igw-00000000000000001", "fd00:77::/48 to " + c.nic(ended).ID}
	for _, table := range []*fakeaws.RouteTable{c.main, c.other} {
		for _, r := range foreign {
			dst, to, _ := strings.Cut(r, " to ")
			check(t, table.CreateRoute(dst, to))
		}
	}
	var want []string
	second := ended.peer().views()
	for i, first := range revoked.peer().views() {
		a, b := first.subnet.String(), second[i].subnet.String()
		check(t, c.main.DeleteRoute(a))
		check(t, c.other.ReplaceRoute(a, c.nic(ended).ID))
		check(t, c.main.ReplaceRoute(b, "igw-00000000000000001"))
		check(t, c.other.DeleteRoute(b))
		want = append(want,
			fmt.Sprintf("CreateRoute of %s in %s", a, c.main.ID),
			fmt.Sprintf("ReplaceRoute of %s in %s", a, c.other.ID),
			fmt.Sprintf("ReplaceRoute of %s in %s", b, c.main.ID),
			fmt.Sprintf("CreateRoute of %s in %s", b, c.other.ID),
		)
	}
	c.noPing(revoked, ended)
	c.ForgetCalls()
	took := c.waitRoutes(cloudTime, c.main, c.nodes, foreign...) + c.waitRoutes(cloudTime, c.other, c.nodes, foreign...)
	t.Logf("right after %s", took)
	c.waitPing(revoked, ended)
	c.waitPing(ended, revoked)
	c.pause(5 * time.Second) // for what should not happen
	c.wantWrites(want...)
	for _, key := range c.keysOfCallers() {
		if slices.Contains(before, key) {
			t.Errorf("calls succeed with the access key %s, which was good for nothing any more", key)
		}
	}
	if !slices.ContainsFunc(c.Calls(), func(call fakeaws.Call) bool { return call.Code == "RequestExpired" }) {
		t.Error("nobody noticed that the credentials were revoked")
	}
}

// keysOfCallers lists the access keys of calls that were answered.
func (c *cloud) keysOfCallers() (keys []string) {
	for _, call := range c.Calls() {
		if call.Code == "" && !slices.Contains(keys, call.AccessKeyID) {
			keys = append(keys, call.AccessKeyID)
		}
	}
	return keys
}

// A table that is full is named, with how many routes it has, and is not asked again and
// again; other tables do not matter. When there is room the routes are made.
func TestAWSFullTable(t *testing.T) {
	t.Parallel()
	c := newCloud(t, etcdV3)
	c.configure(c.both())
	c.SetRouteLimit(6)
	h, peer := c.addInstance(c.first), c.addInstance(c.second)
	var foreign []string
	for i := range 5 {
		dst := fmt.Sprintf("10.77.%d.0/24", i)
		check(t, c.main.CreateRoute(dst, c.nic(h).ID))
		foreign = append(foreign, dst+" to "+c.nic(h).ID)
	}
	for _, h := range c.nodes {
		h.start()
		h.waitReady()
		h.waitLog("CreateRoute on " + c.main.ID + ": RouteLimitExceeded: ")
		h.waitLog("the table has 6 routes")
		h.addPod()
	}
	c.waitRoutes(soon, c.other, c.nodes)
	c.noPing(h, peer)
	c.pause(10 * time.Second)
	if calls := c.writes(); len(calls) != 2*3 {
		t.Errorf("the calls that change something are %q", calls)
	}
	for _, h := range c.nodes {
		if n := strings.Count(h.daemon.Log(), "RouteLimitExceeded"); n != 1 {
			t.Errorf("%s complains %d times", h.Name, n)
		}
	}
	check(t, c.main.DeleteRoute("10.77.0.0/24"))
	check(t, c.main.DeleteRoute("10.77.1.0/24"))
	t.Logf("right %s after there is room", c.waitRoutes(cloudTime, c.main, c.nodes, foreign[2:]...))
	c.connected()
}

// While most calls are refused because the account makes too many, little is said; then
// the routes are made, if they are not there yet.
func TestAWSThrottled(t *testing.T) {
	t.Parallel()
	c := newCloud(t, etcdV2)
	c.configure(c.both())
	for _, s := range []*fakeaws.Subnet{c.first, c.second, c.second} {
		c.addInstance(s)
	}
	for _, class := range []fakeaws.Class{fakeaws.Mutating, fakeaws.NonMutating} {
		c.SetLimit(class, fakeaws.Limit{Burst: 1, Refill: 0.1})
	}
	for _, h := range c.nodes {
		h.start()
	}
	c.pause(45 * time.Second)
	throttled, all := 0, len(c.Calls())
	for _, call := range c.Calls() {
		if call.Code == "RequestLimitExceeded" {
			throttled++
		}
	}
	t.Logf("%d of %d calls were throttled", throttled, all)
	if throttled < all*3/4 {
		t.Error("too few for this test")
	}
	c.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 10, Refill: 1})
	c.SetLimit(fakeaws.NonMutating, fakeaws.Limit{Burst: 10, Refill: 1})
	begin := time.Now()
	for _, h := range c.nodes {
		check(t, h.daemon.WaitReady(c.ctx))
	}
	c.waitRoutes(cloudTime, c.main, c.nodes)
	c.waitRoutes(cloudTime, c.other, c.nodes)
	c.wait(cloudTime, "the source/destination checks to be off", func() string {
		for _, h := range c.nodes {
			if c.nic(h).SourceDestCheck() {
				return h.Name + " is checked"
			}
		}
		return ""
	})
	t.Logf("right %s after that", time.Since(begin))
	c.connected()
	for _, h := range c.nodes {
		lines := strings.Count(h.daemon.Log(), "\n")
		t.Logf("%s: %d lines", h.Name, lines)
		if lines > 30 {
			t.Errorf("%s: %d lines are logged", h.Name, lines)
		}
	}
}

// Where nothing happens, a table is asked for once a minute at most, and nothing is
// changed.
func TestAWSSteadyState(t *testing.T) {
	t.Parallel()
	c := newConnected(t, etcdV3, 1, 1)
	c.pause(20 * time.Second) // for looks after what was changed
	c.ForgetCalls()
	c.pause(140 * time.Second)
	c.wantWrites()
	last := make(map[string]time.Time)
	var questions []url.Values
	for _, call := range c.Calls() {
		question := call.AccessKeyID + " " + call.Form.Encode()
		if then, asked := last[question]; asked && call.Time.Sub(then) < 59*time.Second {
			t.Errorf("%s was asked again after %s", question, call.Time.Sub(then))
		} else if !asked {
			questions = append(questions, call.Form)
		}
		last[question] = call.Time
	}
	if n := len(c.Calls("DescribeRouteTables")); n == 0 || n != len(c.Calls()) || len(questions) > 4 {
		t.Errorf("the calls are %v", c.Calls())
	}
	t.Logf("%d calls of two hosts about two tables in 140 s", len(c.Calls()))
}
