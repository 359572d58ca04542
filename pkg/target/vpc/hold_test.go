package vpc

import (
	"testing"
	"time"

	"flanneld/pkg/state"
)

func TestHoldOfOtherVerb(t *testing.T) {
	inWorld(t, func(w *world) {
		w.run(20 * time.Second)
		dst := w.dead(1)[0]
		w.Deny("DeleteRoute")
		w.run(10 * time.Minute)
		// The lease of this host was lost, and the new one is for that subnet.
		w.want = state.Set{}
		host := w.a.Interface().Addr
		for _, o := range []state.Object{state.CloudInterface{Host: host}, state.CloudRoute{Table: w.vpc.Main.ID, Dst: dst, Host: host}} {
			w.want[o.Key()] = o
		}
		w.pass()
		if err := w.now[state.CloudRoute{Table: w.vpc.Main.ID, Dst: dst}.Key()]; err != nil {
			t.Error(err)
		}
		w.wantRoute(w.vpc.Main, dst, w.a.Interface())
	})
}
