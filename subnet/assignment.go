package subnet

import (
	"fmt"
	"slices"
	"strings"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// Assignment is what the store gives this host, where the store chooses subnets.
type Assignment struct {
	// Host is the name by which the store knows this host.
	Host string
	// Cluster is what the store was known by when this was heard of it, where there are several
	// that hosts may be moved between: words, each of which is enough. Empty where that is not
	// known.
	Cluster string `json:",omitempty"`
	// Subnet is not valid while there is none.
	Subnet ip.Subnet `json:"-"`
	// Created is when the host was registered, as in Lease.
	Created int64 `json:"-"`
	// Missing says, for people, why there is none, and what to do about it.
	Missing string `json:"-"`
	// Requested is the public address that someone asks for in the store: it goes over
	// what the options say.
	Requested ip.Addrs `json:",omitzero"`
	// Overwrite is the public address that the lease says in the place of the one that was
	// found. No interface of this host needs to have it.
	Overwrite ip.Addrs `json:",omitzero"`
	// Available: the store says that pods have a network on this host.
	Available bool `json:"-"`
	// Published is what the store says of this host now, as far as it can be read.
	Published Attrs `json:"-"`
}

// asksElse reports whether one assignment asks for other addresses than another.
func (a *Assignment) asksElse(b *Assignment) bool {
	return b == nil || a.Requested != b.Requested || a.Overwrite != b.Overwrite
}

// now is what the store says of this host, for a message that it changed.
func (a *Assignment) now() string {
	if a.Published == (Attrs{}) {
		return ""
	}
	return ", now to " + printable.Line(a.Published.String())
}

// SameCluster reports whether an assignment is not known to be of another cluster.
func (a *Assignment) SameCluster(cluster string) bool {
	was, is := strings.Fields(a.Cluster), strings.Fields(cluster)
	return len(was) == 0 || len(is) == 0 || slices.ContainsFunc(was, func(w string) bool { return slices.Contains(is, w) })
}

// Trouble is why a lease cannot be used, with whose it is where the store has names for
// hosts.
func (c *Config) Trouble(l *Lease, why string) string {
	if c == nil || !c.Assigned {
		return why
	}
	return fmt.Sprintf("of the Node %s, %s", printable.Name(l.Machine), why)
}
