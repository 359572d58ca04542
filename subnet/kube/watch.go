package kube

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"flanneld/pkg/once"
	"flanneld/subnet"
)

const (
	nodesPath = "/api/v1/nodes"
	// pageSize is how many Nodes are listed at once.
	pageSize = 500
	// pace is the least time between two listings.
	pace = time.Second
	// watchLeast is how long the API is asked to keep up a watch, at least; up to twice
	// that, so that not all hosts come back at once.
	watchLeast = 5 * time.Minute
	// unwatchedPace is how often all Nodes are listed while the API permits no watch.
	unwatchedPace = 30 * time.Second
	// frameMost is the size of the largest event: more than any Node has.
	frameMost = 64 << 20
)

// errHistory is that what passed meanwhile can't be had as events any more, or is of
// another history.
var errHistory = errors.New("the history is lost")

// listing is a list of Nodes that is not complete yet.
type listing struct {
	nodes    []node
	revision uint64
	next     string
	writes   uint64 // of our own, when it was begun

	answer bytes.Buffer // of the API, one after the other
}

// list returns a view of all Nodes.
func (s *Store) list(ctx context.Context) (*view, error) {
	s.mu.Lock()
	l := s.partial
	s.partial = nil
	s.mu.Unlock()
	l, err := s.listAll(ctx, l)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.partial = l
		return nil, err
	}
	v := s.saved
	s.saved = nil
	if v == nil {
		v = s.newView()
	}
	s.resetView(v, l)
	return v, nil
}

// newView returns a view that has seen nothing. The caller holds the lock.
func (s *Store) newView() *view {
	v := newView(&s.names, s.options.NodeName)
	v.cluster = s.client.cluster
	v.said = s.said
	return v
}

// listAll completes a list of all Nodes, or begins one. If it is broken off, what there is of
// it is returned, too: a large list is not begun anew each time that it takes too long.
func (s *Store) listAll(ctx context.Context, l *listing) (*listing, error) {
	for {
		if l == nil {
			s.mu.Lock()
			l = &listing{writes: s.writes}
			s.mu.Unlock()
		}
		switch err := s.listPage(ctx, l, s.pages); {
		case answers(err, http.StatusGone) && l.next != "": // too long ago
			l = nil
		case err != nil:
			return l, err
		case l.next == "":
			return l, nil
		}
	}
}

// listPage gets the next part of a list.
func (s *Store) listPage(ctx context.Context, l *listing, size int) error {
	s.onList()
	query := url.Values{"limit": {strconv.Itoa(size)}}
	if l.next != "" {
		query.Set("continue", l.next)
	}
	resp, err := s.client.send(ctx, request{verb: "list", resource: "nodes", method: http.MethodGet, path: nodesPath, query: query})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	l.answer.Reset()
	if _, err := l.answer.ReadFrom(resp.Body); err != nil {
		return s.client.broken(request{verb: "list", resource: "nodes"}, err)
	}
	kind, raw, err := object(l.answer.Bytes())
	if err == nil && kind != "NodeList" {
		err = fmt.Errorf("it answers with a %.40q", kind)
	}
	var p page
	if err == nil {
		p, err = s.names.page(raw)
	}
	if err != nil {
		return s.client.broken(request{verb: "list", resource: "nodes"}, err)
	}
	l.nodes = append(l.nodes, p.nodes...)
	l.revision, l.next = p.revision, p.next
	return nil
}

// resetView has a view show what was listed. The caller holds the lock.
func (s *Store) resetView(v *view, l *listing) {
	nodes := l.nodes
	// What was listed before our own last write does not undo it.
	if e := v.entries[v.self]; e != nil && l.writes != s.writes && l.revision < v.written {
		nodes = append(without(nodes, v.self), e.node)
	}
	v.reset(nodes)
	v.revision, v.listed, v.listedAt = l.revision, true, time.Now()
	if l.writes == s.writes {
		v.written = 0 // it may be of another history
	}
}

func without(nodes []node, name string) []node {
	var others []node
	for _, n := range nodes {
		if n.name != name {
			others = append(others, n)
		}
	}
	return others
}

// Watch implements subnet.Store.
func (s *Store) Watch(ctx context.Context, yield func(subnet.Snapshot)) error {
	s.mu.Lock()
	v := s.saved
	s.saved = nil
	if v == nil {
		v = s.newView()
	}
	wake := once.NewSlot[struct{}]()
	s.views[v] = wake
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.views, v)
		v.follows = false
		s.saved = v
	}()
	err := s.watch(ctx, v, wake, yield)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("watching the Nodes: %w", err)
}

// watch keeps a view up to date, and yields what it shows.
func (s *Store) watch(ctx context.Context, v *view, wake once.Slot[struct{}], yield func(subnet.Snapshot)) error {
	if err := s.verify(ctx, v); err != nil {
		return err
	}
	var listed time.Time
	for {
		if !v.listed {
			if err := once.Sleep(ctx, pace-time.Since(listed)); err != nil {
				return err
			}
			l, err := s.listAll(ctx, nil)
			if err != nil {
				return err
			}
			listed = time.Now()
			s.mu.Lock()
			s.resetView(v, l)
			s.mu.Unlock()
		}
		err := s.follow(ctx, v, wake, yield)
		switch {
		case errors.Is(err, errHistory):
			s.mu.Lock()
			v.listed, v.follows = false, false
			s.mu.Unlock()
			if !listed.IsZero() && time.Since(listed) < answerTimeout { // listing anew would go on for ever
				s.show(v, nil, yield)
				return fmt.Errorf("what the API has just listed it does not let be followed: %w", err)
			}
		case answers(err, http.StatusForbidden):
			s.show(v, err, yield)
			s.mu.Lock()
			v.listed, v.refused = time.Since(v.listedAt) < unwatchedPace, err
			s.mu.Unlock()
			return err
		case err != nil:
			return err
		}
	}
}

// show yields what was listed, where the API lets nothing be followed.
func (s *Store) show(v *view, refused error, yield func(subnet.Snapshot)) {
	s.mu.Lock()
	snapshot := v.snapshot()
	s.mu.Unlock()
	snapshot.Refused = refused
	yield(snapshot)
}

// verify finds out whether the API still has the history that a view follows: it may have
// been set back to a backup, and would have us wait for what it has yet to come to.
func (s *Store) verify(ctx context.Context, v *view) error {
	if !v.listed {
		return nil
	}
	var l listing
	if err := s.listPage(ctx, &l, 1); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v.listed = l.revision >= v.revision
	return nil
}

// follow brings a view up to date until the API ends the watch, and yields whenever
// something changed.
func (s *Store) follow(ctx context.Context, v *view, wake once.Slot[struct{}], yield func(subnet.Snapshot)) error {
	last := s.watchFor + rand.N(s.watchFor)
	stream, err := s.open(ctx, v.revision, last)
	if err != nil {
		return err
	}
	// The API ends it by then, unless it hangs.
	overdue := time.NewTimer(last + answerTimeout)
	defer overdue.Stop()
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	var receiving sync.WaitGroup
	receiving.Go(func() { ended <- s.receive(stream, v, wake) })
	defer func() {
		cancel()
		_ = stream.Close()
		receiving.Wait()
	}()
	s.mu.Lock()
	v.follows, v.refused = true, nil
	s.mu.Unlock()
	for {
		s.mu.Lock()
		snapshot, warnings := v.snapshot(), v.warningsNow()
		s.mu.Unlock()
		s.warn(v, warnings)
		yield(snapshot)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return err
		case <-overdue.C:
			return nil
		case <-wake:
		}
	}
}

// warn logs what is wrong beside what leases say. The view's watch alone calls it.
func (s *Store) warn(v *view, warnings map[netip.Addr]string) {
	for a := range v.warned {
		if _, still := warnings[a]; !still {
			s.log.Over(a.String())
		}
	}
	for a, text := range warnings {
		if s.log.State(a.String(), text) {
			klog.Warning(text)
		}
	}
	v.warned = warnings
}

// open begins a watch of what came after a revision, for a while.
func (s *Store) open(ctx context.Context, revision uint64, last time.Duration) (io.ReadCloser, error) {
	r := request{
		verb: "watch", resource: "nodes", method: http.MethodGet, path: nodesPath,
		query: url.Values{
			"watch": {"true"}, "allowWatchBookmarks": {"true"}, "resourceVersion": {strconv.FormatUint(revision, 10)},
			"timeoutSeconds": {strconv.Itoa(int(last.Seconds()))},
		},
	}
	resp, err := s.client.send(ctx, r)
	var refusal *Error
	switch {
	case errors.As(err, &refusal) && refusal.lost:
		return nil, errHistory
	case err != nil:
		return nil, err
	case !strings.HasPrefix(resp.Header.Get("Content-Type"), protobuf):
		_ = resp.Body.Close()
		return nil, s.client.broken(r, fmt.Errorf("it answers with %.100q, and not with protocol buffers", resp.Header.Get("Content-Type")))
	}
	return resp.Body, nil
}

// receive takes events, until the stream ends.
func (s *Store) receive(stream io.Reader, v *view, wake once.Slot[struct{}]) error {
	r := bufio.NewReaderSize(stream, 64<<10)
	var frame []byte
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return s.streamEnded(err)
		}
		length := binary.BigEndian.Uint32(size[:])
		if length > frameMost {
			return s.streamEnded(errWire)
		}
		n := int(length)
		if cap(frame) < n {
			frame = make([]byte, n)
		}
		frame = frame[:n]
		if _, err := io.ReadFull(r, frame); err != nil {
			return s.streamEnded(err)
		}
		changed, err := s.take(v, frame)
		if err != nil {
			return err
		}
		if changed {
			wake.Put(struct{}{})
		}
	}
}

// streamEnded is how the end of a watch is taken: none if the API ended it as it should.
func (s *Store) streamEnded(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return s.client.broken(request{verb: "watch", resource: "nodes"}, err)
}

// take takes one event, and reports whether anything changed that matters.
func (s *Store) take(v *view, frame []byte) (changed bool, err error) {
	bad := func(err error) error { return s.client.broken(request{verb: "watch", resource: "nodes"}, err) }
	what, content, err := event(frame)
	if err != nil {
		return false, bad(err)
	}
	kind, raw, err := object(content)
	if err != nil {
		return false, bad(err)
	}
	if what == "ERROR" {
		var status metav1.Status
		if err := status.Unmarshal(raw); err != nil {
			return false, bad(err)
		}
		if loses(&status) {
			return false, errHistory
		}
		return false, bad(fmt.Errorf("it ends the watch: %s", status.Message))
	}
	if kind != "Node" {
		return false, bad(fmt.Errorf("it brings a %.40q", kind))
	}
	n, err := s.names.node(raw)
	if err != nil {
		return false, bad(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.revision < v.revision {
		return false, errHistory
	}
	switch what {
	case "ADDED", "MODIFIED":
		changed = v.put(n)
	case "DELETED":
		changed = v.remove(n)
	}
	v.revision = n.revision
	return changed, nil
}
