package cni

import (
	"path/filepath"
	"testing"
)

// What a second costs in which nothing happens.
func BenchmarkNothingToDo(b *testing.B) {
	c := New(filepath.Join(b.TempDir(), "10-flannel.conflist"), Default)
	if _, err := c.Write(values); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if changed, err := c.Write(values); changed || err != nil {
			b.Fatal(changed, err)
		}
		c.Problems()
	}
}
