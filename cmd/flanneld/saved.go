package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/file"
	"flanneld/pkg/once"
	"flanneld/subnet"
)

// savedFile is where what this host holds is kept for a start without the store; empty
// if it is not to be. Daemons for several networks have a file each.
func (o *options) savedFile() string {
	file, _ := o.source().savedAs(o)
	if o.stateDir == "" || file == "" {
		return ""
	}
	return filepath.Join(o.stateDir, file)
}

// savedStore is how a file names what it was saved of.
func (o *options) savedStore() string {
	_, network := o.source().savedAs(o)
	return network
}

// saved reads that. A file system that gives no answer is waited for once, and all go on without
// what was saved.
func (o *options) saved() (subnet.Saved, error) {
	s, err := o.recall.Do(context.Background(), o.readSaved)
	if errors.Is(err, file.ErrNoAnswer) {
		err = fmt.Errorf("reading %s: %w: %w", o.savedFile(), err, subnet.ErrUnread)
	}
	return s, err
}

func (o *options) readSaved() (subnet.Saved, error) {
	s, err := subnet.LoadSaved(o.savedFile(), o.savedStore())
	if cluster := o.source().cluster; err == nil && cluster != nil && s.Snapshot.Own != nil && !s.Snapshot.Own.SameCluster(cluster(o)) {
		return subnet.Saved{}, fmt.Errorf("%s is of another Kubernetes cluster: the CA of its API is another one, or, where it has none of its own, its URL", o.savedFile())
	}
	return s, err
}

// The file is written as a whole. So the larger it is, the longer it rests after that, for
// a large network may change all the time; a small one is followed within a second.
const (
	saveRest      = 200 * time.Millisecond
	saveRestLease = 10 * time.Millisecond
	// saveRetry is how soon it is tried again to write a file that could not be written.
	saveRetry = 10 * time.Second
	// saveAgain is how soon the file is written although nothing changed: it may have
	// been lost, and the clock that its times are by may have been set.
	saveAgain      = 10 * time.Minute
	saveAgainLease = 24 * time.Millisecond
	// saveLatest is how soon the file is written at the latest after the start, which goes first.
	saveLatest = 5 * time.Second
)

func perLease(h subnet.Holding, base, lease time.Duration) time.Duration {
	return base + time.Duration(len(h.Snapshot.Leases))*lease
}

// saver keeps the file as the keeper's holding is.
type saver struct {
	file, store string
	source      string        // what messages call it
	cluster     func() string // nil where there are none
	heard       string        // of which one what was saved last was, as it was heard
	known       string        // what is known of that one since
	changed     chan struct{}
	started     <-chan struct{} // closed when the host is ready; nil if that is no matter

	mu       sync.Mutex
	holding  subnet.Holding
	vanished []subnet.Vanished
	written  subnet.Holding // that the file has, as far as it is known
}

func newSaver(o *options) *saver {
	s := &saver{file: o.savedFile(), store: o.savedStore(), source: o.source().name, changed: make(chan struct{}, 1)}
	if cluster := o.source().cluster; cluster != nil {
		s.cluster = func() string { return cluster(o) }
	}
	return s
}

// found takes what is in the file at the start.
func (s *saver) found(h subnet.Holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written = h
}

// set takes what is to be saved.
func (s *saver) set(h subnet.Holding, vanished []subnet.Vanished) {
	s.mu.Lock()
	s.holding, s.vanished = h, vanished
	s.mu.Unlock()
	once.Wake(s.changed)
}

// save writes the file. Run alone calls it.
func (s *saver) save(h subnet.Holding, vanished []subnet.Vanished) error {
	if own := h.Snapshot.Own; own != nil && s.cluster != nil {
		if own.Cluster != s.heard {
			s.heard, s.known = own.Cluster, own.Cluster
		}
		of := *own
		of.Cluster = s.known
		// A CA follows another. But what leads to the cluster now may lead to another one, and what
		// is held not be of that.
		if is := s.cluster(); is != "" && of.SameCluster(is) {
			of.Cluster, s.known = is, is
		}
		h.Snapshot.Own = &of
	}
	return h.Save(s.file, s.store, vanished...)
}

// Run saves until ctx ends, and returns ctx.Err(). A write to a file system that gives no answer
// keeps it for file.Patience at most.
func (s *saver) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(file.Patience)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		klog.Warningf("ending before %s is written: no answer from its file system for more than %s", s.file, file.Patience)
		return ctx.Err()
	}
}

func (s *saver) run(ctx context.Context) error {
	if s.file == "" {
		return nil
	}
	var at, next time.Time // when it was written, and when it may be again
	failed := ""
	write := func(h subnet.Holding, vanished []subnet.Vanished) {
		err := s.save(h, vanished)
		at = time.Now()
		next = at.Add(perLease(h, saveRest, saveRestLease))
		if err == nil {
			failed = ""
			s.found(h)
			return
		}
		if err.Error() != failed {
			failed = err.Error()
			klog.Warningf("a start without %s would not be possible: %v", s.source, err)
		}
		next = at.Add(max(saveRetry, time.Until(next)))
		once.Wake(s.changed) // it may be better next time
	}
	if s.started != nil {
		latest := time.NewTimer(saveLatest)
		select {
		case <-s.started:
		case <-latest.C:
		case <-ctx.Done():
		}
		latest.Stop()
	}
	again := time.NewTicker(saveAgain)
	defer again.Stop()
	rested := time.NewTimer(saveRest)
	defer rested.Stop()
	for {
		ended := ctx.Err() != nil
		s.mu.Lock()
		h, vanished, last := s.holding, s.vanished, s.written
		s.mu.Unlock()
		// Another configuration or subnet comes rarely, and without it the file is of no use.
		vital := failed == "" && last.Config != nil && h.Own != nil && (h.Config != last.Config || h.Own.Subnet != last.Own.Subnet)
		switch left := time.Until(next); {
		case left > 0 && !vital && !ended:
			rested.Reset(left)
		case h.Own != nil && (last.Config == nil || !h.SameSaved(last)):
			write(h, vanished)
		}
		if ended {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
		case <-s.changed:
		case <-rested.C:
		case <-again.C:
			if time.Since(at) >= perLease(h, saveAgain, saveAgainLease)-time.Second {
				s.found(subnet.Holding{})
			}
		}
	}
}
