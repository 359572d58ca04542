package subnet

import (
	"net/netip"
	"time"

	"flanneld/pkg/ip"
)

const ourNode = "w1"

// assigned makes a state one of a store that chooses subnets.
func (tb table) assigned(s state) state {
	s.assigned = true
	s.listed = tb.gives(ourSubnet)
	s.attrs = tb.attrs(ourAddress, ourNode)
	c := *tb.c
	c.Assigned = true
	s.attempt.config = &c
	if s.holding.Own != nil {
		s.holding.Config, s.holding.Own = &c, reserve(tb.lease(ourSubnet, ourAddress, ourNode, ourRevision))
		s.holding.Snapshot.Own = s.listed.Own
		s.published = s.holding
		s.asked = s.listed.Own
	}
	return s
}

// gives is what a store shows that gives this host a subnet, or none.
func (tb table) gives(cidr string, leases ...*Lease) Snapshot {
	a := &Assignment{Host: ourNode, Missing: "the Node w1 has no podCIDR"}
	if cidr != "" {
		a.Subnet, a.Missing = tb.subnet(cidr), ""
	}
	s := snapshot(leases...)
	for _, l := range leases {
		reserve(l)
	}
	s.Own = a
	return s
}

// assignments are those of a store that chooses the subnet.
func (tb table) assignments() []transition {
	see := func(cidr string, leases ...*Lease) event { return newSnapshot{tb.gives(cidr, leases...)} }
	own := func() *Lease { return tb.lease(ourSubnet, ourAddress, ourNode, 15) }
	theirs := func() *Lease { return tb.lease(ourSubnet, "192.0.2.9", "w9", 15) }
	edited := func() *Lease {
		l := own()
		l.BackendType = "udp"
		return l
	}
	listing := tb.assigned(tb.starting(listLeases{callTimeout}, heedAssignment{}, askAttrs{}))
	asking := func(s Snapshot) state {
		return with(tb.assigned(tb.starting(askAttrs{})), func(st *state) { st.listed = s })
	}
	attrs := answer{attrs: tb.attrs(ourAddress, ourNode)}
	rest := tb.assigned(tb.online(nil))
	waits := with(tb.assigned(tb.starting(nil)), func(s *state) { s.todo, s.retrying = nil, true })
	corrected := func(ago, pause time.Duration) state {
		return with(rest, func(s *state) { s.identity.corrected, s.identity.rest = tb.now.at.Add(-ago), pause })
	}
	requested := tb.gives(ourSubnet, own())
	requested.Own.Requested = ip.Addrs{V4: netip.MustParseAddr("192.0.2.5")}
	return []transition{
		{"started", with(state{}, func(s *state) { s.assigned = true }), started{}, "config within 10s", "", nil},
		{"configuration with a length that does not fit", tb.assigned(tb.starting(readConfig{callTimeout}, listLeases{callTimeout})), answer{config: []byte(`{"Network":"10.5.1.0/24","SubnetLen":24}`)}, "list within 10s", "", nil},
		{"subnet given", listing, answer{snapshot: tb.gives(ourSubnet)}, "prepare 10.5.0.0/16 with 0 leases", "", nil},
		{"no subnet yet", listing, answer{snapshot: tb.gives("")}, "listen 1s", "works; WAITS the Node w1 has no podCIDR; waiting: the Node w1 has no podCIDR", func(s state) bool { return s.retrying && s.follows() }},
		{"subnet that is all of Network", listing, answer{snapshot: tb.gives("10.5.0.0/16")}, "prepare 10.5.0.0/16 with 0 leases", "", nil},
		{"subnet outside of Network", with(listing, func(s *state) { s.configKey = "/conf" }), answer{snapshot: tb.gives("10.6.1.0/24")}, "listen 1s", "*does not hold 10.6.1.0/24, the podCIDR of this host's Node w1*; correct the file /conf, nothing has to be restarted", nil},
		{"subnet of another", listing, answer{snapshot: tb.gives(ourSubnet, theirs())}, "listen 1s", "*10.5.1.0/24, the podCIDR of this host's Node w1, is also that of the Node w9, which is older*", nil},
		{"subnet comes", waits, see(ourSubnet), "config within 10s", "", nil},
		{"another host comes while there is no subnet", waits, newSnapshot{seen(tb.gives("", theirs()), func(s *Snapshot) { s.Own = waits.listed.Own })}, "listen 1m0s", "", nil},
		{"published", asking(tb.gives(ourSubnet)), attrs, "create 10.5.1.0/24 for 0s", "", nil},
		{"published before", asking(tb.gives(ourSubnet, own())), attrs, "listen 1m0s", "using the subnet 10.5.1.0/24, the podCIDR of the Node w1; over; holds 10.5.1.0/24; works", func(s state) bool { return s.mode == online && s.due.IsZero() }},
		{"subnet that overlaps a network of this host", asking(tb.gives(ourSubnet)), answer{attrs: attrs.attrs, avoid: tb.subnet("10.5.0.0/20").Prefixes()}, "listen 1s", "*overlaps 10.5.0.0/20, a network that this host is in*", nil},
		{"written", tb.assigned(tb.starting(announce{})), answer{lease: reserve(own())}, "listen 1m0s", "using the subnet 10.5.1.0/24*; over; holds 10.5.1.0/24; works", nil},
		{"not written", tb.assigned(tb.starting(announce{})), answer{err: errDown}, "listen 50ms", "*FAILED the store is down", nil},
		{"given another one meanwhile", tb.assigned(tb.starting(announce{})), answer{err: ErrChanged}, "listen 50ms", "works; the lease was changed meanwhile; trying again", nil},

		{"as it was", rest, see(ourSubnet, own()), "listen 1m0s", "over *; holds 10.5.1.0/24; works", nil},
		{"annotations gone", rest, see(ourSubnet), "update 10.5.1.0/24@10 of w1 for 0s", "*the Node w1 says nothing of this host any more; writing it again", nil},
		{"annotations edited", rest, see(ourSubnet, edited()), "update 10.5.1.0/24@10 of w1 for 0s", "*what the Node w1 says of this host was changed; writing it again", nil},
		{"annotations edited again", corrected(50*time.Millisecond, correctFirst), see(ourSubnet, edited()), "listen 50ms", "over *; holds 10.5.1.0/24; works; the lease was changed meanwhile: what the Node w1 says of this host was changed a moment after it was written; trying again", func(s state) bool { return s.retrying }},
		{"annotations edited again after a while", corrected(time.Second, correctFirst), see(ourSubnet, edited()), "update 10.5.1.0/24@10 of w1 for 0s", "*was changed; writing it again", func(s state) bool { return s.identity.rest == 2*correctFirst }},
		{"annotations edited again and again", corrected(time.Second, 4*correctFirst), newSnapshot{seen(tb.gives(ourSubnet, edited()), func(s *Snapshot) { s.Own.Published = edited().Attrs })}, "listen 50ms", "*what the Node w1 says of this host is changed again and again, now to *udp*: another daemon works for it*DaemonSet*", func(s state) bool { return s.retrying }},
		{"annotations edited long after they were edited again and again", corrected(time.Minute, correctMost), see(ourSubnet, edited()), "update 10.5.1.0/24@10 of w1 for 0s", "*was changed; writing it again", func(s state) bool { return s.identity.rest == correctFirst }},
		{"annotations edited just before it is time", corrected(correctMost-20*time.Millisecond, correctMost), see(ourSubnet, edited()), "listen 20ms", "*again and again*", nil},
		{"tried again", with(rest, func(s *state) { s.retrying, s.due = true, tb.now.at }), timeUp{}, "list within 10s", "", nil},
		{"written again", tb.assigned(tb.online(restate{}, settle{})), answer{lease: reserve(own())}, "listen 1m0s", "holds 10.5.1.0/24; works", func(s state) bool { return s.holding.Own.Revision == 15 }},
		{"not written again", tb.assigned(tb.online(restate{}, settle{})), answer{err: errDown}, "listen 50ms", "FAILED the store is down", func(s state) bool { return s.retrying }},
		{"Node gone", rest, see("", tb.lease("10.5.9.0/24", "192.0.2.9", "w9", 5)), "listen 1m0s", "the Node w1 has no podCIDR; until there is one again, this host goes on with 10.5.1.0/24; holds 10.5.1.0/24; works", func(s state) bool {
			return s.holding.Holder == "" && len(s.holding.Snapshot.Leases) == 1
		}},
		{"another podCIDR", rest, see("10.5.7.0/24"), "config within 10s", "*the podCIDR of the Node w1 is 10.5.7.0/24 now, and was 10.5.1.0/24", nil},
		{"podCIDR of another Node", rest, see(ourSubnet, theirs()), "config within 10s", "*our subnet 10.5.1.0/24 now belongs to the Node w9; taking another one", func(s state) bool { return s.holding.Holder == "the Node w9" }},
		{"podCIDR given to another Node after ours was deleted", rest, see("", theirs()), "config within 10s", "our subnet 10.5.1.0/24 now belongs to the Node w9; taking another one", nil},
		{"another address asked for", rest, newSnapshot{requested}, "prepare 10.5.0.0/16 with 1 leases", "", func(s state) bool { return s.outdated }},
		{"another address is to be said", tb.assigned(tb.online(askAgain{}, judge{tb.gives(ourSubnet, own())})), answer{attrs: tb.attrs("192.0.2.5", ourNode)}, "list within 10s", "*our lease 10.5.1.0/24 is to say *", nil},
		{"another address said", with(tb.assigned(tb.online(listLeases{}, check{})), func(s *state) { s.attrs = tb.attrs("192.0.2.5", ourNode) }), answer{snapshot: tb.gives(ourSubnet, own())}, "update 10.5.1.0/24@10 of w1 for 0s", "over *", nil},
		{"configuration without our subnet", rest, newConfig{StoredConfig{Text: `{"Network":"10.6.0.0/16"}`}}, "listen 1m0s", "*the former one stays in force: network configuration: Network 10.6.0.0/16 does not hold 10.5.1.0/24, the podCIDR*; holds 10.5.1.0/24 unfollowed", nil},
		{"configuration deleted", rest, newConfig{StoredConfig{Missing: true}}, "listen 1m0s", "*was deleted with its file*", nil},
		{"configuration that cannot be read", rest, newConfig{StoredConfig{Unreadable: "open /conf: no"}}, "listen 1m0s", "*the former one stays in force: network configuration cannot be read: open /conf: no*; holds 10.5.1.0/24 unfollowed", nil},
		{"configuration as before", with(rest, func(s *state) { s.holding.Unfollowed, s.published.Unfollowed = "no", "no" }), newConfig{StoredConfig{Text: theNetwork}}, "listen 1m0s", "the network configuration is again the one in force; holds 10.5.1.0/24", nil},
		{"configuration while the store is down", with(rest, func(s *state) { s.retrying, s.due = true, tb.now.at.Add(time.Second) }), newConfig{StoredConfig{Text: `{"Network":"10.4.0.0/15"}`}}, "prepare 10.4.0.0/15 with 0 leases", "", nil},
		{"it can be followed", with(tb.assigned(tb.online(reconfigure{}, reconsidered{})), func(s *state) {
			s.stored.StoredConfig, s.stored.next = &StoredConfig{Text: theNetwork + " "}, tb.config(theNetwork+" ")
		}), attrs, "listen 1m0s", "the network configuration was changed, and is in force now: *; holds 10.5.1.0/24", nil},
		{"it can be followed, started with what was saved", with(tb.assigned(tb.offline(reconfigure{})), func(s *state) {
			s.todo = []goal{reconsidered{}}
			s.retrying, s.due = true, tb.now.at.Add(time.Second)
			s.stored.StoredConfig, s.stored.next = &StoredConfig{Text: theNetwork + " "}, tb.config(theNetwork+" ")
		}), attrs, "listen 1s", "the network configuration was changed, and is in force now: *; holds 10.5.1.0/24 partial", func(s state) bool { return s.retrying && s.mode == offline }},

		{"started with what was saved, and the Node is gone", with(tb.assigned(tb.offline(listLeases{}, heedAssignment{})), func(s *state) { s.holding.Partial = true }), answer{snapshot: tb.gives("")}, "listen 1s", "holds 10.5.1.0/24; works; waiting: the Node w1 has no podCIDR", func(s state) bool { return s.mode == offline }},
		{"started with what was saved, and it is as it was", with(tb.assigned(tb.offline(askAttrs{})), func(s *state) { s.listed = tb.gives(ourSubnet, own()) }), attrs, "listen 1m0s", "*holds 10.5.1.0/24; works", nil},
	}
}

func seen(s Snapshot, change func(*Snapshot)) Snapshot {
	change(&s)
	return s
}
