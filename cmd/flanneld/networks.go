package main

import (
	"net/netip"
	"slices"
	"time"
)

// networks are those of the configurations that this host has had.
type networks struct {
	all []netip.Prefix
	// shared says that other daemons may have them, too: on a real host.
	shared   bool
	claims   map[netip.Prefix]func()  // of networks that this host is in
	sockets  sockets                  // of other daemons
	verdicts map[netip.Prefix]verdict // of former networks
}

func networkName(n netip.Prefix) string { return "network/" + n.String() }

// enter takes the networks that this host is in now.
func (s *networks) enter(current []netip.Prefix) {
	if s.shared {
		s.claim(current)
	}
	for _, n := range current {
		if !slices.Contains(s.all, n) {
			s.all = append(slices.Clone(s.all), n)
		}
	}
}

// claim binds the networks that this host is in now, and no others. That another daemon
// has one, too, is no trouble of its own.
func (s *networks) claim(current []netip.Prefix) {
	for n, release := range s.claims {
		if !slices.Contains(current, n) {
			release()
			delete(s.claims, n)
		}
	}
	for _, n := range current {
		if s.claims[n] != nil {
			continue
		}
		if _, release, err := bind(networkName(n)); err == nil {
			if s.claims == nil {
				s.claims = make(map[netip.Prefix]func())
			}
			s.claims[n] = release
		}
	}
}

// own returns the networks that this host is in or was in, without those that another
// daemon has now.
func (s *networks) own(current []netip.Prefix) []netip.Prefix {
	if !s.shared {
		return s.all
	}
	return slices.DeleteFunc(slices.Clone(s.all), func(n netip.Prefix) bool {
		return !slices.Contains(current, n) && s.taken(n)
	})
}

// takenAgain is how soon is looked again whether another daemon has a network: each desired
// state asks, and anyone may bind sockets that do not answer.
const takenAgain = time.Second

// verdict is whether a network was taken at some time.
type verdict struct {
	is bool
	at time.Time
}

// taken reports whether some process has bound a network, or may have.
func (s *networks) taken(n netip.Prefix) bool {
	v, known := s.verdicts[n]
	if !known || time.Since(v.at) >= takenAgain {
		is, err := s.sockets.bound(networkName(n), "")
		v = verdict{is || err != nil, time.Now()}
		if s.verdicts == nil {
			s.verdicts = make(map[netip.Prefix]verdict)
		}
		s.verdicts[n] = v
	}
	return v.is
}
