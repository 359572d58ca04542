package subnettest

import (
	"sync"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// server is the data that all clients share.
type server struct {
	mu       sync.Mutex
	revision uint64
	config   *string
	entries  map[string]entry
	watchers []*changes
}

type entry struct {
	subnet.Entry
	expiry *time.Timer // nil for ever
}

// change is one write of one entry.
type change struct {
	subnet.Entry
	gone   bool
	config *subnet.StoredConfig // that it is of, and not of an entry
	at     uint64               // the store's revision
	more   bool                 // another one was made at the same time
}

// changes is what one watcher has not seen yet.
type changes struct {
	ready   chan struct{} // holds one token while there is something to take
	pending []change      // under server.mu
}

// stored returns the configuration. The caller holds the lock.
func (s *server) stored() subnet.StoredConfig {
	if s.config == nil {
		return subnet.StoredConfig{Missing: true}
	}
	return subnet.StoredConfig{Text: *s.config}
}

// configure sets the configuration, or takes it away.
func (s *server) configure(config *string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.config = config
	c := s.stored()
	s.notify(change{config: &c, at: s.revision})
}

func (s *server) subscribe() (*changes, []subnet.Entry, subnet.StoredConfig, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &changes{ready: make(chan struct{}, 1)}
	s.watchers = append(s.watchers, c)
	return c, s.list(), s.stored(), s.revision
}

func (s *server) unsubscribe(c *changes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range s.watchers {
		if w == c {
			s.watchers = append(s.watchers[:i], s.watchers[i+1:]...)
			return
		}
	}
}

func (s *server) take(c *changes) []change {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := c.pending
	c.pending = nil
	return p
}

func (s *server) list() []subnet.Entry {
	entries := make([]subnet.Entry, 0, len(s.entries))
	for _, e := range s.entries {
		entries = append(entries, e.Entry)
	}
	return entries
}

// write puts a lease. The caller holds the lock and has compared.
func (s *server) write(sub ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	value, err := a.Value()
	if err != nil {
		return nil, err
	}
	e := s.put(sub.Key(), value, ttl)
	return &subnet.Lease{Subnet: sub, Attrs: a, Expires: e.Expires, Revision: e.Revision, Created: e.Created}, nil
}

// move puts a lease in the place of another one. The caller holds the lock and has compared.
func (s *server) move(from, to ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	s.takeAway(from.Key(), true)
	return s.write(to, a, ttl)
}

func (s *server) put(key, value string, ttl time.Duration) subnet.Entry {
	s.revision++
	s.stopExpiry(key)
	e := entry{Entry: subnet.Entry{Key: key, Value: value, Revision: s.revision, Created: int64(s.revision)}}
	if was, there := s.entries[key]; there {
		e.Created = was.Created
	}
	if ttl > 0 {
		revision := s.revision
		e.Expires = time.Now().Add(ttl)
		e.expiry = time.AfterFunc(ttl, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			// A timer that fired while the entry was written anew is void.
			if s.entries[key].Revision == revision {
				s.remove(key)
			}
		})
	}
	s.entries[key] = e
	s.notify(change{Entry: e.Entry, at: s.revision})
	return e.Entry
}

func (s *server) remove(key string) { s.takeAway(key, false) }

// takeAway removes an entry, and notes whether more is changed at the same time.
func (s *server) takeAway(key string, more bool) {
	if _, ok := s.entries[key]; !ok {
		return
	}
	s.revision++
	s.stopExpiry(key)
	delete(s.entries, key)
	s.notify(change{Entry: subnet.Entry{Key: key}, gone: true, at: s.revision, more: more})
}

func (s *server) stopExpiry(key string) {
	if t := s.entries[key].expiry; t != nil {
		t.Stop()
	}
}

func (s *server) notify(c change) {
	for _, w := range s.watchers {
		w.pending = append(w.pending, c)
		select {
		case w.ready <- struct{}{}:
		default:
		}
	}
}
