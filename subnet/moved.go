package subnet

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// A host's public address may change while no daemon runs there. Its lease then bears the
// old address, and is found by the machine that wrote it. A copy of a machine, made with
// its disk, has the same ID and remembers the same subnet. So whoever wrote the lease is
// asked whether it is alive at the old address, before the lease is taken over.

// movedAnswerTime is how long an original has for its answer. A machine that asks it has
// its ID and its subnet, and so most likely is the original itself.
const movedAnswerTime = 5 * time.Second

// errCopy means that another machine with our ID lives by a lease.
var errCopy = errors.New("a machine with our ID is alive")

// moved reports whether a lease is this machine's, though it bears another public address:
// it is of the subnet that this host had before, and its machine has our ID. The ID alone
// is not enough, since machines made from one image may all have one.
func (k *Keeper) moved(l *Lease) bool {
	switch {
	case l.Subnet != k.Previous, l.PublicIP == k.attrs.PublicIP, l.Subnet == k.copied:
		return false
	case l.Machine == "": // flannel wrote it, which does not answer
		return k.hadAddress(l.PublicIP)
	}
	return SameMachine(l.Machine, k.attrs.Machine)
}

// hadAddress reports whether this host had a public address when it last ran.
func (k *Keeper) hadAddress(public ip.Addrs) bool {
	if k.PreviousIP == public {
		return true
	}
	if k.Saved == nil {
		return false
	}
	s, err := k.Saved()
	return err == nil && s.Own.Subnet == k.Previous && s.Own.PublicIP == public
}

// preferred reports whether lease a is to be taken over rather than b: one of this
// machine, then the subnet that we had before, then a reservation, then one such as would
// be given out now.
func (k *Keeper) preferred(c *Config, a, b *Lease) bool {
	foreign := func(l *Lease) bool { return l.Machine != "" && !SameMachine(l.Machine, k.attrs.Machine) }
	return cmp.Or(
		compareBool(foreign(b), foreign(a)),
		compareBool(a.Subnet == k.Previous, b.Subnet == k.Previous),
		compareBool(a.Reserved(), b.Reserved()),
		compareBool(c.Fits(a.Subnet), c.Fits(b.Subnet)),
		compareBool(a.Machine != "", b.Machine != ""),
	) > 0
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// disown leaves a lease to the machine with our ID that lives by it. The error has us look
// at all leases anew.
func (k *Keeper) disown(l *Lease) error {
	k.copied = l.Subnet
	klog.Warningf("the lease %s is that of the machine %s, which is alive at %s: this machine is a copy of it, and takes another subnet; give it a machine ID of its own", l.Subnet, printable.Name(l.Machine), l.PublicIP)
	return fmt.Errorf("taking over the lease %s: %w: %w", l.Subnet, errCopy, ErrChanged)
}
