package vpc

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestOwnTableAnew(t *testing.T) {
	inWorld(t, func(w *world) {
		w.wish("")
		w.run(3 * time.Minute)
		w.check(w.table.Associate(w.a.Interface().Subnet))
		begin := time.Now()
		for time.Since(begin) < time.Hour {
			w.run(time.Second)
			for _, r := range w.table.Routes() {
				if r.Dst == ownDst {
					if took := time.Since(begin); took > 2*(period+spread) {
						t.Errorf("after %s", took)
					}
					return
				}
			}
		}
	})
}

func TestLooksWithBadTable(t *testing.T) {
	inWorld(t, func(w *world) {
		w.wish(w.vpc.Main.ID, "rtb-0123456789abcdef0")
		w.run(5 * time.Minute)
		w.ForgetCalls()
		w.run(time.Hour)
		if n := len(w.Calls("DescribeRouteTables")); n > 60 {
			t.Errorf("%d looks in an hour", n)
		}
	})
}

// Nobody waits for what peers without a route of theirs in this table do.
var _ = errors.New
var _ = netip.Prefix{}
var _ = synctest.Wait
