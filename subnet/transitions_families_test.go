package subnet

import (
	"slices"
)

// families are those of a lease that gets another address family, or loses one.
func (tb table) families() []transition {
	both, only6 := tb.config(bothNetworks), tb.config(network6)
	attrs := tb.attrs(bothAddresses, ourMachine)
	dual := tb.lease(bothSubnets, bothAddresses, ourMachine, 21)
	dual.Created = 21
	// rival is older, and has our IPv6 prefix.
	rival := tb.lease("10.5.2.0/24,fc00:0:0:1::/64", "192.0.2.9,2001:db8::9", "beta 2e", 19)
	rival.Created = 19
	after := func(leases ...*Lease) Snapshot {
		s := snapshot(leases...)
		s.Revision = 30
		return s
	}
	next := setup{config: both, attrs: attrs}
	of := func(doing request, todo ...goal) state {
		return with(tb.online(doing, append(todo, judge{snapshot(tb.own())})...), func(s *state) {
			s.stored.StoredConfig, s.stored.next = stores(bothNetworks).Config, both
			s.holding.Snapshot = snapshot(tb.own())
			s.published = s.holding
		})
	}
	moving := func(s state) state {
		s.stored.moving = tb.subnet(bothSubnets)
		return s
	}
	adds := refit{next, tb.own(), tb.own().Subnet}
	acquires := func(doing request, todo ...goal) state {
		return with(tb.starting(doing, todo...), func(s *state) { s.attempt.config, s.attrs, s.attempt.wanted = both, attrs, dual.Subnet })
	}
	claiming := func(leases ...*Lease) state {
		return with(acquires(askAttrs{}), func(s *state) { s.listed = snapshot(leases...) })
	}
	refused := "the network configuration was changed, and the former one stays in force: "
	inForce := func(s state) bool {
		return s.holding.Config == both && s.holding.Own == dual && s.attrs == attrs && !s.stored.moving.IsValid()
	}
	again := tb.lease(ourSubnet, ourAddress, ourMachine, 25)
	new1 := tb.lease("fc00:0:0:1::/64", "2001:db8::1", ourMachine, 25) // of less
	old := tb.lease(ourSubnet, ourAddress, ourMachine, 15)
	remembering := func(c *Config) state {
		return with(claiming(old), func(s *state) {
			s.saved = recollection{exists: true, loaded: true, Saved: Saved{Holding: Holding{Config: c, Own: old}}}
		})
	}
	flannels := tb.lease("10.5.1.0/24", ourAddress, "", 15)
	personal := tb.lease(bothSubnets, bothAddresses, "", 17)
	placeholder := tb.lease("0.0.0.0/0,fc00:0:0:1::/64", "2001:db8::1", "", 15)
	// Where the store chooses the subnet.
	bothAssigned := *both
	bothAssigned.Assigned = true
	given := func(cidrs string) state {
		return with(tb.assigned(tb.online(reconfigure{})), func(s *state) {
			s.stored.StoredConfig, s.stored.next = stores(bothNetworks).Config, &bothAssigned
			s.holding.Snapshot = tb.gives(cidrs)
			s.published = s.holding
		})
	}
	said := tb.attrs(bothAddresses, ourNode)
	published := reserve(tb.lease(bothSubnets, bothAddresses, ourNode, 21))
	follows := refit{setup{config: &bothAssigned, attrs: said}, tb.own(), tb.own().Subnet}
	// A host that lives by its saved IPv4 lease, and finds another configuration.
	lives := func(doing request, config string, todo ...goal) state {
		return with(tb.offline(doing, todo...), func(s *state) {
			s.attempt.config, s.listed = tb.config(config), snapshot(tb.own(), rival)
			s.holding.Snapshot = s.listed
		})
	}
	one6 := `"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00:0:0:1::","IPv6SubnetMax":"fc00:0:0:1::"}` // rival has it
	new6 := tb.lease("fc00:0:0:2::/64", "2001:db8::1", ourMachine, 21)
	said6 := answer{attrs: tb.attrs("2001:db8::1", ourMachine)}
	mine := tb.lease(bothSubnets, bothAddresses, ourMachine, 18)
	mine.Created = 18
	// moves is in the place of a lease that is older than ours.
	moves := tb.lease("10.5.1.0/24,fc00:0:0:2::/64", "192.0.2.9,2001:db8::9", "beta 2e", 20)
	moves.Created = 20
	was := tb.lease("10.5.1.0/24", "192.0.2.9", "beta 2e", 15)
	was.Created = 15
	garbled := after(was, dual)
	garbled.Problems = []Problem{{Key: was.Subnet.Key(), Subnet: was.Subnet, Reason: "garbage", Revision: 25}}
	return []transition{
		{"the Node has both podCIDRs", given(bothSubnets), answer{attrs: said}, "move 10.5.1.0/24@10 to 10.5.1.0/24,fc00:0:0:1::/64 of w1 for 0s", "", nil},
		{"it says so", with(given(bothSubnets), func(s *state) { s.doing = follows }), answer{lease: published}, "listen 1m0s", "this host has the subnet fc00:0:0:1::/64, too, now*; *is in force now*", func(s state) bool { return s.holding.Own == published && s.holding.Config == &bothAssigned }},
		{"it cannot say so", with(given(bothSubnets), func(s *state) { s.doing = follows }), answer{err: errDown}, "listen 3s", "the network configuration was changed, and the former one stays in force: *the store is down", func(s state) bool { return s.holding.Config != &bothAssigned }},
		{"the Node has one podCIDR", with(tb.assigned(tb.online(nil)), func(s *state) { s.holding.Snapshot = tb.gives(ourSubnet) }), newConfig{StoredConfig{Text: bothNetworks}}, "listen 3s", "*the former one stays in force: the Node w1 has no IPv6 podCIDR, but 10.5.1.0/24, and the configuration has EnableIPv6: *--cluster-cidr*", nil},
		// while it runs
		{"a family is added", of(reconfigure{}), answer{attrs: attrs}, "move 10.5.1.0/24@10 to 10.5.1.0/24,fc00:0:0:1::/64 of alpha 1f for 24h0m0s", "", func(s state) bool { return s.stored.moving == dual.Subnet && s.holding.Config == tb.c }},
		{"a family is added to a reservation", with(of(reconfigure{}), func(s *state) { s.holding.Own = reserve(tb.own()) }), answer{attrs: attrs}, "move 10.5.1.0/24@10 to 10.5.1.0/24,fc00:0:0:1::/64 of alpha 1f for 0s", "", nil},
		{"its prefix is taken", with(of(reconfigure{}), func(s *state) { s.holding.Snapshot = snapshot(tb.own(), rival) }), answer{attrs: attrs}, "move 10.5.1.0/24@10 to 10.5.1.0/24,fc00:0:0:* of alpha 1f for 24h0m0s", "", func(s state) bool { return s.stored.moving != dual.Subnet }},
		{"moved", moving(of(adds)), answer{lease: dual}, "list within 10s", "", func(s state) bool { return s.holding.Own.Revision == ourRevision }},
		{"and nobody has a part of it", moving(of(refitted{adds, dual})), answer{snapshot: after(dual)}, "list within 10s", "this host has the subnet fc00:0:0:1::/64, too, now*; *is in force now*", inForce},
		{"another host has a part of it", moving(of(refitted{adds, dual})), answer{snapshot: after(dual, rival)}, "move 10.5.1.0/24,fc00:0:0:1::/64@21 to 10.5.1.0/24,fc00:0:0:* of alpha 1f for 24h0m0s", "", nil},
		{"not known whether", moving(of(refitted{adds, dual})), answer{err: errDown}, "listen 3s", refused + "looking after the lease 10.5.1.0/24,fc00:0:0:1::/64: the store is down; *", func(s state) bool { return s.stored.moving.IsValid() }},
		{"not known whether it was moved", moving(of(adds)), answer{err: errDown}, "listen 3s", refused + "*: the store is down; holds 10.5.1.0/24 unfollowed*", func(s state) bool { return s.stored.moving == dual.Subnet }},
		{"not moved", moving(of(adds)), answer{err: ErrExists}, "listen 3s", refused + "having the lease 10.5.1.0/24,fc00:0:0:1::/64 in the place of 10.5.1.0/24: *taken; *", func(s state) bool { return !s.stored.moving.IsValid() }},
		{"tried again", moving(of(reconfigure{})), answer{attrs: attrs}, "list within 10s", "", nil},
		{"it was moved", moving(of(lookAfter{next})), answer{snapshot: after(dual)}, "update 10.5.1.0/24,fc00:0:0:1::/64@21 of alpha 1f for 24h0m0s", "", nil},
		{"it was moved, and another host has a part of it", moving(of(lookAfter{next})), answer{snapshot: after(dual, rival)}, "move 10.5.1.0/24,fc00:0:0:1::/64@21 to 10.5.1.0/24,fc00:0:0:* of alpha 1f for 24h0m0s", "", nil},
		{"it was not", moving(of(lookAfter{next})), answer{snapshot: after(tb.own())}, "listen 50ms", "*works; looking after our lease *", func(s state) bool { return !s.stored.moving.IsValid() && !s.again.IsZero() }},
		{"there is no other one, and it moves back", moving(of(moveBack{dual})), answer{lease: again}, "list within 10s", "", func(s state) bool { return s.holding.Own == again && !s.stored.moving.IsValid() }},
		{"it went back, and the one that stays is written after that", moving(of(moveBack{dual})), answer{}, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "", func(s state) bool { return !s.stored.moving.IsValid() }},
		{"it does not move back", moving(of(moveBack{dual})), answer{err: errDown}, "listen 50ms", "FAILED having our lease 10.5.1.0/24 again: the store is down", nil},
		{"the old one is still there", moving(of(lookAfter{next})), answer{snapshot: after(tb.own(), dual)}, "delete 10.5.1.0/24@10", "", func(s state) bool { _, is := s.todo[0].(lookAfter); return is }},
		{"the old one is still there, and right again", moving(of(lookAfter{setup{config: tb.c, attrs: tb.attrs(ourAddress, ourMachine)}})), answer{snapshot: after(tb.own(), dual)}, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "", func(s state) bool { return s.todo[0] == moveBack{dual} && s.todo[1] == reconfigure{} }},
		{"the old one stays", moving(of(stay{tb.own()}, moveBack{dual})), answer{lease: again}, "delete 10.5.1.0/24,fc00:0:0:1::/64@21", "", func(s state) bool { return s.holding.Own == again }},
		{"it went after all", moving(of(stay{tb.own()}, moveBack{dual})), answer{err: ErrChanged}, "listen 50ms", "works; renewing our lease 10.5.1.0/24: *", func(s state) bool { return s.stored.moving == dual.Subnet }},
		{"a rival moves", with(tb.online(listLeases{}, check{}), func(s *state) { s.holding.Config, s.holding.Own, s.attrs = both, mine, attrs }), answer{snapshot: after(was, mine, moves)}, "listen*", "", func(s state) bool { return s.holding.Holder == "" }},
		{"a rival cannot be read any more", with(tb.online(listLeases{}, check{}), func(s *state) { s.holding.Config, s.holding.Own, s.attrs = both, dual, attrs }), answer{snapshot: garbled}, "listen*", "", func(s state) bool { return s.holding.Holder == "" }},
		{"still not known", moving(of(lookAfter{next})), answer{err: errDown}, "listen 3s", refused + "looking after the lease 10.5.1.0/24,fc00:0:0:1::/64: the store is down; *", nil},
		{"our lease is under its new subnet", with(moving(of(nil)), func(s *state) { s.todo, s.looksNext = nil, tb.now.at.Add(sleepCheck) }), newSnapshot{after(dual)}, "prepare *", "", nil},
		{"it came to be under its new subnet later", with(of(nil), func(s *state) { s.todo, s.looksNext = nil, tb.now.at.Add(sleepCheck) }), newSnapshot{after(dual)}, "prepare *", "", func(s state) bool { return s.stored.moving == dual.Subnet && s.holding.Holder == "" }},
		{"it is another machine's", with(of(nil), func(s *state) { s.todo, s.looksNext = nil, tb.now.at.Add(sleepCheck) }), newSnapshot{after(tb.lease(bothSubnets, bothAddresses, "beta 2e", 21))}, "config within 10s", "our subnet 10.5.1.0/24 now belongs to *", nil},
		{"a family is dropped", with(of(reconfigure{}), func(s *state) {
			s.stored.next, s.stored.StoredConfig, s.holding.Config, s.holding.Own = tb.c, stores(theNetwork).Config, both, dual
		}), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "move 10.5.1.0/24,fc00:0:0:1::/64@21 to 10.5.1.0/24 of alpha 1f for 24h0m0s", "", nil},
		{"it has one family less", with(of(refit{setup{config: tb.c, attrs: tb.attrs(ourAddress, ourMachine)}, dual, dual.Subnet}), func(s *state) { s.holding.Own, s.holding.Config = dual, both }), answer{lease: old}, "listen 1m0s", "this host has no IPv6 subnet any more, and had fc00:0:0:1::/64*is in force now*", nil},
		{"IPv4 is turned off", with(of(reconfigure{}), func(s *state) { s.stored.next, s.holding.Own = only6, dual }), answer{attrs: tb.attrs("2001:db8::1", ourMachine)}, "move 10.5.1.0/24,fc00:0:0:1::/64@21 to fc00:0:0:1::/64 of alpha 1f for 24h0m0s", "", nil},
		{"nothing would be left", with(tb.online(nil), func(s *state) { s.todo = nil }), newSnapshot{Snapshot{Revision: 20, Leases: []*Lease{tb.own()}, Config: &StoredConfig{Text: network6}}}, "listen 1m0s", "*EnableIPv4 false leaves nothing of this host's subnet 10.5.1.0/24; a restart*", nil},
		{"the other network is another one", with(tb.online(nil), func(s *state) { s.holding.Own = dual }), newSnapshot{Snapshot{Revision: 30, Leases: []*Lease{dual}, Config: &StoredConfig{Text: `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc01::/48"}`}}}, "*", "*IPv6Network fc01::/48 does not hold this host's subnet fc00:0:0:1::/64; a restart*", nil},

		// as it starts
		{"a lease of one family", claiming(old), answer{attrs: attrs}, "move 10.5.1.0/24@15 to 10.5.1.0/24,fc00:0:0:1::/64 of alpha 1f for 24h0m0s", "", nil},
		{"a lease of flannel's of one family", claiming(flannels), answer{attrs: attrs}, "move 10.5.1.0/24@15 to 10.5.1.0/24,fc00:0:0:1::/64 of alpha 1f for 24h0m0s", "", nil},
		{"a lease of both under IPv4 alone", with(claiming(dual), func(s *state) { s.attempt.config = tb.c }), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "move 10.5.1.0/24,fc00:0:0:1::/64@21 to 10.5.1.0/24 of alpha 1f for 24h0m0s", "", nil},
		{"a lease of both, and what it was made of", claiming(old, dual), answer{attrs: attrs}, "delete 10.5.1.0/24@15", "", nil},
		{"a lease of both, and what was to take its place", claiming(new1, dual), answer{attrs: attrs}, "delete fc00:0:0:1::/64@25", "", func(s state) bool { return s.todo[len(s.todo)-2] == takeOver{dual, dual.Subnet} }},
		{"a lease of one family, and what was to take its place", with(claiming(old, dual), func(s *state) { s.attempt.config = tb.c }), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "delete 10.5.1.0/24,fc00:0:0:1::/64@21", "", func(s state) bool { return s.todo[len(s.todo)-2] == takeOver{old, old.Subnet} }},
		{"a reservation, and a lease of both that a person wrote", with(claiming(reserve(tb.lease("10.5.1.0/24", ourAddress, "", 15)), personal), func(s *state) { s.attempt.config = tb.c }), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "update 10.5.1.0/24@15 of alpha 1f for 0s", "*not using it", nil},
		{"a lease, and a reservation of both that a person made", with(claiming(flannels, reserve(tb.lease(bothSubnets, bothAddresses, "", 17))), func(s *state) { s.attempt.config = tb.c }), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "update 10.5.1.0/24@15 of alpha 1f for 24h0m0s", "*", nil},
		{"a lease of both, of which another host has a part", claiming(dual, rival), answer{attrs: attrs}, "move 10.5.1.0/24,fc00:0:0:1::/64@21 to 10.5.1.0/24,fc00:0:0:* of alpha 1f for 24h0m0s", "", nil},
		{"of the other network a part", with(claiming(tb.lease("10.5.1.0/24,fc01::/64", bothAddresses, ourMachine, 15)), func(*state) {}), answer{attrs: attrs}, "move 10.5.1.0/24,fc01::/64@15 to 10.5.1.0/24,fc00:0:0:1::/64 of alpha 1f for 24h0m0s", "", nil},
		{"a family cannot be had, which it had not before", remembering(tb.c), answer{err: errHost}, "prepare 10.5.0.0/16 with 1 leases", "", nil},
		{"a family cannot be had, which it had before", remembering(both), answer{err: errHost}, "listen *", "*waiting: no interface*", nil},
		{"a family cannot be had, and the backend was another one", remembering(tb.config(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)), answer{err: errHost}, "listen *", "*waiting: no interface*", nil},
		{"flannel's in IPv6 alone is nobody's to take", with(claiming(placeholder), func(s *state) {
			s.attempt.config, s.identity.previous = only6, tb.subnet("fc00:0:0:1::/64")
		}), answer{attrs: tb.attrs("2001:db8::1", ourMachine)}, "create fc00:0:0:* for 24h0m0s", "*fc00:0:0:1::/64 that this host had before is taken*", nil},
		{"what it had before, as far as it is free", with(claiming(rival), func(s *state) { s.identity.previous = dual.Subnet }), answer{attrs: attrs}, "create 10.5.1.0/24,fc00:0:0:* for 24h0m0s", "the subnet fc00:0:0:1::/64 that this host had before is taken*", nil},

		// with what was saved
		{"its lease stays until it has another one", lives(askAttrs{}, network6), said6, "create fc00:0:0:* for 24h0m0s", "", nil},
		{"it has another one", lives(create{}, network6, forsake{tb.own()}), answer{lease: new6}, "list within 10s", "acquired*", nil},
		{"which is its own", lives(confirm{lease: new6}, network6, forsake{tb.own()}), answer{snapshot: after(new6, tb.own())}, "delete 10.5.1.0/24@10", "*; holds fc00:0:0:2::/64", nil},
		{"no IPv6 subnet is free, under IPv6 alone", lives(askAttrs{}, `{"EnableIPv4":false,`+one6), said6, "prepare 10.5.0.0/16 with 2 leases", "", nil},
		{"no IPv6 subnet is free", lives(askAttrs{}, `{"Network":"10.5.0.0/16",`+one6), answer{attrs: attrs}, "prepare 10.5.0.0/16 with 2 leases", "", nil},
		{"it has no address for the other family", lives(askAttrs{}, bothNetworks), answer{err: errHost}, "prepare 10.5.0.0/16 with 2 leases", "", nil},
		{"nor for its own", with(lives(askAttrs{}, theNetwork), func(s *state) { s.attempt.config = s.holding.Config }), answer{err: errHost}, "listen 1s", "*works; waiting: no interface", nil},
		{"it goes on as it was", with(lives(askAttrs{}, theNetwork, forsake{tb.own()}), func(s *state) { s.attempt.config = s.holding.Config }), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "", nil},
		{"and keeps its lease", with(lives(takeOver{tb.own(), tb.own().Subnet}, theNetwork, forsake{tb.own()}), func(s *state) { s.attempt.config, s.attempt.probed = s.holding.Config, tb.own() }), answer{lease: again}, "*", "*holds 10.5.1.0/24*works", func(s state) bool { return s.mode == online && s.holding.Own == again }},
		{"an older lease has a part of its own", with(lives(askAttrs{}, bothNetworks), func(s *state) {
			s.holding.Config, s.holding.Own, s.listed = both, dual, after(was, dual)
		}), answer{attrs: attrs}, "move *", "*", func(s state) bool {
			return s.holding.Holder == "the host with the public address 192.0.2.9, by the lease 10.5.1.0/24, which is older"
		}},
		{"and its lease is gone", with(lives(askAttrs{}, `{"EnableIPv4":false,`+one6), func(s *state) { s.listed = snapshot(rival) }), said6, "listen 1s", "*no free subnet*", func(s state) bool { return s.mode == offline }},

		{"created", acquires(create{}), answer{lease: dual}, "list within 10s", "acquired the subnet 10.5.1.0/24,fc00:0:0:1::/64", func(s state) bool { return s.holding.Own == nil }},
		{"moved as it starts", with(acquires(takeOver{old, old.Subnet}), func(s *state) { s.attempt.probed = old }), answer{lease: dual}, "list within 10s", "using the subnet 10.5.1.0/24,fc00:0:0:1::/64 in the place of 10.5.1.0/24*", nil},
		{"nobody has a part of it", acquires(confirm{lease: dual}), answer{snapshot: after(dual)}, "*", "*holds 10.5.1.0/24,fc00:0:0:1::/64; works", func(s state) bool { return s.mode == online }},
		{"somebody has", acquires(confirm{lease: dual}), answer{snapshot: after(dual, rival)}, "delete 10.5.1.0/24,fc00:0:0:1::/64@21", "another host has a part *", nil},
		{"somebody has, of what was drawn", acquires(confirm{dual, tb.own().Subnet}), answer{snapshot: after(dual, rival)}, "move 10.5.1.0/24,fc00:0:0:1::/64@21 to 10.5.1.0/24,fc00:0:0:* of alpha 1f for 24h0m0s", "another host has a part *", nil},
		{"made way", with(acquires(makeWay{}), func(s *state) { s.attempt.probed = dual }), answer{}, "listen 50ms", "works; acquiring the subnet *taken; trying again", nil},
		{"not made way", with(acquires(makeWay{}), func(s *state) { s.attempt.probed = dual }), answer{err: errDown}, "listen 50ms", "*FAILED deleting our lease *", nil},
		{"it is gone", acquires(confirm{lease: dual}), answer{snapshot: after()}, "listen 50ms", "works; looking after our lease *", nil},
		{"it is not known", acquires(confirm{lease: dual}), answer{err: errDown}, "listen 50ms", "*FAILED the store is down", func(s state) bool { return s.holding.Own == nil && slices.Equal(s.todo, nil) }},
	}
}
