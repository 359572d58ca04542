package etcd

import (
	"context"
	"errors"
	"net/url"
	"slices"
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
		err := f.Do(t.Context(), test.write, func(k int) error {
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
	err := f.Do(ctx, false, func(int) error { <-ctx.Done(); return o.Explain(server, ctx.Err(), false) })
	if err != context.DeadlineExceeded || f.Current() != 1 {
		t.Errorf("an endpoint that hangs: %v, now at %d", err, f.Current())
	}
}
