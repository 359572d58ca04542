package netfilter

import (
	"context"
	"sync"
	"time"

	"flanneld/pkg/once"
)

// Whoever sets up a firewall by iptables flushes tables, deletes all chains, and then writes
// rules, command by command. A chain of ours that came back in between would be in the way
// of the second: it cannot be deleted while a rule jumps to it, and the script fails with
// the host half open or shut. So our rules come back when nobody has changed anything for a
// while.

// quietFor is how long the shared chains must have been left alone: somewhat more than the
// pause of a second that scripts like to make.
const quietFor = 1300 * time.Millisecond

// In units of that:
const (
	// quietMost is for how long we wait for it where a write cannot meet a flushed table; and
	// how long what was seen last is taken for what there is.
	quietMost = 5
	// quietLast is how long we wait at most.
	quietLast = 60
)

// debounce tells whether something keeps changing.
type debounce struct {
	quiet   time.Duration // quietFor, but for tests
	digest  string        // as of the last look
	known   bool
	changed time.Time // by others, for the last time
	since   time.Time // when the changes began that had no pause between them, and no flush
	began   time.Time // since, flushes or not
}

// observe takes what there is now. bare is set if there are no rules at all.
func (d *debounce) observe(digest string, bare bool, now time.Time) {
	if d.known && differs(d.digest, digest) {
		if !d.noisy(now) {
			d.since, d.began = now, now
		}
		if bare {
			d.since = now
		}
		d.changed = now
	}
	d.digest, d.known = digest, true
}

// differs reports whether something has been changed. That there is a table now need not be:
// the kernel makes one for who asks about it.
func differs(before, now string) bool { return before != "" && now != before }

// expect takes what there is after a change of our own.
func (d *debounce) expect(digest string) { d.digest, d.known = digest, true }

func (d *debounce) noisy(now time.Time) bool { return now.Sub(d.changed) < d.quiet }

// settled reports whether a change of ours may be made. guarded is set if it fails, as a
// whole, where someone has flushed the table.
func (d *debounce) settled(now time.Time, guarded bool) bool {
	return !d.noisy(now) || guarded && now.Sub(d.since) >= quietMost*d.quiet || now.Sub(d.began) >= quietLast*d.quiet
}

// due returns when it is time for a look, while it is noisy.
func (d *debounce) due() time.Time {
	due := d.changed.Add(d.quiet)
	if most := d.since.Add(quietMost * d.quiet); most.Before(due) {
		return most
	}
	return due
}

// watch implements way. It calls changed when others have come to rest.
func (w *iptables) watch(ctx context.Context, ready, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	poked := make(chan struct{}, 1)
	var ended sync.WaitGroup
	ended.Go(func() { w.look(ctx, poked, changed) })
	defer ended.Wait()
	defer cancel()
	defer w.watched(false)
	return w.kernel.watch(ctx, func() {
		w.watched(true)
		ready()
	}, func() { once.Wake(poked) })
}

// watched notes whether changes by others are seen as they happen.
func (w *iptables) watched(is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watching = is
	if is {
		w.observeLocked()
	}
}

// lookShare is for how many times as long as it took to note what others have changed it is
// not done again, so that it does not take all of a processor where they change much; but
// for less than what makes a pause in their changes.
const lookShare = 19

// observe notes what others have changed, and rests after that.
func (w *iptables) observe(ctx context.Context) {
	start := time.Now()
	w.mu.Lock()
	w.observeLocked()
	w.mu.Unlock()
	_ = once.Sleep(ctx, min(lookShare*time.Since(start), w.quiet/2))
}

func (w *iptables) observeLocked() {
	if digest, err := w.kernel.digest(); err == nil {
		w.take(digest)
	}
}

// take notes what the kernel has now.
func (w *iptables) take(digest iptDigest) {
	now := time.Now()
	if !w.watching {
		return
	}
	w.content.observe(digest.all, false, now)
	for i := range places {
		w.shared[i].observe(digest.shared[i], digest.bare[i], now)
	}
}

// look calls changed whenever it is due, after a poke.
func (w *iptables) look(ctx context.Context, poked <-chan struct{}, changed func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		select {
		case <-ctx.Done():
			return
		case <-poked:
			w.observe(ctx)
		case <-timer.C:
		}
		wait := w.wait()
		if wait <= 0 {
			changed()
			// That look may have been the first to see a change.
			if wait = w.wait(); wait <= 0 {
				w.mu.Lock()
				wait = time.Until(w.again)
				w.mu.Unlock()
			}
		}
		if wait > 0 {
			timer.Reset(wait)
		}
	}
}

func (w *iptables) wait() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rest(time.Now())
}

// rest returns for how long what was seen last still counts: until others leave the shared
// chains alone. If it is other chains that they change, there is a look now and then.
func (w *iptables) rest(now time.Time) time.Duration {
	var rest time.Duration
	for _, d := range w.shared {
		if d.noisy(now) {
			rest = max(rest, d.due().Sub(now))
		}
	}
	if w.content.noisy(now) {
		rest = max(rest, w.viewAt.Add(w.quiet).Sub(now))
	}
	return rest
}
