package network

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/notice"
)

// Obstacle is something on this host that keeps packets from their way and is not ours
// to remove: a foreign rule, route or setting.
type Obstacle struct {
	Kind ObstacleKind
	// Subject is what cannot be reached or does not work: "10.5.3.0/24", "flannel.1".
	Subject string
	// Problem says what is in the way, and names it.
	Problem string
	// Remedy is the command, or the commands, that an administrator can give.
	Remedy string
}

// ObstacleKind tells those apart that one look finds.
type ObstacleKind string

// The kinds of obstacles that are not what the look that finds them is about.
const (
	OnRPFilter  ObstacleKind = "rp_filter" // packets are dropped for where they are from
	OnInterface ObstacleKind = "interface" // the external one is another than that to the peers
	OnPods      ObstacleKind = "pods"      // they are not in the network
)

func (o Obstacle) String() string {
	text := o.Subject + ": " + o.Problem
	if o.Remedy != "" {
		text += "; mend it by: " + o.Remedy
	}
	return text
}

const (
	// obstacleDebounce is how long an obstacle must be there before it is reported, and
	// gone before that is: neighbours on a host take rules and routes away and bring
	// them back within that time.
	obstacleDebounce = time.Second
	// obstacleRetry is how soon it is tried again to log one that came and went too often:
	// it is logged if it stays.
	obstacleRetry = time.Minute
)

// Obstacles are what keeps packets from their way on this host. Each source reports its
// own as a whole. The zero value is empty.
type Obstacles struct {
	// Changed is called, if set, when Reported returns something else.
	Changed func()

	mu      sync.Mutex
	known   map[obstacleKey]*sighting
	timer   *time.Timer
	stopped bool
	log     notice.Log
}

type obstacleKey struct {
	source string
	Obstacle
}

// sighting is what is known of one obstacle.
type sighting struct {
	present  bool      // as its source last reported
	since    time.Time // present has this value
	reported bool      // in the status
	logged   bool
}

// Report replaces what a source has reported before.
func (o *Obstacles) Report(source string, now []Obstacle) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil {
		o.known = make(map[obstacleKey]*sighting)
	}
	present := make(map[obstacleKey]bool, len(now))
	for _, obstacle := range now {
		k := obstacleKey{source, obstacle}
		present[k] = true
		if o.known[k] == nil {
			o.known[k] = &sighting{}
		}
	}
	for k, s := range o.known {
		if k.source == source && s.present != present[k] {
			s.present, s.since = present[k], time.Now()
		}
	}
	o.update()
}

// update moves what has lasted into the log and the status. The caller holds o.mu.
func (o *Obstacles) update() {
	if o.timer != nil {
		o.timer.Stop()
	}
	var appeared, gone []string
	status := false
	wait := time.Duration(-1)
	lookIn := func(d time.Duration) {
		if wait < 0 || d < wait {
			wait = d
		}
	}
	for _, k := range o.sorted() {
		s := o.known[k]
		left := obstacleDebounce - time.Since(s.since)
		switch {
		case s.present == s.reported && !s.present:
			delete(o.known, k)
		case s.present == s.reported:
		case left > 0:
			lookIn(left)
		case s.present:
			s.reported, status = true, true
		default:
			delete(o.known, k)
			status = true
			if s.logged {
				gone = append(gone, k.Subject+": "+k.Problem)
			}
		}
		if s.present && s.reported && !s.logged {
			if s.logged = o.log.Event(k.source + ": " + k.String()); s.logged {
				appeared = append(appeared, k.String())
			} else {
				lookIn(obstacleRetry)
			}
		}
	}
	if wait >= 0 && !o.stopped {
		o.timer = time.AfterFunc(wait, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.update()
		})
	}
	logSums(klog.Warningf, "packets are kept from their way", appeared)
	logSums(klog.Infof, "no longer in the way", gone)
	if status && o.Changed != nil {
		o.Changed()
	}
}

// logSums logs texts, those of a kind in one line.
func logSums(logf func(string, ...any), what string, texts []string) {
	for _, text := range notice.Sum(texts) {
		logf("%s: %s", what, text)
	}
}

// Reported returns those that have lasted, in an order that does not change.
func (o *Obstacles) Reported() []Obstacle {
	o.mu.Lock()
	defer o.mu.Unlock()
	var reported []Obstacle
	for _, k := range o.sorted() {
		if o.known[k].reported {
			reported = append(reported, k.Obstacle)
		}
	}
	return reported
}

// sorted returns the keys in an order that does not change. The caller holds o.mu.
func (o *Obstacles) sorted() []obstacleKey {
	return slices.SortedFunc(maps.Keys(o.known), func(a, b obstacleKey) int {
		return cmp.Or(
			strings.Compare(a.source, b.source),
			strings.Compare(a.Subject, b.Subject),
			strings.Compare(a.Problem, b.Problem),
			strings.Compare(a.Remedy, b.Remedy),
		)
	})
}

// Stop ends what would still happen later.
func (o *Obstacles) Stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = true
	if o.timer != nil {
		o.timer.Stop()
	}
}
