package netfilter

import (
	"slices"
	"time"

	"k8s.io/klog/v2"
)

const (
	dockerChain = "DOCKER"
	dropped     = verdict("DROP")
	rejected    = verdict("REJECT")
)

// refusing answers about the rules of a table, and remembers what it found of chains: many
// rules may lead to one.
type refusing struct {
	chains           map[string]*iptChain
	ends, may, leads map[verdict]bool
	// guarded is set if Docker refuses all that comes to a bridge of its own from elsewhere
	// and that it does not forward itself, as it does from version 28 on. The pods are
	// behind such a bridge.
	guarded bool
}

func newRefusing(chains map[string]*iptChain) *refusing {
	t := &refusing{chains: chains, ends: make(map[verdict]bool), may: make(map[verdict]bool), leads: make(map[verdict]bool)}
	if c := chains[dockerChain]; c != nil {
		t.guarded = slices.ContainsFunc(c.rules, func(r iptRule) bool { return r.guard })
	}
	return t
}

// rest reports whether a rule refuses whatever no rule before it is about: at once, or in a
// chain that ends so.
func (t *refusing) rest(r iptRule) bool {
	return r.always && t.endsSo(r.verdict) || t.guarded && t.leadsToDocker(r.verdict)
}

func (t *refusing) endsSo(v verdict) bool {
	c := t.chains[string(v)]
	if c == nil {
		return v == dropped || v == rejected
	}
	if is, known := t.ends[v]; known {
		return is
	}
	t.ends[v] = false
	for _, r := range c.rules {
		if !r.always {
			continue
		}
		if t.endsSo(r.verdict) {
			t.ends[v] = true
			break
		}
		if r.goes || r.verdict == accept || r.verdict == ret {
			break
		}
	}
	return t.ends[v]
}

// some reports whether a rule may refuse packets, or leave that to some program.
func (t *refusing) some(r iptRule) bool {
	return t.any(r.verdict, t.may, func(v verdict) bool {
		return slices.Contains([]verdict{dropped, rejected, "QUEUE", "NFQUEUE"}, v)
	})
}

func (t *refusing) leadsToDocker(v verdict) bool {
	return t.any(v, t.leads, func(v verdict) bool { return v == dockerChain })
}

// any reports whether a verdict is so, or that of a rule in the chain that it leads to.
func (t *refusing) any(v verdict, known map[verdict]bool, is func(verdict) bool) bool {
	c := t.chains[string(v)]
	if c == nil || is(v) {
		return is(v)
	}
	if is, ok := known[v]; ok {
		return is
	}
	known[v] = false
	known[v] = slices.ContainsFunc(c.rules, func(r iptRule) bool { return t.any(r.verdict, known, is) })
	return known[v]
}

const (
	// movesFree are the times that our jump gives way to rules behind it at once.
	movesFree = 3
	// movePause is how long it rests after that, at first, and moveMost at most.
	movePause = 10 * time.Second
	moveMost  = 10 * time.Minute
)

// moves keeps the jump from racing with another program for the last place.
type moves struct {
	count      int
	last, next time.Time
}

// add notes that the jump was put behind a rule.
func (m *moves) add(now time.Time, name, rule string) {
	if now.Sub(m.last) > 2*moveMost {
		m.count = 0
	}
	m.last, m.next = now, now
	if m.count++; m.count < movesFree {
		return
	}
	m.next = now.Add(min(movePause<<min(m.count-movesFree, 10), moveMost))
	if m.count == movesFree {
		klog.Warningf("forwarding by %s: something keeps adding rules behind ours, such as %s; what they refuse may be let through for up to %s", name, rule, moveMost)
	}
}
