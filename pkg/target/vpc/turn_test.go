package vpc

import (
	"errors"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab/fakeaws"
	"flanneld/pkg/target"
)

func TestNoTurnForTheDead(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetRouteLimit(1000)
		w.last()
		w.crowd(w.vpc.Main.ID, 200, true)
		w.b.Terminate()
		if took := w.until(5 * time.Minute); took > 10*time.Second {
			t.Errorf("a lone host that joins has to wait for %s", took)
		}
	})
}

func TestReadsRefusedAtStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.SetLimit(fakeaws.NonMutating, fakeaws.Limit{})
		w.run(10 * time.Minute)
		for k, err := range w.now {
			if !strings.Contains(err.Error(), "RequestLimitExceeded") {
				t.Errorf("%v: %v", k, err)
			}
			if errors.Is(err, target.ErrNoLink) {
				t.Errorf("%v: the host is not ready after 10 minutes", k)
			}
		}
	})
}
