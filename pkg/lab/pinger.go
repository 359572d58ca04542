package lab

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"flanneld/pkg/ip"
)

// Pinger sends ICMP echo requests at a steady pace, to measure how long a
// path was broken.
type Pinger struct {
	sock     *echoSocket
	to       netip.Addr
	stopping chan struct{}
	stopOnce sync.Once
	sender   chan struct{} // closed when it has ended
	receiver chan struct{} // closed when it has ended
	forget   func()

	mu       sync.Mutex
	probes   []probe
	received int
	sendErr  error
}

type probe struct {
	sent     time.Time
	answered bool
}

// PingReport is what a Pinger has seen.
type PingReport struct {
	Sent, Received, Lost int
	// LongestGap is the longest time in which every request was lost, from
	// the sending of the first that was to that of the next that was not.
	LongestGap time.Duration
	// LostAt has the time of sending of each request without a reply.
	LostAt []time.Time
	// SendErr is the first error that sending a request gave; such a
	// request counts as lost.
	SendErr error
}

// stragglers is how long Stop waits for replies that are still missing.
const stragglers = time.Second

// StartPinger starts to send a request every interval. When it gets too little
// of the processor it sends fewer, rather than many at once.
func (ns *Namespace) StartPinger(to netip.Addr, interval time.Duration) (*Pinger, error) {
	sock, err := ns.openEcho(ip.FamilyOf(to))
	if err != nil {
		return nil, err
	}
	p := &Pinger{
		sock:     sock,
		to:       to,
		stopping: make(chan struct{}),
		sender:   make(chan struct{}),
		receiver: make(chan struct{}),
	}
	if p.forget, err = ns.onClose(p.end); err != nil {
		_ = sock.conn.Close()
		return nil, fmt.Errorf("starting a pinger: %w", err)
	}
	go p.send(interval)
	go p.receive()
	return p, nil
}

func (p *Pinger) send(interval time.Duration) {
	defer close(p.sender)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for seq := uint64(0); ; seq++ {
		p.mu.Lock()
		p.probes = append(p.probes, probe{sent: time.Now()})
		p.mu.Unlock()
		if err := p.sock.send(p.to, seq); err != nil {
			p.mu.Lock()
			if p.sendErr == nil {
				p.sendErr = err
			}
			p.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-p.stopping:
			return
		}
	}
}

func (p *Pinger) receive() {
	defer close(p.receiver)
	for {
		seq, err := p.sock.receive(p.to)
		if err != nil {
			return
		}
		p.mu.Lock()
		if seq < uint64(len(p.probes)) && !p.probes[seq].answered {
			p.probes[seq].answered = true
			p.received++
		}
		p.mu.Unlock()
	}
}

// Stop ends the sending, waits up to a second for replies that are still
// missing, and reports.
func (p *Pinger) Stop() PingReport {
	p.stopOnce.Do(func() { close(p.stopping) })
	<-p.sender
	p.awaitStragglers()
	p.end()
	p.forget()
	return p.Report()
}

// end stops both goroutines and waits for them.
func (p *Pinger) end() {
	p.stopOnce.Do(func() { close(p.stopping) })
	<-p.sender
	_ = p.sock.conn.Close()
	<-p.receiver
}

func (p *Pinger) awaitStragglers() {
	timeout := time.NewTimer(stragglers)
	defer timeout.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		complete := p.received == len(p.probes)
		p.mu.Unlock()
		if complete {
			return
		}
		select {
		case <-tick.C:
		case <-p.receiver:
			return
		case <-timeout.C:
			return
		}
	}
}

// Report is what there is to report so far; before Stop, requests whose reply
// is on its way count as lost.
func (p *Pinger) Report() PingReport {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := PingReport{Sent: len(p.probes), Received: p.received, SendErr: p.sendErr}
	var since time.Time
	for _, probe := range p.probes {
		if !since.IsZero() {
			r.LongestGap = max(r.LongestGap, probe.sent.Sub(since))
		}
		switch {
		case probe.answered:
			since = time.Time{}
		case since.IsZero():
			since = probe.sent
		}
		if !probe.answered {
			r.LostAt = append(r.LostAt, probe.sent)
		}
	}
	r.Lost = len(r.LostAt)
	return r
}

// String tells the figures in one line.
func (r PingReport) String() string {
	s := fmt.Sprintf("%d sent, %d lost, longest gap %s", r.Sent, r.Lost, r.LongestGap.Round(time.Millisecond))
	if r.SendErr != nil {
		s += fmt.Sprintf(", first error %v", r.SendErr)
	}
	return s
}
