package subnet

import (
	"testing"
	"time"
)

// The kernel's own clocks: they run alike while the host is awake.
func TestAwake(t *testing.T) {
	var c sleepClock
	c.start(nil)
	if c.boot <= 0 {
		t.Errorf("the host is up for %s", c.boot)
	}
	time.Sleep(50 * time.Millisecond)
	if c.boottime() < c.boot+50*time.Millisecond {
		t.Error("the clock stands still")
	}
	if d := c.slept(); d > time.Second {
		t.Errorf("slept %s of the last moment", d)
	}
}
