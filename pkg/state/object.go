// Package state is the language between those who say how a host should look
// and those who make it so: objects, sets of them, and the difference between
// what is wanted and what is there. Each kind of object has a file.
package state

import (
	"net/netip"

	"flanneld/pkg/ip"
)

// Object is one thing that a host can have. Objects are values of comparable types: two
// objects are the same if they are ==.
//
// A kind says of itself what the reconciler has to know, by methods of its objects. An
// object without a method has none of what that is about:
//
//	Kind() Kind                 that of its key, which is then not made for that alone
//	Needs() []Key               it cannot be without these; the first leads to its device
//	LeadsTo() Key               packets that come to it go on by this one
//	Owned(*Ownership) bool      it is this daemon's, if the dataplane says Ours
//	Unmarked() bool             nothing on it tells whose it is, but what led to it
//	Same(there Object) bool     it is what is wanted, though it is not ==
//	Serves(want Object) bool    it does what is wanted, whosever it is
//	FlushedBy(Op) bool          it goes with the step, which is about a device
//	InUse(want Object) bool     it is of use until it is as wanted
//	SupersededBy(Key) bool      it stays until that is there
//	LeaseSubnet() netip.Prefix  it is there for the lease of this subnet
//	PeerDevice() string         it leads to peers, out of this interface
//	Claim() any                 several peers may call for it, by this attribute
//	Essential() bool            without it this host has no end of the overlay
//	DependsOnRoutes() bool      others' routes decide whether it can be had
//	Path() Path                 it decides which way packets to a peer take
//	Datagrams() Datagrams       it puts packets into datagrams
//	OffHost() string            it is not on this host, so this becomes of it
type Object interface {
	Key() Key
	// String is for people: what the object is and what it is about.
	String() string
}

// Unmanaged is something under a key of ours that is not as this program makes it.
type Unmanaged interface {
	Object
	// Is returns the object as far as it is of a type of ours; nil if it is something
	// else.
	Is() Object
}

// managed is what an object is, even if unmanaged; nil if it is nothing of ours.
func managed(o Object) Object {
	if u, ok := o.(Unmanaged); ok {
		return u.Is()
	}
	return o
}

// exact is an object that is as this program makes it; nil for any other.
func exact(o Object) Object {
	if _, ok := o.(Unmanaged); ok {
		return nil
	}
	return o
}

// WhichKind returns the kind of an object. There are tens of thousands of some kinds.
func WhichKind(o Object) Kind {
	if k, ok := o.(interface{ Kind() Kind }); ok {
		return k.Kind()
	}
	return o.Key().Kind
}

// Needs returns the keys of what an object cannot be without. They may be of objects that
// nobody wants.
func Needs(o Object) []Key {
	if n, ok := managed(o).(interface{ Needs() []Key }); ok {
		return n.Needs()
	}
	return nil
}

// LeadsTo returns the key of what packets that come to an object go on by.
func LeadsTo(o Object) (Key, bool) {
	if l, ok := exact(o).(interface{ LeadsTo() Key }); ok {
		return l.LeadsTo(), true
	}
	return Key{}, false
}

// DeviceOf returns the device that an object is on, by what it needs; empty if it is on
// none.
func DeviceOf(o Object, have Observed) string {
	for o != nil {
		needs := Needs(o)
		if len(needs) == 0 {
			return ""
		}
		if needs[0].Kind == KindLink {
			return needs[0].Scope
		}
		o = have[needs[0]].Object
	}
	return ""
}

// Same reports whether what is there is what is wanted.
func Same(want, there Object) bool {
	if s, ok := want.(interface{ Same(Object) bool }); ok {
		return s.Same(there)
	}
	return want == there
}

// serves reports whether what is there, and is not ours, does what is wanted.
func serves(want, there Object) bool {
	if s, ok := exact(there).(interface{ Serves(Object) bool }); ok {
		return s.Serves(want)
	}
	return want == there
}

// FlushedBy reports whether an object goes with a step that is about a device.
func FlushedBy(o Object, op Op) bool {
	f, ok := managed(o).(interface{ FlushedBy(Op) bool })
	return ok && f.FlushedBy(op)
}

// InUse reports whether what a step is to alter is of use as it is.
func InUse(op Op) bool {
	u, ok := exact(op.Have).(interface{ InUse(Object) bool })
	return ok && op.Want != nil && u.InUse(op.Want)
}

// SupersededBy reports whether an object stays until that of a key is there.
func SupersededBy(o Object) (by func(Key) bool, ok bool) {
	s, ok := managed(o).(interface{ SupersededBy(Key) bool })
	if !ok {
		return nil, false
	}
	return s.SupersededBy, true
}

// LeaseSubnet returns the subnet for whose lease an object is there, without a length if it is
// known by its address alone; the zero Prefix if it is for none.
func LeaseSubnet(o Object) netip.Prefix {
	if s, ok := managed(o).(interface{ LeaseSubnet() netip.Prefix }); ok {
		return s.LeaseSubnet()
	}
	return netip.Prefix{}
}

// BySubnetAddr is what LeaseSubnet returns for objects that are known by the address alone.
func BySubnetAddr(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, -1) }

// PeerDevice returns the interface by which an object leads to peers; empty if it does not.
func PeerDevice(o Object) string {
	if p, ok := exact(o).(interface{ PeerDevice() string }); ok {
		return p.PeerDevice()
	}
	return ""
}

// Claim returns the attribute, with its value, by which several peers may call for an
// object; nil if they cannot. It is comparable, and printed for people.
func Claim(o Object) any {
	if c, ok := o.(interface{ Claim() any }); ok {
		return c.Claim()
	}
	return nil
}

// Unmarked reports whether nothing on an object tells whose it is.
func Unmarked(o Object) bool {
	u, ok := managed(o).(interface{ Unmarked() bool })
	return ok && u.Unmarked()
}

// Essential reports whether this host has no end of the overlay without an object.
func Essential(o Object) bool {
	e, ok := o.(interface{ Essential() bool })
	return ok && e.Essential()
}

// DependsOnRoutes reports whether it depends on others' routes whether an object can be had.
func DependsOnRoutes(o Object) bool {
	d, ok := managed(o).(interface{ DependsOnRoutes() bool })
	return ok && d.DependsOnRoutes()
}

// Path is the way of packets to a peer, as an object has it.
type Path struct {
	Dst netip.Prefix
	// Dev is the device that packets for Dst leave by, to Via. Both are zero if the
	// external interface is to be that, and a router knows more.
	Dev string
	Via netip.Addr
	// Host gets packets for Dst in datagrams, which may take any way.
	Host netip.Addr
}

// PathOf returns the way that packets to a peer take by an object, if it decides that.
func PathOf(o Object) (Path, bool) {
	if p, ok := o.(interface{ Path() Path }); ok {
		return p.Path(), true
	}
	return Path{}, false
}

// Datagrams are what a device puts packets into.
type Datagrams struct {
	Dev     string
	Family  ip.Family // of their addresses
	Port    uint16    // of UDP, where they go to
	SrcPort uint16    // where they come from; 0 for any
}

// DatagramsOf returns what an object puts packets into, if it does.
func DatagramsOf(o Object) (Datagrams, bool) {
	if d, ok := o.(interface{ Datagrams() Datagrams }); ok {
		return d.Datagrams(), true
	}
	return Datagrams{}, false
}

// OffHost says, of an object that is not on this host, what becomes of it when what is on
// the host goes; it is empty for all others.
func OffHost(o Object) string {
	if e, ok := o.(interface{ OffHost() string }); ok {
		return e.OffHost()
	}
	return ""
}

// Find returns the first object of a type.
func Find[T Object](objects []Object) (found T, ok bool) {
	for _, o := range objects {
		if found, ok = o.(T); ok {
			return found, true
		}
	}
	return found, false
}

// Set is objects by key.
type Set map[Key]Object

// Owner says whom something on the host belongs to.
type Owner uint8

// The owners. Only what is Ours is ever removed; what is Adoptable is replaced by what
// is wanted in its place.
const (
	Foreign   Owner = iota // someone else's
	Adoptable              // bears the marks of an older flannel, or of anyone
	Ours
)

// Entry is what a host has under one key.
type Entry struct {
	// Object is never nil; what this program would not make itself is Unmanaged, and
	// so equal to nothing that is wanted.
	Object Object
	Owner  Owner
	// Text says what is there and whose, in the dataplane's own terms, where it is
	// not Ours.
	Text string
	// Front is set if the entry is Ours and something else under the same key comes
	// before it, and so is what the host uses.
	Front *Entry
}

// Observed is what a host has, by key.
type Observed map[Key]Entry
