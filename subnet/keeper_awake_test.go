package subnet

import (
	"testing"
	"time"
)

// The kernel's own clocks run alike while the host is awake.
func TestAwake(t *testing.T) {
	var k Keeper
	c := sleepClock{k.now()}
	if c.from.boot <= 0 {
		t.Errorf("the host is up for %s", c.from.boot)
	}
	time.Sleep(50 * time.Millisecond)
	now := k.now()
	if now.boot < c.from.boot+50*time.Millisecond {
		t.Error("the clock stands still")
	}
	if d := c.slept(now); d > time.Second {
		t.Errorf("slept %s of the last moment", d)
	}
}
