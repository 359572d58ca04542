package doctor

import (
	"fmt"

	"flanneld/pkg/status"
)

// The checks of the other hosts.

// peersIn are the findings that the daemon's peers in these states are.
func (f *Facts) peersIn(states ...status.PeerState) (all []Finding) {
	for _, p := range f.Peers {
		for _, s := range states {
			if p.State != s {
				continue
			}
			text := fmt.Sprintf("%s (%s) is %s", p.Subnet, p.PublicIP, p.State)
			if p.Reason != "" {
				text += ": " + p.Reason
			}
			all = append(all, bad(p.Remedy, "%s", text))
		}
	}
	return all
}

func checkLeases(f *Facts) []Finding {
	switch {
	case f.Daemon != nil && f.Daemon.Lease != nil:
		return or(f.peersIn(status.PeerUnusable), good("all %d of other hosts can be used", f.Daemon.Peers.Count))
	case f.NoLeases != nil:
		return unknown("%s could not be asked for them", f.Store.Name)
	}
	var all []Finding
	for _, p := range f.Unfit {
		all = append(all, bad("", "%s cannot be used: %s", p.Name(), p.Reason))
	}
	return or(all, good("all %d of other hosts can be used", len(f.Others)))
}

// measured reports whether the daemon probes.
func (f *Facts) measured() bool {
	for _, p := range f.Peers {
		if p.State == status.PeerReachable || f.probed(p.State) {
			return true
		}
	}
	return false
}

func (f *Facts) probed(s status.PeerState) bool {
	return s == status.PeerUnreachable || s == status.PeerSmallOnly || s == status.PeerGone
}

func checkReachability(f *Facts) []Finding {
	switch {
	case f.Daemon == nil || f.Daemon.Lease == nil:
		return unknown("a daemon that runs measures whether peers are reached")
	case len(f.Peers) == 0:
		return good("there are no other hosts")
	case !f.measured():
		return unknown("the daemon has not measured whether peers are reached")
	}
	return or(f.unlessHere(f.peersIn(status.PeerUnreachable, status.PeerGone)), f.reached("packets get to %d of %d other hosts, and back; the others were not measured yet", "packets get to the other hosts, and back"))
}

// reached says to how many of the others packets get.
func (f *Facts) reached(some, all string) []Finding {
	n := 0
	for _, p := range f.Peers {
		if p.State == status.PeerReachable {
			n++
		}
	}
	switch n {
	case 0:
		return unknown("packets get to no other host")
	case len(f.Peers):
		return good("%s", all)
	default:
		return good(some, n, len(f.Peers))
	}
}

// unlessHere takes peers in trouble for no fault of their own while there is one on this host that
// keeps packets from them.
func (f *Facts) unlessHere(all []Finding) []Finding {
	for _, look := range []func(*Facts) []Finding{checkInterface, checkObjects, checkForwarding, checkReversePath, checkFilters, checkRoutes} {
		for _, is := range look(f) {
			if is.Verdict != Bad {
				continue
			}
			for i := range all {
				all[i].Verdict, all[i].Remedy = Unknown, "first mend what is named above"
			}
			return all
		}
	}
	return all
}

func checkMTU(f *Facts) []Finding {
	if !f.measured() {
		return nil // checkReachability says so
	}
	return or(f.unlessHere(f.peersIn(status.PeerSmallOnly)), f.reached("packets of full size get to %d of %d other hosts, and back", "packets of full size get to the other hosts, and back"))
}
