package subnet

import "time"

// SlowAnswer is how long a server of a store may take for an answer, if all is well.
const SlowAnswer = time.Second

// SlowRemedy is what to do about one that takes longer.
const SlowRemedy = "see its log, its disk and its load, and the network between"

// ServerHealth is what a server of a store says of itself, whatever network it has.
type ServerHealth struct {
	Name    string // as messages call it, without a password
	Version string
	Took    time.Duration // the answer
	Date    time.Time     // by its clock, to the second; zero if it did not say
	At      time.Time     // by this host's, when it said so
	Err     error         // why there is no answer
	Advice  string        // what to do about that
}

// QuickestOf asks a server some times, and returns the answer that took the least time: a busy
// machine has some wait.
func QuickestOf(ask func() ServerHealth) ServerHealth {
	const times = 3
	best := ask()
	for i := 1; i < times && best.Err == nil; i++ {
		if h := ask(); h.Err != nil || h.Took < best.Took {
			best = h
		}
	}
	return best
}
