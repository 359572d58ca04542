package status

import (
	"fmt"
	"strings"
	"testing"
)

func TestLine(t *testing.T) {
	store := Problem{Component: ComponentStore, Text: "etcd cannot be used since 12:00:00"}
	missing := Problem{Component: ComponentDataplane, Text: "1 of 3 objects not in place"}
	obstacles := func(n int) []Problem {
		var all []Problem
		for i := range n {
			all = append(all, Problem{Component: ComponentPackets, Subject: fmt.Sprintf("10.5.%d.0/24", i), Text: "a rule is in the way", Remedy: "ip rule del"})
		}
		return all
	}
	for _, c := range []struct {
		problems []Problem
		want     string
	}{
		{nil, ""},
		{[]Problem{missing, store}, ", 1 of 3 objects not in place, etcd cannot be used since 12:00:00"},
		{append(append([]Problem{missing}, obstacles(2)...), store), ", 1 of 3 objects not in place, packets are kept from their way: " +
			"10.5.0.0/24: a rule is in the way; mend it by: ip rule del, 10.5.1.0/24: a rule is in the way; mend it by: ip rule del, etcd cannot be used since 12:00:00"},
	} {
		if got := Line(c.problems); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	many := Line(obstacles(obstaclesMost + 3))
	if n := strings.Count(many, "a rule is in the way"); n != obstaclesMost || !strings.HasSuffix(many, ", 3 more obstacles") {
		t.Errorf("%d are named in %q", n, many)
	}
}
