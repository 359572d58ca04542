package subnet

import (
	"errors"
	"fmt"
	"time"

	"flanneld/pkg/printable"
)

// begin tries to get the first lease, however long it takes.
func (t *turn) begin() {
	t.begun, t.waitsFor = t.now.at, ""
	t.retry.Reset()
	t.todo = []goal{acquire{}, settle{}}
}

// retryIn has what failed be tried again after a pause.
func (t *turn) retryIn(pause time.Duration) { t.retrying, t.due = true, t.now.at.Add(pause) }

// fail gives up what there was to do, as a part of it failed. It is tried again after a
// pause, or this host starts without the store if that takes too long.
func (t *turn) fail(err error) {
	t.todo = nil
	t.publish()
	t.resumeLater()
	if t.mode == online && t.holding.Holder != "" {
		err = fmt.Errorf("taking another subnet than %s, which belongs to %s: %w", t.holding.Own.Subnet, t.holding.Holder, err)
	}
	waits, beaten := errors.As(err, new(waitingFor)), errors.Is(err, ErrExists) || errors.Is(err, ErrChanged)
	if waits || beaten {
		t.served()
		t.begun = t.now.at
		if t.waitsFor != "" {
			t.waitsFor = ""
			t.retry.Reset()
		}
	}
	longest := retryMost
	switch {
	case beaten:
		// Another host was faster. It can't have been faster with all of the others, too.
		t.logf(verbose, "%v; trying again", err)
	case waits && t.mode == online:
		t.logf(warningState, "%v; trying again", err)
	case waits:
		text := err.Error() + t.configRemedy(err)
		t.waitFor(text)
		t.logf(warningState, "waiting: %s", text)
		t.retryIn(configPoll)
		return
	case t.mode == online:
		t.notify(storeFailed{err})
	default:
		longest = configPoll
		if why := steady(err); why != t.waitsFor { // which subnet was asked for does not matter
			t.waitsFor = why
			t.waitFor("waiting for the store: " + err.Error())
		}
		t.notify(storeFailed{err})
		if t.saved.exists && t.since(t.begun) >= offlineAfter {
			t.todo = []goal{loadSaved{}, adoptSaved{}}
			return
		}
	}
	if left := t.rests(); left > 0 {
		longest = min(longest, left)
	}
	t.retryIn(min(t.retry.Next(t.source()), longest))
}

// configRemedy says where the configuration is that an error is about, if it is about one.
func (t *turn) configRemedy(err error) string {
	if !errors.As(err, new(*ConfigError)) || t.configKey == "" {
		return ""
	}
	return "; correct the " + t.configPlace() + ", nothing has to be restarted"
}

// adoptSaved starts with what was saved as if it came from the store, if this host may
// still live by it. Else it goes on trying: what is wrong may get better, as when the
// clock is set or the interface comes up.
type adoptSaved struct{}

func (adoptSaved) start(t *turn) (action, error) {
	err := t.saved.err
	switch {
	case errors.Is(err, ErrUnread):
	case err != nil:
		t.saved.exists = false // it will not get better
	default:
		err = t.unusable(t.saved.Saved)
	}
	if err != nil {
		t.waitForStore(err)
		return nil, nil
	}
	return prepare{t.saved.Config, t.saved.Snapshot}, nil
}

func (adoptSaved) finish(t *turn, a answer) error {
	s, err := t.saved.Saved, a.err
	if err == nil {
		err = t.identity.foreign(s.Own, a.attrs)
	}
	if err != nil {
		t.waitForStore(err)
		return nil
	}
	t.attrs, t.avoid, t.asked, t.outdated = a.attrs, a.avoid, s.Snapshot.Own, false
	t.identity.readdressed = !a.attrs.PublicIP.Matches(s.Own.PublicIP)
	whose := "ours for ever"
	switch {
	case s.Holder != "":
		whose = "now that of " + s.Holder
	case !s.Own.Reserved():
		whose = "ours until " + s.Own.Expires.Format(time.DateTime)
	}
	t.logf(warning, "the store cannot be reached: starting with what was known of it at %s, %d leases; our subnet %s is %s",
		s.At.Format(time.DateTime), len(s.Snapshot.Leases), s.Own.Subnet, whose)
	t.holding, t.mode = s.Holding, offline
	t.holding.Partial = true
	t.publish()
	t.saved = recollection{}
	t.identity.previous = s.Own.Subnet
	t.begin()
	return nil
}

// waitForStore goes on trying to reach the store.
func (t *turn) waitForStore(err error) {
	t.logf(warningState, "waiting for the store, as there is nothing to start with: %v", err)
	t.retryIn(min(t.retry.Next(t.source()), configPoll))
}

// unusable returns why this host cannot live by a saved lease, if so.
func (t *turn) unusable(s Saved) error {
	// Of what was saved, there is but the reading of the wall clock.
	switch own := s.Own; {
	case t.now.at.Before(s.At):
		return fmt.Errorf("it was saved at %s, which is yet to come: the clock can't be right", s.At.Format(time.DateTime))
	case !own.Reserved() && !t.now.at.Before(own.Expires):
		return fmt.Errorf("our lease %s ended at %s", own.Subnet, own.Expires.Format(time.DateTime))
	case !s.Config.Keeps(own.Subnet):
		return fmt.Errorf("our lease %s does not fit the configuration", own.Subnet)
	}
	return nil
}

// foreign returns why a saved lease is not that of this host, whose lease says attrs, if
// so.
func (i identity) foreign(own *Lease, attrs Attrs) error {
	// Machines made from one image may have one ID: see moved.
	if !attrs.PublicIP.Matches(own.PublicIP) && (own.Machine == "" || !SameMachine(own.Machine, attrs.Machine) || i.previous.IsValid() && !own.Subnet.Shares(i.previous)) {
		return fmt.Errorf("our lease is that of another public address, %s", own.PublicIP)
	}
	if own.Machine != "" && !SameMachine(printable.Name(own.Machine), attrs.Machine) {
		return fmt.Errorf("our lease is that of the machine %s, and this one is %s", printable.Name(own.Machine), attrs.Machine)
	}
	return nil
}
