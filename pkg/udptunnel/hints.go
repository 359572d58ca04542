package udptunnel

import (
	"fmt"
	"sync"
	"time"
)

// hints tell what dropped packets make one suspect, once a minute at most.
type hints struct {
	table *Table
	say   func(string)

	mu   sync.Mutex
	next time.Time // when to look again
}

// Looking takes the time to go through the table.
const (
	lookPause = time.Second
	hintPause = time.Minute
)

// spoofed is called when a packet was dropped because its source is not of the
// host that sent it. If that host is unknown, it is probably one whose address was
// changed on the way: no attacker would bother to be so obvious.
func (h *hints) spoofed(outer, inner uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if now.Before(h.next) {
		return
	}
	h.next = now.Add(lookPause)
	owner := h.table.lookup(inner)
	if owner == 0 || h.table.hasPeer(outer) {
		return
	}
	h.next = now.Add(hintPause)
	h.say(fmt.Sprintf("packets from %s are dropped: they come from %s, which has no lease, while %s has it. "+
		"Is there NAT between the hosts? Turn the source check off if that is intended",
		uintToAddr(inner), uintToAddr(outer), uintToAddr(owner)))
}
