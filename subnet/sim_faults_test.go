package subnet_test

import (
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// happen has one thing happen, to a host or to the store.
func (s *sim) happen() {
	h := s.hosts[s.random.IntN(len(s.hosts))]
	switch n := s.random.IntN(28); {
	case h.daemon == nil:
		s.start(h, s.random.IntN(3) > 0)
	case n < 5:
		s.stop(h)
		if s.random.IntN(2) == 0 {
			s.start(h, s.random.IntN(3) > 0)
		}
	case n < 9:
		s.freeze(h)
	case n < 10:
		s.expire(h)
	case n < 13:
		s.cut(h)
	case n < 15:
		for _, h := range s.hosts { // it is the store that is away
			s.cut(h)
		}
	case n < 17:
		s.link(h, link{})
	case n < 18:
		s.heal()
	case n < 20:
		s.deleted()
	case n < 22:
		s.written()
	case n < 23:
		s.garbled()
	case n < 25:
		s.breakWatches()
	case n < 26:
		s.replace(subnet.Snapshot{})
	case n < 27:
		s.replace(s.backup)
	default:
		s.unconfigure()
	}
	if s.random.IntN(4) == 0 {
		s.mu.Lock()
		s.backup = s.stored()
		s.mu.Unlock()
	}
}

// freeze stops a daemon without ending it, or has it go on.
func (s *sim) freeze(h *simHost) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := h.daemon
	if p.frozen == nil {
		s.logLocked("%s is frozen", h.public)
		p.frozen = make(chan struct{})
		return
	}
	s.logLocked("%s goes on", h.public)
	close(p.frozen)
	p.frozen = nil
}

// expire has a host hear and do nothing until about the end of its lease, when
// others come for it. Those that would ask for something all the while do not run.
func (s *sim) expire(h *simHost) {
	if h.daemon.frozen == nil && s.random.IntN(2) == 0 {
		// It knows of its lease from the answer to its own request alone.
		const slow = 4 * time.Second
		s.link(h, link{dark: true, slow: slow * time.Duration(s.random.IntN(2))})
		s.stop(h)
		s.start(h, true)
		time.Sleep(8 * slow)
	}
	l := s.held(h)
	if l == nil {
		return
	}
	if s.random.IntN(2) == 0 && h.daemon.frozen == nil {
		s.freeze(h)
	} else {
		s.link(h, link{lost: 1, dark: true})
	}
	var rivals []*simHost
	for _, other := range s.hosts {
		if other != h && (s.held(other) == nil || other.link != (link{})) {
			rivals = append(rivals, other)
			if other.daemon != nil {
				s.stop(other)
			}
		}
	}
	near := 5 * time.Second
	time.Sleep(time.Until(l.Expires) - near + some(s.random, 2*near))
	for _, other := range rivals {
		s.link(other, link{})
	}
	for _, other := range rivals {
		s.start(other, s.random.IntN(3) > 0)
	}
}

// held returns the lease that a host has, if it has one that expires.
func (s *sim) held(h *simHost) *subnet.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.daemon == nil {
		return nil
	}
	if l := h.daemon.believed(); l != nil && !l.Reserved() {
		return l
	}
	return nil
}

// cut has a link fail in some way.
func (s *sim) cut(h *simHost) {
	l := link{refuse: s.random.IntN(2) == 0}
	switch s.random.IntN(5) {
	case 0:
		l.lost, l.dark = 1, true
	case 1:
		l.mute = 1
	case 2:
		l.lost, l.mute, l.late = 0.2, 0.2, 0.4
	case 3:
		l.slow = 12 * time.Second
	case 4:
		l.dark = true
	}
	s.link(h, l)
}

func (s *sim) link(h *simHost, l link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logLocked("the link of %s is %+v", h.public, l)
	if h.link.dark {
		close(h.light)
		h.light = make(chan struct{})
	}
	h.link = l
}

// heal ends all that lasts.
func (s *sim) heal() {
	s.log("all is well")
	s.store.SetConfig(s.config)
	for _, h := range s.hosts {
		s.link(h, link{})
		if h.daemon != nil && h.daemon.frozen != nil {
			s.freeze(h)
		}
	}
}

// someSubnet returns the subnet of some lease that the store holds, or some subnet.
func (s *sim) someSubnet() ip.Subnet {
	if leases := s.stored().Leases; len(leases) > 0 && s.random.IntN(4) > 0 {
		return leases[s.random.IntN(len(leases))].Subnet
	}
	return s.subnets[s.random.IntN(len(s.subnets))]
}

// deleted has an administrator delete a key.
func (s *sim) deleted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	subnet := s.someSubnet()
	s.logLocked("%s is deleted", subnet)
	s.rob(subnet)
	s.store.DeleteRaw(subnet.Key())
}

// written has an administrator write a lease, for a host of the history or another
// one, for some time or for ever.
func (s *sim) written() {
	public := "198.51.100.1"
	if s.random.IntN(3) == 0 {
		public = s.hosts[s.random.IntN(len(s.hosts))].public
	}
	value, _ := plain(public).Value()
	s.put(value)
}

// garbled has someone write what is no lease.
func (s *sim) garbled() { s.put("garbage") }

func (s *sim) put(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	subnet, ttl := s.someSubnet(), some(s.random, simTTL)
	switch s.random.IntN(4) {
	case 0:
		ttl = 0
	case 1:
		ttl = some(s.random, time.Minute)
	}
	s.logLocked("%s is written for %s: %s", subnet, ttl, value)
	s.rob(subnet)
	s.store.PutRaw(subnet.Key(), value, ttl)
}

// breakWatches breaks the connections of all hosts, or of one.
func (s *sim) breakWatches() {
	one := s.random.IntN(2 * len(s.hosts))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logLocked("connections break")
	for i, h := range s.hosts {
		if one >= len(s.hosts) || one == i {
			close(h.broken)
			h.broken = make(chan struct{})
		}
	}
}

// replace puts another store in the place of the one that is there, with what
// was there earlier.
func (s *sim) replace(with subnet.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logLocked("the store is replaced by one with %v", with)
	base := s.lowest - revisions
	if s.random.IntN(2) == 0 {
		base = s.highest + revisions
	}
	s.lowest, s.highest = min(s.lowest, base), max(s.highest, base)
	s.bases = append(s.bases, base)
	s.store.Replace(base)
	for _, l := range with.Leases {
		s.rob(l.Subnet)
		value, _ := l.Value()
		if l.Reserved() {
			s.store.PutRaw(l.Subnet.Key(), value, 0)
		} else if left := time.Until(l.Expires); left > 0 {
			s.store.PutRaw(l.Subnet.Key(), value, left)
		}
	}
	s.replaced = s.moment(s.stored().Revision + 1)
	s.disturb()
	for _, h := range s.hosts {
		close(h.broken)
		h.broken = make(chan struct{})
	}
}

// unconfigure removes the configuration, until all is well.
func (s *sim) unconfigure() {
	s.log("there is no configuration")
	s.store.UnsetConfig()
}
