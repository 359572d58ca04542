package subnet

import (
	"net/netip"
	"time"

	"flanneld/pkg/ip"
)

// moment is when decide is asked.
type moment struct {
	at   time.Time     // its monotonic clock stands still while the host is suspended
	boot time.Duration // since the host was started, the time of suspension included
}

// event is what decide learns: started, answer, newSnapshot, newConfig, refreshAsked or timeUp.
type event any

type (
	// started is the first event.
	started struct{}

	// answer is the result of an action; which fields it has depends on that.
	answer struct {
		config   []byte
		snapshot Snapshot
		lease    *Lease
		attrs    Attrs
		avoid    []netip.Prefix
		saved    Saved
		err      error
	}

	// newSnapshot comes of the watch.
	newSnapshot struct{ Snapshot }

	// newConfig comes of the watch of the configuration, where that is not part of newSnapshot.
	newConfig struct{ StoredConfig }

	// refreshAsked has Prepare asked again: it may answer otherwise by now.
	refreshAsked struct{}

	// timeUp ends a listen in which nothing was heard.
	timeUp struct{}
)

// action is what a Keeper does next: one of these. All but listen end with an answer.
type action any

type (
	readConfig struct{ timeout time.Duration }

	listLeases struct{ timeout time.Duration }

	createLease struct {
		subnet ip.Subnet
		attrs  Attrs
		ttl    time.Duration
	}

	// updateLease writes a lease, if revision is that of its last write.
	updateLease struct {
		subnet   ip.Subnet
		revision uint64
		attrs    Attrs
		ttl      time.Duration
	}

	// moveLease writes a lease in the place of that of another subnet, if revision is that of
	// the last write of that one.
	moveLease struct {
		from     ip.Subnet
		revision uint64
		to       ip.Subnet
		attrs    Attrs
		ttl      time.Duration
	}

	// deleteLease deletes a lease, if revision is that of its last write.
	deleteLease struct {
		subnet   ip.Subnet
		revision uint64
	}

	// prepare asks Prepare.
	prepare struct {
		config   *Config
		snapshot Snapshot
	}

	// loadSaved reads what this host held when it last ran.
	loadSaved struct{}

	// sleep waits, and hears nothing meanwhile.
	sleep struct{ d time.Duration }

	// listen waits for the watch or a refresh, for no longer than d.
	listen struct{ d time.Duration }
)

// report is what a Keeper passes on before it acts: one of these.
type report any

type (
	// logLine goes to the log.
	logLine struct {
		level level
		topic string // the text, but for what it is about this time
		text  string
	}

	// ended ends what was logged as lasting of a topic; of all, where that is empty.
	ended struct{ topic string }

	// changed goes to Keeper.Changed.
	changed struct{ Holding }

	// waiting goes to Keeper.Waiting.
	waiting struct{ text string }

	// storeFailed has the store in an outage, storeWorks ends that.
	storeFailed struct{ err error }
	storeWorks  struct{}
)

// level is how much a log line matters.
type level int

const (
	verbose level = iota // shown with -v=1
	info
	warning
	warningEvent // of what may happen again and again: not each time
	warningState // of what lasts: ever more rarely
	severe
)
