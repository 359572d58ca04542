// Package notice keeps a log short that people read: it says which messages are to be
// logged, and puts many of a kind into one line.
package notice

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"
)

const (
	// alike is how often the same may happen again before it is logged but once a pause.
	alike = 3
	// pauseFirst and pauseMost bound the pauses between two reminders.
	pauseFirst = 10 * time.Minute
	pauseMost  = 24 * time.Hour
	// lapse is how long a state may go without being reported; then it is over. A host
	// where nothing happens is looked at every 5 minutes.
	lapse = 7 * time.Minute
	// perTopic is how many messages of one topic are logged at once, and then one a pause:
	// their texts may differ each time.
	perTopic = 60
	// most bounds how many messages and topics are remembered.
	most = 10_000
)

// Log decides which messages are logged. Its zero value has seen none. It is safe for
// concurrent use.
type Log struct {
	mu       sync.Mutex
	messages map[string]*message
	topics   map[string]*topic
}

// bucket lets so many through at once, and then one each pauseFirst.
type bucket struct {
	used int
	at   time.Time // from when on used counts
}

// has reports whether it would let one through.
func (b *bucket) has(now time.Time, size int) bool {
	if refill := int(now.Sub(b.at) / pauseFirst); refill >= b.used {
		*b = bucket{at: now}
	} else {
		b.used -= refill
		b.at = b.at.Add(time.Duration(refill) * pauseFirst)
	}
	return b.used < size
}

func (b *bucket) full(now time.Time) bool { return now.Sub(b.at) >= time.Duration(b.used)*pauseFirst }

type message struct {
	bucket
	reported time.Time // as a state that lasts; zero if it is over
	next     time.Time // the reminder
	pause    time.Duration
}

type topic struct {
	bucket
	logged   bool                // since it was over
	messages map[string]*message // since then
}

// Event reports whether to log that something happened: not if the same happens again and
// again.
func (l *Log) Event(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	m := l.message(now, text)
	if !m.has(now, alike) {
		return false
	}
	m.used++
	return true
}

// State reports whether to log what is the matter with a topic: when it begins, and ever
// more rarely while it lasts. It may be called as often as it is seen.
func (l *Log) State(about, text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	m, t := l.message(now, about+": "+withoutPorts(text)), l.topic(now, about)
	lasts := !m.reported.IsZero() && now.Sub(m.reported) < lapse
	switch {
	case lasts && now.Before(m.next):
		m.reported = now
		return false
	case lasts:
		m.pause = min(2*m.pause, pauseMost)
	case !m.has(now, alike) || !t.has(now, perTopic):
		return false
	default:
		m.used++
		t.used++
		m.pause = pauseFirst
	}
	m.reported, m.next = now, now.Add(m.pause)
	t.logged = true
	t.messages[text] = m
	return true
}

// Over ends the state of a topic. It reports whether to log that.
func (l *Log) Over(about string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.topics[about]
	if t == nil {
		return false
	}
	for _, m := range t.messages {
		m.reported = time.Time{}
	}
	clear(t.messages)
	logged := t.logged
	t.logged = false
	return logged
}

// AllOver ends the states of all topics, of which nothing is to be logged.
func (l *Log) AllOver() {
	l.mu.Lock()
	about := slices.Collect(maps.Keys(l.topics))
	l.mu.Unlock()
	for _, a := range about {
		l.Over(a)
	}
}

func (l *Log) message(now time.Time, text string) *message {
	m := l.messages[text]
	if m == nil {
		if len(l.messages) >= most {
			maps.DeleteFunc(l.messages, func(_ string, m *message) bool { return m.full(now) && now.Sub(m.reported) > lapse })
		}
		if l.messages == nil || len(l.messages) >= most {
			l.messages = make(map[string]*message)
		}
		m = &message{bucket: bucket{at: now}}
		l.messages[text] = m
	}
	return m
}

func (l *Log) topic(now time.Time, about string) *topic {
	t := l.topics[about]
	if t == nil {
		if l.topics == nil || len(l.topics) >= most {
			l.topics = make(map[string]*topic)
		}
		t = &topic{bucket: bucket{at: now}, messages: make(map[string]*message)}
		l.topics[about] = t
	}
	return t
}

// localPort is a port that the kernel chose, as errors of package net name it.
var localPort = regexp.MustCompile(`:[0-9]+->`)

func withoutPorts(text string) string { return localPort.ReplaceAllString(text, "->") }

const (
	// named is how many of a kind are named.
	named = 3
	// line is how many bytes a line may have in which several are named.
	line = 800
)

// numbers are what makes messages of one kind differ.
var numbers = regexp.MustCompile(`[0-9a-fA-F]*[0-9][0-9a-fA-F:.]*`)

// Sum puts texts of a kind, which differ in numbers and addresses alone, into one text that
// names the first of them. Long ones stay apart.
func Sum(texts []string) []string {
	var sums []string
	at := make(map[string]int)
	more := make(map[string]int) // that are not named
	count := make(map[string]int)
	for _, text := range texts {
		kind := text
		if len(texts) > 1 {
			kind = numbers.ReplaceAllString(text, "0")
		}
		count[kind]++
		switch i, known := at[kind]; {
		case !known:
			at[kind] = len(sums)
			sums = append(sums, text)
		case count[kind] <= named && len(sums[i])+len(text) <= line:
			sums[i] += "; " + text
		case count[kind] <= named:
			at[kind] = len(sums)
			sums = append(sums, text)
		default:
			more[kind]++
		}
	}
	for kind, n := range more {
		sums[at[kind]] += fmt.Sprintf("; and %d more", n)
	}
	return sums
}
