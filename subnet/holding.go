package subnet

import "slices"

// Holding is what a Keeper has got: the configuration, this host's lease, and
// everything else in the store as of the latest snapshot.
type Holding struct {
	Config   *Config
	Own      *Lease
	Snapshot Snapshot
	// Holder names, in a few words, who has Own's subnet now, as long as no other
	// one can be had in its place. It is empty while the subnet is ours.
	Holder string
	// Unfollowed says why the configuration in the store is not Config; empty if it is.
	Unfollowed string
	// Unsaid says why the lease cannot say what it should; empty if it can.
	Unsaid string
	// Partial is set while Snapshot is what was saved once, and nothing has been heard
	// from the store since: it may hold other leases.
	Partial bool
}

func (h Holding) same(o Holding) bool {
	return h.Config == o.Config && h.Own == o.Own && h.Holder == o.Holder && h.Unfollowed == o.Unfollowed && h.Unsaid == o.Unsaid && h.Partial == o.Partial &&
		h.Snapshot.Revision == o.Snapshot.Revision && slices.Equal(h.Snapshot.Leases, o.Snapshot.Leases) && slices.Equal(h.Snapshot.Problems, o.Snapshot.Problems)
}
