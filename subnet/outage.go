package subnet

import (
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/notice"
)

// outage logs what keeps us from reading or writing leases, unless it is over at once, and
// when it is over.
type outage struct {
	notify func(error) // why there is one, or nil when it is over; may be nil
	store  string      // what messages call it

	mu    sync.Mutex
	log   notice.Log
	since time.Time // zero: none
	err   error     // the latest
	texts []string  // of errors, since then, that were logged as they came
	first *time.Timer
}

const (
	// outageDebounce is how long an outage must last before it is logged: the store may
	// be restarted.
	outageDebounce = time.Second
	// outageTexts is how many errors are logged as they come. In the words of the network
	// one outage has many.
	outageTexts = 2
	aboutStore  = "store"
)

func (o *outage) note(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.notify != nil && (o.since.IsZero() || steady(o.err) != steady(err)) {
		o.notify(err)
	}
	o.err = err
	if o.since.IsZero() {
		o.since = time.Now()
		o.first = time.AfterFunc(outageDebounce, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.report()
		})
		return
	}
	o.report()
}

// report logs the latest error. The caller holds o.mu.
func (o *outage) report() {
	if o.since.IsZero() || time.Since(o.since) < outageDebounce {
		return
	}
	text := steady(o.err)
	switch {
	case slices.Contains(o.texts, text):
	case len(o.texts) < outageTexts:
		o.texts = append(o.texts, text)
	default:
		text = o.texts[0]
	}
	if o.log.State(aboutStore, text) {
		klog.Errorf("%v; trying again, nothing changes meanwhile", o.err)
	}
}

func (o *outage) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		o.first.Stop()
		if o.notify != nil {
			o.notify(nil)
		}
	}
	if o.log.Over(aboutStore) {
		klog.Infof("%s reachable again after %s", o.store, time.Since(o.since).Round(100*time.Millisecond))
	}
	o.since, o.texts = time.Time{}, nil
}

// stop ends what would still be logged later.
func (o *outage) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.first != nil {
		o.first.Stop()
	}
}
