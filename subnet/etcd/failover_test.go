package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFailover(t *testing.T) {
	var o Options
	server := Server{URL: &url.URL{Scheme: "http", Host: "h"}}
	answer := errors.New("an answer")
	for _, test := range []struct {
		name   string
		write  bool
		errs   []error // of each endpoint
		asked  []int
		want   error // nil: unavailable, if the last error is
		pinned int
	}{
		{"all is well", true, []error{nil, nil, nil}, []int{1}, nil, 1},
		{"an error is an answer", false, []error{nil, answer, nil}, []int{1}, answer, 1},
		{"the next one answers", false, []error{nil, o.Explain(server, answer, false), nil}, []int{1, 2}, nil, 2},
		{"a write is not sent twice", true, []error{nil, o.Explain(server, answer, false), nil}, []int{1}, answer, 2},
		{"unless it was not sent", true, []error{nil, o.Explain(server, answer, true), nil}, []int{1, 2}, nil, 2},
	} {
		var f Failover
		f.Start(3)
		f.Pin(1)
		var asked []int
		err := f.Do(t.Context(), test.write, func(_ context.Context, k int) error {
			asked = append(asked, k)
			return test.errs[k]
		})
		if !errors.Is(err, test.want) || !slices.Equal(asked, test.asked) || f.Current() != test.pinned {
			t.Errorf("%s: %v after asking %v, now at %d; want %v, %v, %d", test.name, err, asked, f.Current(), test.want, test.asked, test.pinned)
		}
	}

	var f Failover
	f.Start(2)
	f.Pin(0)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := f.Do(ctx, false, func(ctx context.Context, _ int) error { <-ctx.Done(); return o.Explain(server, ctx.Err(), false) })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "http://h: no answer within 5s") || f.Current() != 1 {
		t.Errorf("an endpoint that hangs: %v, now at %d", err, f.Current())
	}
}

// members is a Failover whose endpoints are of these clusters; "" is one that is down.
func members(clusters ...string) *Failover {
	f := &Failover{}
	f.Name = func(k int) string { return fmt.Sprint("endpoint ", k) }
	f.Cluster = func(_ context.Context, k int) (string, error) {
		if clusters[k] == "" {
			return "", &endpointError{name: "down"}
		}
		return clusters[k], nil
	}
	f.Start(len(clusters))
	return f
}

// All hosts use the same one of two clusters, whichever endpoint they begin with.
func TestEndpointsOfTwoClusters(t *testing.T) {
	for _, test := range []struct {
		clusters []string
		first    int
		want     int // the endpoint that is used; -1 for none
	}{
		{[]string{"a", "a", "a"}, 1, 1},
		{[]string{"a", "b"}, 1, 0},
		{[]string{"b", "a"}, 1, 0},
		{[]string{"a", "b", "b"}, 0, 1},
		{[]string{"a", "b", "b"}, 2, 2},
		{[]string{"", "b", "a"}, 2, 1},
		{[]string{"", "b", "a"}, 0, 1},
		{[]string{"", ""}, 0, -1},
		{[]string{"a"}, 0, 0},
	} {
		f := members(test.clusters...)
		f.Pin(test.first)
		used := -1
		err := f.Do(t.Context(), true, func(_ context.Context, k int) error { used = k; return nil })
		if used != test.want || (err == nil) != (used >= 0) {
			t.Errorf("%q from %d: used %d, %v; want %d", test.clusters, test.first, used, err, test.want)
		}
	}
}

// A cluster is kept to until it is replaced.
func TestClusterIsReplaced(t *testing.T) {
	clusters := []string{"a", "b", "a"}
	f := members(clusters...)
	down := errors.New("down")
	do := func(fails int) (used int, err error) {
		used = -1
		err = f.Do(t.Context(), false, func(_ context.Context, k int) error {
			if k == fails {
				return &endpointError{name: "down", cause: down}
			}
			used = k
			return nil
		})
		return used, err
	}
	f.Pin(0)
	if used, err := do(-1); used != 0 || err != nil {
		t.Fatalf("used %d, %v", used, err)
	}
	clusters[0], clusters[2] = "", ""
	if used, err := do(0); err == nil {
		t.Errorf("while all others are down, the endpoint %d of another cluster is used", used)
	}
	clusters[0], clusters[2] = "a", "a"
	if used, err := do(0); used != 2 || err != nil {
		t.Errorf("beside an endpoint of another cluster: used %d, %v", used, err)
	}
	clusters[0], clusters[2] = "c", "c"
	if used, err := do(2); used != 0 || err != nil {
		t.Errorf("after it was replaced: used %d, %v", used, err)
	}

	clusters = []string{"a", "a", "a"}
	f = members(clusters...)
	f.Pin(0)
	if used, err := do(-1); used != 0 || err != nil {
		t.Fatalf("used %d, %v", used, err)
	}
	clusters[0], clusters[1], clusters[2] = "", "b", "b"
	if used, err := do(0); used != 1 || err != nil {
		t.Errorf("after those were replaced that were not used: used %d, %v", used, err)
	}
}

// Where another endpoint is known, the command for a learner goes there.
func TestLearnerIsPromotedElsewhere(t *testing.T) {
	o := Options{Endpoints: []string{"http://h1:2379", "http://h2:2379"}}
	servers, err := o.Servers()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"h2", "h1"} {
		if advice := o.Learner(servers[i], "x").Advice; strings.Count(advice, "--endpoints=http://"+want+":2379 ") != 2 {
			t.Errorf("the advice is %s", advice)
		}
	}
}
