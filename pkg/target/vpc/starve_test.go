package vpc

import (
	"testing"
	"time"

	"flanneld/pkg/lab/fakeaws"
)

// While there is much to be deleted, and EC2 lets little pass, looks go on.
func TestDeletesHoldUpNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetRouteLimit(200)
		w.run(20 * time.Second)
		w.dead(100)
		w.SetLimit(fakeaws.Mutating, fakeaws.Limit{Burst: 1, Refill: 0.05})
		for len(w.Calls("DeleteRoute")) == 0 {
			w.run(time.Second)
		}
		gap, last := time.Duration(0), time.Now()
		w.ForgetCalls()
		w.run(30 * time.Minute)
		for _, c := range w.Calls("DescribeRouteTables") {
			gap, last = max(gap, c.Time.Sub(last)), c.Time
		}
		if gap = max(gap, time.Since(last)); gap > 2*(period+spread) {
			t.Errorf("for %s nobody looked", gap)
		}
	})
}
