package ec2

import (
	"testing"
	"time"

	"flanneld/pkg/lab/fakeaws"
)

// When the host's subnet gets another table, the route is in that with the next look,
// unless it was the main one: that another one has come is seen less often.
func TestOtherOwnTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.desire("")
		w.run(3 * time.Minute)
		for _, c := range []struct {
			table  *fakeaws.RouteTable
			within time.Duration
		}{{w.table, (recheck + 1) * (period + spread)}, {w.vpc.AddRouteTable(), period + spread}, {w.vpc.Main, period + spread}} {
			w.a.Interface().Subnet.Dissociate()
			if c.table != w.vpc.Main {
				w.check(c.table.Associate(w.a.Interface().Subnet))
			}
			_ = w.vpc.Main.DeleteRoute(ownDst.String()) // from before, if it is there
			w.run(c.within + again)
			w.wantFailures(nil)
			w.wantRoute(c.table, ownDst, w.a.Interface())
			w.ForgetCalls()
			w.run(time.Hour)
			if n := len(w.Calls("DescribeRouteTables")); n > 60 {
				t.Errorf("%d calls in an hour", n)
			}
		}
	})
}

// A table that is not there does not have the others looked at more often.
func TestLooksWithBadTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.desire(w.vpc.Main.ID, "rtb-0123456789abcdef0")
		w.run(5 * time.Minute)
		w.ForgetCalls()
		w.run(time.Hour)
		if n := len(w.Calls("DescribeRouteTables")); n > 60 {
			t.Errorf("%d looks in an hour", n)
		}
	})
}
