package fakeaws_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"flanneld/pkg/lab/fakeaws"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// A Describe action shows a write only after the lag. Writes see it at once.
func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFixture(t, fakeaws.Options{})
		w.SetLag(3 * time.Second)
		ctx, c := t.Context(), w.client()
		nic := w.a.Interface().ID
		time.Sleep(time.Minute)
		check(t, createRoute(ctx, c, w.table, "10.1.5.0/24", nic))
		wantRoutes(t, c, w.table)
		wantError(t, createRoute(ctx, c, w.table, "10.1.5.0/24", nic), "RouteAlreadyExists", "")
		time.Sleep(2 * time.Second)
		check(t, createRoute(ctx, c, w.table, "10.1.6.0/24", nic))
		wantRoutes(t, c, w.table)
		time.Sleep(time.Second)
		wantRoutes(t, c, w.table, "10.1.5.0/24 "+nic+" active CreateRoute")
		time.Sleep(2 * time.Second)
		wantRoutes(t, c, w.table, "10.1.5.0/24 "+nic+" active CreateRoute", "10.1.6.0/24 "+nic+" active CreateRoute")
	})
}

// Instances and interfaces lag as routes do, and so do the routes to them.
func TestLagOfInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFixture(t, fakeaws.Options{})
		w.SetLag(3 * time.Second)
		ctx, c := t.Context(), w.client()
		nic := w.a.Interface()
		check(t, w.table.CreateRoute("10.1.5.0/24", nic.ID))
		time.Sleep(time.Minute)
		shown := func() []string {
			t.Helper()
			var list []string
			instances, err := c.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
			check(t, err)
			for _, r := range instances.Reservations {
				list = append(list, *r.Instances[0].InstanceId+" "+string(r.Instances[0].State.Name))
			}
			interfaces, err := c.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{
				Filters: []types.Filter{filter("attachment.status", "attached")},
			})
			check(t, err)
			for _, n := range interfaces.NetworkInterfaces {
				list = append(list, *n.NetworkInterfaceId)
			}
			return append(list, describeRoutes(t, c, w.table)...)
		}
		before := shown()
		next := must(w.a.Replace())(t)
		time.Sleep(2 * time.Second)
		if got := shown(); !slices.Equal(got, before) {
			t.Errorf("after 2 s there is %q, before there was %q", got, before)
		}
		time.Sleep(time.Second)
		want := []string{
			w.a.ID + " terminated", w.b.ID + " running", next.ID + " running",
			w.b.Interface().ID, next.Interface().ID,
			"10.0.0.0/16 local active CreateRouteTable", "10.1.5.0/24 " + nic.ID + " blackhole CreateRoute",
		}
		if got := shown(); !slices.Equal(got, want) {
			t.Errorf("after 3 s there is %q, want %q", got, want)
		}
	})
}

// Of two copies of the data one is late: a route comes and goes until both have it.
func TestLagOfCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFixture(t, fakeaws.Options{})
		w.SetLag(0, 5*time.Second)
		ctx, c := t.Context(), w.client()
		time.Sleep(time.Minute)
		check(t, createRoute(ctx, c, w.table, "10.1.5.0/24", w.a.Interface().ID))
		counts := func() (n [4]int) {
			for i := range n {
				n[i] = len(describeRoutes(t, c, w.table))
			}
			return n
		}
		if n := counts(); n != [4]int{1, 2, 1, 2} && n != [4]int{2, 1, 2, 1} {
			t.Errorf("there are %d routes", n)
		}
		time.Sleep(5 * time.Second)
		if n := counts(); n != [4]int{2, 2, 2, 2} {
			t.Errorf("there are %d routes", n)
		}
	})
}

// A client that gets no good answer tries again, and finds what it has done.
func TestLostAnswers(t *testing.T) {
	w := newFixture(t, fakeaws.Options{})
	w.LoseAnswers("CreateRoute", 1)
	w.LoseAnswers("DeleteRoute", 1)
	ctx := t.Context()
	c := w.client(func(o *ec2.Options) {
		o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond })
	})
	wantError(t, createRoute(ctx, c, w.table, "10.1.5.0/24", w.a.Interface().ID), "RouteAlreadyExists", "")
	wantRoutes(t, c, w.table, "10.1.5.0/24 "+w.a.Interface().ID+" active CreateRoute")
	wantError(t, deleteRoute(ctx, c, w.table, "10.1.5.0/24"), "InvalidRoute.NotFound", "")
	var codes []string
	for _, call := range w.Calls("CreateRoute", "DeleteRoute") {
		codes = append(codes, call.Code)
	}
	if want := []string{"InternalError", "RouteAlreadyExists", "InternalError", "InvalidRoute.NotFound"}; !slices.Equal(codes, want) {
		t.Errorf("calls with the codes %q", codes)
	}
	check(t, createRoute(ctx, c, w.table, "10.1.5.0/24", w.a.Interface().ID))
}
