package kernel

import (
	"net/netip"

	"flanneld/pkg/state"
)

// unmanaged is something under a key of ours such as this program does not make.
type unmanaged struct {
	state.Object // as far as it is of a kind of ours; that is what it takes to delete it
	text         string
	// remake is set if the kernel cannot change it into an object of ours. It is deleted
	// first, and what depends on it goes along.
	remake bool
	other  bool       // nothing but its key is that of a kind of ours
	peer   netip.Addr // of a point-to-point address
}

func (u unmanaged) String() string { return u.text }

// Is implements state.Unmanaged.
func (u unmanaged) Is() state.Object {
	if u.other {
		return nil
	}
	return u.Object
}

// InPlace reports, of a device, whether it can be put right as it is.
func (u unmanaged) InPlace() bool { return !u.remake }

// as returns an object as far as it is of a kind of ours.
func as[T state.Object](o state.Object) T {
	if u, ok := o.(unmanaged); ok {
		o = u.Object
	}
	return o.(T)
}
