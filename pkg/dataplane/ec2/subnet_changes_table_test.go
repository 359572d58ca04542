package ec2

import (
	"testing"
	"time"

	"flanneld/pkg/lab/fakeaws"
)

// When the host's subnet gets another table, the route is in that with the next look,
// unless it was the main one: that another one has come is seen less often.
func TestOtherOwnTable(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.desire("")
		f.run(3 * time.Minute)
		for _, c := range []struct {
			table  *fakeaws.RouteTable
			within time.Duration
		}{{f.table, (recheck + 1) * (period + spread)}, {f.vpc.AddRouteTable(), period + spread}, {f.vpc.Main, period + spread}} {
			f.a.Interface().Subnet.Dissociate()
			if c.table != f.vpc.Main {
				f.check(c.table.Associate(f.a.Interface().Subnet))
			}
			_ = f.vpc.Main.DeleteRoute(ownDst.String()) // from before, if it is there
			f.run(c.within + again)
			f.wantFailures(nil)
			f.wantRoute(c.table, ownDst, f.a.Interface())
			f.ForgetCalls()
			f.run(time.Hour)
			if n := len(f.Calls("DescribeRouteTables")); n > 60 {
				t.Errorf("%d calls in an hour", n)
			}
		}
	})
}

// A table that is not there does not have the others looked at more often.
func TestLooksWithBadTable(t *testing.T) {
	withFixture(t, func(f *fixture) {
		f.desire(f.vpc.Main.ID, "rtb-0123456789abcdef0")
		f.run(5 * time.Minute)
		f.ForgetCalls()
		f.run(time.Hour)
		if n := len(f.Calls("DescribeRouteTables")); n > 60 {
			t.Errorf("%d looks in an hour", n)
		}
	})
}
