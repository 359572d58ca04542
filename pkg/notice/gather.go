package notice

import (
	"regexp"
	"sync"
	"time"
)

// Gather logs texts at once, unless others were logged a moment ago: then all that come
// until the moment is over are put together. Its zero value needs Logf.
type Gather struct {
	Logf func(format string, a ...any)
	// All has texts logged however often they come: a Log has let each of them through.
	All bool

	mu      sync.Mutex
	log     Log
	texts   []string
	timer   *time.Timer // until it fires, texts are kept; nil if they are not
	stopped bool
}

// more ends what is named of many things.
var more = regexp.MustCompile(`; and [0-9]+ more\b`)

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
		if g.All || g.log.Event(about(text)) {
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

// about is what texts have in common that say the same. Of many things, which of them are
// named is chance.
func about(text string) string {
	if more.MatchString(text) {
		return numbers.ReplaceAllString(text, "0")
	}
	return text
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
