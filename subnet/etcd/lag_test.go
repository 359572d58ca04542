package etcd

import (
	"slices"
	"testing"
	"time"
)

// One answer that takes long is no trouble, two in a row are, until one comes soon.
func TestLag(t *testing.T) {
	var l Lag
	var told []time.Duration
	l.Tell(func(took time.Duration) { told = append(told, took) })
	late := 0
	for _, ms := range []int{1, 3000, 1, 1500, 2500, 2000, 5, 5} {
		l.Note(time.Duration(ms) * time.Millisecond)
		if l.Doubtful() {
			late++
		}
	}
	if want := []time.Duration{1500 * time.Millisecond, 2 * time.Second, 0}; !slices.Equal(told, want) {
		t.Errorf("told %v; want %v", told, want)
	}
	if late != 2 {
		t.Errorf("doubtful %d times", late)
	}
	(*Lag)(nil).Note(time.Hour)
	if (*Lag)(nil).Doubtful() {
		t.Error("none is doubtful")
	}
}
