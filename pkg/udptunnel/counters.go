package udptunnel

import (
	"fmt"
	"strings"
	"sync/atomic"
)

// Counter is one of the numbers that a tunnel counts up. Out is from this host's
// pods to other hosts.
type Counter int

// The counters. Packets are the pods' own, whether they travel joined or not.
const (
	OutPackets Counter = iota
	OutBytes
	OutCalls      // system calls that sent them
	OutNoRoute    // dropped: no lease for the destination
	OutExpired    // dropped: the time to live ended here
	OutTooBig     // dropped: larger than the MTU, and not to be fragmented
	OutIPv6       // dropped: not IPv4
	OutMalformed  // dropped: lengths that contradict each other
	OutSendErrors // dropped: the kernel did not take it

	InPackets
	InBytes
	InCalls       // system calls that passed them on
	InMalformed   // dropped: no IPv4, or lengths or header checksum wrong
	InTruncated   // dropped: a datagram larger than any that is sent
	InForeign     // dropped: not for a pod of this host
	InSpoofed     // dropped: the source is in the network, and not in a subnet of the sender
	InStranger    // dropped: the source is outside the network, and the sender has no lease
	InExpired     // dropped: the time to live ended here
	InWriteErrors // dropped: the kernel did not take it
	InErrors      // errors from receiving

	ICMPSent    // answers about packets that were dropped
	ICMPLimited // answers held back, to send no more than so many a second

	counters // how many there are
)

var counterNames = [counters]string{
	"out_packets", "out_bytes", "out_calls", "out_no_route", "out_expired", "out_too_big",
	"out_ipv6", "out_malformed", "out_send_errors",
	"in_packets", "in_bytes", "in_calls", "in_malformed", "in_truncated", "in_foreign",
	"in_spoofed", "in_stranger", "in_expired", "in_write_errors", "in_errors",
	"icmp_sent", "icmp_limited",
}

func (c Counter) String() string { return counterNames[c] }

// Counters are all counters at one time.
type Counters [counters]uint64

// String lists the counters that are not 0.
func (c Counters) String() string {
	var parts []string
	for i, v := range c {
		if v != 0 {
			parts = append(parts, fmt.Sprintf("%s=%d", Counter(i), v))
		}
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, " ")
}

// Map returns them by name.
func (c Counters) Map() map[string]uint64 {
	m := make(map[string]uint64, len(c))
	for i, v := range c {
		m[Counter(i).String()] = v
	}
	return m
}

// tally counts for one goroutine, without cost; publish shows it to others.
type tally struct {
	now Counters

	_     [64]byte // those who read the rest take no cache line from now
	shown [counters]atomic.Uint64
	_     [64]byte
}

func (t *tally) add(c Counter, n int) { t.now[c] += uint64(n) }

func (t *tally) publish() {
	for i := range t.now {
		if v := t.now[i]; v != t.shown[i].Load() {
			t.shown[i].Store(v)
		}
	}
}

// addTo adds what was published.
func (t *tally) addTo(c *Counters) {
	for i := range c {
		c[i] += t.shown[i].Load()
	}
}
