package notice

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Gather logs texts at once, unless others were logged a moment ago: then all that come
// until the moment is over are put together. Its zero value needs Logf.
type Gather struct {
	Logf func(format string, a ...any)
	// Component is the part of the daemon that the texts are about.
	Component string
	// All has texts logged however often they come: a Log has let each of them through.
	All bool

	mu      sync.Mutex
	log     Log
	texts   []string
	timer   *time.Timer // until it fires, texts are kept; nil if they are not
	held    []held      // what came too often to be logged, the latest last
	release *time.Timer // when held is logged
	stopped bool
}

// About is a text with the part of the daemon that it is about.
type About struct{ Component, Text string }

func (a About) String() string { return a.Text }

// held is what texts that say the same have come to.
type held struct {
	about, text string // the latest
	times       int
}

// heldMost bounds held.
const heldMost = 1000

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
		switch about := about(text); {
		case g.All:
			g.Logf("%s", About{g.Component, text})
		case g.news(about):
			g.take(about)
			g.Logf("%s", About{g.Component, text})
		default:
			g.hold(about, text)
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

// news reports whether a text about one or several things, which about is of, says of any what
// has not been said too often. Which of them come together is chance.
func (g *Gather) news(about string) bool {
	at := strings.LastIndex(about, ": ")
	if at < 0 || more.MatchString(about) {
		return g.log.Event(about)
	}
	news := false
	for thing := range strings.SplitSeq(about[:at], "; ") {
		if g.log.Event(thing + about[at:]) {
			news = true
		}
	}
	return news
}

// hold keeps a text until it is time for a line, so that the last word is not an old one.
func (g *Gather) hold(about, text string) {
	h := g.take(about)
	g.held = append(g.held, held{about, text, h.times + 1})
	if len(g.held) > heldMost {
		g.held = g.held[1:]
	}
	if g.release == nil && !g.stopped {
		g.release = time.AfterFunc(pauseFirst, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.release = nil; !g.stopped {
				g.logHeld()
			}
		})
	}
}

// take removes what is held about the same.
func (g *Gather) take(about string) held {
	i := slices.IndexFunc(g.held, func(h held) bool { return h.about == about })
	if i < 0 {
		return held{}
	}
	h := g.held[i]
	g.held = slices.Delete(g.held, i, i+1)
	return h
}

// logHeld logs what is held. The caller holds g.mu.
func (g *Gather) logHeld() {
	var texts []string
	for _, h := range g.held {
		times := "once"
		if h.times > 1 {
			times = fmt.Sprintf("%d times", h.times)
		}
		texts = append(texts, fmt.Sprintf("%s (%s within %s)", h.text, times, pauseFirst))
	}
	for _, text := range Sum(texts) {
		g.Logf("%s", About{g.Component, text})
	}
	g.held = nil
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
	if g.release != nil {
		g.release.Stop()
	}
	g.flush()
	g.logHeld()
}
