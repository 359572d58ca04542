package subnet

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/printable"
)

// Two machines with one public address can't both be reached by it; often it is not
// the address that was meant, but one that all machines have, behind a NAT of their
// own. A lease says which machine wrote it. Another one that finds it asks, by a word
// in the lease itself, whether the first one is alive: then that writes its lease
// again, as it does whenever someone else changed it. If it does not, the address
// has passed on.
//
// A machine that was renamed has its lease at once. If its ID is also that of another
// one, as an image was copied with it, that one is alive and writes the lease again, by
// the name that the lease had: then we know, and ask from now on. The same goes for one
// that came while we were away, and that does not let us have the lease back.

const (
	// answerTime is how long a machine has for its answer: longer than it takes to
	// notice that the server it was connected to is dead.
	answerTime = 20 * time.Second
	// answerPoll is how often is looked whether there is one.
	answerPoll = 500 * time.Millisecond
	// twinPause is how long one that is alive is not asked again.
	twinPause = 15 * time.Second
)

// SameMachine reports whether two texts that leases say as Machine are of one
// machine. Its name is for people, and may change: what counts is the ID, after the
// last space. Without an ID, the whole text counts.
func SameMachine(a, b string) bool {
	id := a[strings.LastIndexByte(a, ' ')+1:]
	return a == b || id != "" && id != a && strings.HasSuffix(b, " "+id)
}

// twin is what is known of another machine with our public address.
type twin struct {
	machine string
	seen    time.Time // when it last answered
}

// use says what an outlived lease is for.
type use bool

const (
	toBeOurs use = true  // it is about to be taken over
	ofOther  use = false // it stays; only its public address is in question
)

// outlived returns a lease of our public address, or of our machine. If another machine
// may have written it, it is the lease as it is once that machine had time to say that
// it is alive; if it is alive, that is an error.
func (k *Keeper) outlived(ctx context.Context, l *Lease, u use) (*Lease, error) {
	moved := l.PublicIP != k.attrs.PublicIP && (k.readdressed || !k.kept(l))
	same := l.Machine == k.attrs.Machine || l.Machine != k.former && SameMachine(l.Machine, k.attrs.Machine)
	if l.Machine == "" || same && !moved {
		return l, nil
	}
	if SameMachine(k.twin.machine, l.Machine) && time.Since(k.twin.seen) < twinPause {
		return nil, k.alive(l)
	}
	ask := l.Attrs
	ask.Challenger = k.attrs.Machine
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	asked, err := k.Store.Update(cctx, l.Subnet, l.Revision, ask, k.ttl(l.Reserved()))
	if err != nil {
		return nil, fmt.Errorf("asking the machine %s whether it is alive: %w", printable.Name(l.Machine), err)
	}
	patience := answerTime
	if moved || u == ofOther {
		patience = movedAnswerTime // nobody loses a lease if the answer comes later
	}
	if moved {
		k.waiting(fmt.Sprintf("the lease %s of this machine says that its public address is %s: waiting whether another machine with our ID is alive there", l.Subnet, l.PublicIP))
	} else {
		k.waiting(fmt.Sprintf("the lease %s of our public address %s was written by the machine %s: waiting whether it is alive", l.Subnet, l.PublicIP, printable.Name(l.Machine)))
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err := sleep(ctx, answerPoll); err != nil {
			return nil, err
		}
		s, err := k.list(ctx)
		if err != nil {
			return nil, err
		}
		if s.Revision != k.holding.Snapshot.Revision {
			k.follow(s)
			if k.holding.Own != nil {
				k.Changed(k.holding) // the other hosts are followed meanwhile
			}
		}
		switch now := s.Find(l.Subnet); {
		case now != nil && now.Revision == asked.Revision:
		case now == nil, now.PublicIP != l.PublicIP, !SameMachine(now.Machine, l.Machine):
			return nil, ErrChanged // by someone else: all is to be looked at anew
		case now.Challenger == "":
			k.twin = twin{l.Machine, time.Now()}
			return nil, k.alive(l)
		default:
			// A third machine asks, too. Were we to ask over that, and it over us,
			// neither would ever have waited for long enough.
			asked, end = now, time.Now().Add(patience)
		}
	}
	if moved {
		klog.Warningf("the lease %s of this machine says that its public address is %s, where nobody answers: it is %s now", l.Subnet, l.PublicIP, k.attrs.PublicIP)
		return asked, nil
	}
	if u == ofOther {
		klog.Warningf("the machine %s, whose lease %s has our public address %s, does not answer", printable.Name(l.Machine), l.Subnet, l.PublicIP)
		return asked, nil
	}
	klog.Warningf("the machine %s, which had our public address %s and the lease %s, does not answer: the lease is ours now", printable.Name(l.Machine), l.PublicIP, l.Subnet)
	return asked, nil
}

// lookBack looks whether our lease, nil if there is none, is again that of a machine
// that we wrote over a moment ago. So that is alive, and not us by another name, even
// if it has our ID.
func (k *Keeper) lookBack(l *Lease) {
	if l != nil && l.Machine != "" && l.Machine != k.attrs.Machine && l.Machine == k.overwrote && time.Since(k.corrected) < retryMost {
		k.former = l.Machine
	}
}

// alive is why a lease of our public address, or of our machine ID, can't be ours.
func (k *Keeper) alive(l *Lease) error {
	if l.PublicIP != k.attrs.PublicIP {
		return errCopy
	}
	return waitingFor{fmt.Errorf("the public address %s of this machine, %s, is also that of the machine %s, which is alive and has the lease %s: give this one another by -iface, -iface-regex or -public-ip",
		l.PublicIP, k.attrs.Machine, printable.Name(l.Machine), l.Subnet)}
}
