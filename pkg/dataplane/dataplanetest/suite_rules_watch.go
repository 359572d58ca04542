package dataplanetest

import (
	"fmt"
	"time"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// wrong reports whether an event says that not all is as wanted.
func wrong(want state.Set, e dataplane.Event) bool {
	o := want[e.Key]
	return (o == nil) != e.Gone || o != e.Entry.Object
}

func testRulesEvents(r *rulesFixture) {
	r.Others(r)
	want := r.wish()
	w := r.watch()
	spoiled := make(map[state.Key]bool) // as far as events say
	isWrong := func(e dataplane.Event) bool {
		spoiled[e.Key] = wrong(want, e) && (want[e.Key] != nil || !e.Gone)
		return wrong(want, e)
	}
	for range 2 { // the same again is news, too
		r.reconcile(want)
		w.expectEach(want, func(e dataplane.Event) bool { return !isWrong(e) && e.Entry.Owner == state.Ours })
		for name, spoil := range r.Spoils {
			r.settled(want)
			for key := range spoiled {
				if spoiled[key] {
					w.expect("the end of "+name, func(e dataplane.Event) bool { isWrong(e); return !spoiled[key] })
				}
			}
			spoil(r)
			start := time.Now()
			w.expect(name, isWrong)
			if took := time.Since(start); took > time.Second {
				r.Errorf("%s: the event takes %s", name, took)
			}
		}
	}
	r.settled(want) // the last of what was spoiled may have been all there was
	w.quiet()
	r.reconcile(nil)
	w.expectEach(want, func(e dataplane.Event) bool { return e.Gone })
}

// expectEach waits for an event that fits about each of some objects.
func (w *watching) expectEach(objects state.Set, fits func(dataplane.Event) bool) {
	w.Helper()
	seen := make(map[state.Key]bool)
	w.expect(fmt.Sprintf("each of %v", objects), func(e dataplane.Event) bool {
		seen[e.Key] = objects[e.Key] != nil && fits(e) || seen[e.Key]
		for k := range objects {
			if !seen[k] {
				return false
			}
		}
		return true
	})
}

// quiet takes events until there are no more.
func (w *watching) quiet() int {
	n := 0
	for {
		select {
		case <-w.events:
			n++
		case <-time.After(200 * time.Millisecond):
			return n
		}
	}
}

func testRulesQuietEvents(r *rulesFixture) {
	if !r.Quiet {
		r.Skip("this way cannot tell")
	}
	r.settled(r.wish())
	w := r.watch()
	r.Others(r)
	if n := w.quiet(); n > 0 {
		r.Errorf("%d events of others' rules", n)
	}
}
