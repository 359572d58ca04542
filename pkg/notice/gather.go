package notice

import (
	"sync"
	"time"
)

// Gather logs texts at once, unless others were logged a moment ago: then all that come
// until the moment is over are put together. Its zero value needs Logf.
type Gather struct {
	Logf func(format string, a ...any)

	mu      sync.Mutex
	log     Log
	texts   []string
	timer   *time.Timer // until it fires, texts are kept; nil if they are not
	stopped bool
}

// moment is how long it takes for what belongs together to come in.
const moment = time.Second

// Add logs texts, now or in a moment.
func (g *Gather) Add(texts ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(texts) == 0 {
		return
	}
	g.texts = append(g.texts, texts...)
	if g.timer == nil || g.stopped {
		g.flush()
	}
}

// flush logs what there is. The caller holds g.mu.
func (g *Gather) flush() {
	for _, text := range Sum(g.texts) {
		if g.log.Event(text) {
			g.Logf("%s", text)
		}
	}
	g.texts = nil
	if g.stopped {
		return
	}
	g.timer = time.AfterFunc(moment, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.timer = nil; len(g.texts) > 0 && !g.stopped {
			g.flush()
		}
	})
}

// Stop logs what is left, and has later texts logged at once.
func (g *Gather) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	if g.timer != nil {
		g.timer.Stop()
	}
	g.flush()
}
