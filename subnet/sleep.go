package subnet

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	// sleepCheck is how often to look whether the host was suspended.
	sleepCheck = time.Minute
	// sleepLeast is the shortest time of suspension that matters to a lease.
	sleepLeast = 5 * time.Second
)

// sleepClock tells how long the host was suspended. Meanwhile the monotonic
// clock stood still, and with it all timers and what we believe of leases.
type sleepClock struct {
	boottime func() time.Duration
	boot     time.Duration // when it was started
	at       time.Time     // the same by the monotonic clock
}

func (c *sleepClock) start(boottime func() time.Duration) {
	if boottime == nil {
		boottime = kernelBoottime
	}
	*c = sleepClock{boottime: boottime, boot: boottime(), at: time.Now()}
}

// slept returns how long the host was suspended since the start.
func (c *sleepClock) slept() time.Duration {
	return max(0, c.boottime()-c.boot-time.Since(c.at))
}

func kernelBoottime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0 // no kernel that we run on; it means never suspended
	}
	return time.Duration(t.Nano())
}

// left returns how long our lease lasts.
func (k *Keeper) left() time.Duration {
	return time.Until(k.holding.Own.Expires) - k.asleep.slept()
}

// woke learns all anew after the host was suspended: our lease may have expired
// and be another's, and what the watch says of its end may be from before.
// So it is written, too, unless that was just done.
func (k *Keeper) woke(ctx context.Context, slept time.Duration) error {
	klog.Warningf("this host was suspended for %s; looking after our lease %s", slept.Round(time.Second), k.holding.Own.Subnet)
	if !k.holding.Own.Reserved() {
		own := *k.holding.Own
		own.Expires = own.Expires.Add(-slept)
		k.holding.Own = &own
	}
	k.asleep.start(k.asleep.boottime)
	s, err := k.list(ctx)
	if err != nil {
		return err
	}
	if err := k.take(ctx, s); err != nil {
		return err
	}
	if own := k.holding.Own; own.Reserved() || own.Revision > s.Revision {
		return nil
	}
	return k.renew(ctx)
}
