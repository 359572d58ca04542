package subnet

import (
	"errors"
	"fmt"
	"time"
)

// The rows of TestTransitions.

const bad = `{"Network":"10.5.0.0"}`

// starts are the transitions up to the first lease.
func (tb table) starts() []transition {
	attrs := answer{attrs: tb.attrs(ourAddress, ourMachine)}
	claiming := func(leases ...*Lease) state {
		return with(tb.starting(askAttrs{}), func(s *state) {
			s.listed = snapshot(leases...)
			s.identity.previous = tb.subnet(ourSubnet)
		})
	}
	full := func() state {
		s := claiming(tb.lease("10.6.0.0/26", "192.0.2.9", "", 5))
		s.identity.previous = tb.subnet("10.6.0.64/26")
		c, _ := ParseConfig([]byte(`{"Network":"10.6.0.0/24","SubnetLen":26,"SubnetMin":"10.6.0.0","SubnetMax":"10.6.0.0"}`))
		s.attempt.config = c
		return s
	}
	taking := func(reserved bool) (state, *Lease) {
		l := tb.own()
		if reserved {
			l = reserve(l)
		}
		return with(tb.starting(takeOver{l, l.Subnet}), func(s *state) { s.attempt.probed = l }), l
	}
	taken, l := taking(false)
	reserved, r := taking(true)
	elsewhere := tb.subnet("10.5.9.0/24")
	return []transition{
		{"started", state{margin: time.Hour}, started{}, "config within 10s", "", nil},
		{
			"started, and something is saved",
			state{margin: time.Hour, saved: recollection{exists: true}},
			started{},
			"config within 5s", "",
			func(s state) bool { return s.begun.Equal(tb.now.at) },
		},
		{"configuration read", tb.starting(readConfig{callTimeout}, listLeases{callTimeout}), answer{config: []byte(theNetwork)}, "list within 10s", "", nil},
		{"no configuration", tb.starting(readConfig{callTimeout}), answer{err: ErrNoConfig}, "listen 1s", "works; WAITS no network configuration; waiting: no network configuration", nil},
		{"bad configuration", tb.starting(readConfig{callTimeout}), answer{config: []byte(bad)}, "listen 1s", `works; WAITS *Network "10.5.0.0"*; waiting: *`, nil},
		{"bad configuration of a known key", with(tb.starting(readConfig{callTimeout}), func(s *state) { s.configKey = "/net/config" }), answer{config: []byte(bad)}, "listen 1s", "*; correct the key /net/config, nothing has to be restarted", nil},
		{"configuration not read again", with(tb.starting(readConfig{callTimeout}), func(s *state) { s.waitsFor = errDown.Error() }), answer{err: errDown}, "listen 50ms", "FAILED the store is down", nil},
		{"configuration not read", tb.starting(readConfig{callTimeout}), answer{err: errDown}, "listen 50ms", "WAITS waiting for the store: the store is down; FAILED the store is down", nil},
		{"pause over", tb.starting(sleep{time.Second}, acquire{}), answer{}, "config within 10s", "", nil},
		{"leases listed", tb.starting(listLeases{callTimeout}, askAttrs{}), answer{snapshot: snapshot(tb.own())}, "prepare 10.5.0.0/16 with 1 leases", "", nil},
		{"leases not listed", tb.starting(listLeases{callTimeout}), answer{err: errDown}, "listen 50ms", "*FAILED the store is down", nil},
		{"host cannot say", tb.starting(askAttrs{}), answer{err: errHost}, "listen 1s", "works; WAITS no interface; waiting: no interface", nil},

		{"nothing there", with(claiming(), func(s *state) { s.identity.previous = elsewhere }), attrs, "create 10.5.9.0/24 for 24h0m0s", "", nil},
		{"previous subnet taken", claiming(tb.lease(ourSubnet, "192.0.2.9", "", 5), tb.lease("10.5.2.0/24", "192.0.2.9", "", 5)), attrs, "create 10.5.*", "*10.5.1.0/24 that this host had before is taken*", nil},
		{"previous subnet does not fit", with(claiming(), func(s *state) { s.identity.previous = tb.subnet("10.6.1.0/24") }), attrs, "create 10.5.*", "*10.6.1.0/24 that this host had before does not fit*", nil},
		{"previous subnet to be avoided", claiming(), answer{attrs: attrs.attrs, avoid: elsewhere.Prefixes()}, "create 10.5.1.0/24 for 24h0m0s", "", nil},
		{"previous subnet avoided", claiming(), answer{attrs: attrs.attrs, avoid: tb.subnet("10.5.0.0/20").Prefixes()}, "create 10.5.*", "*10.5.1.0/24 that this host had before overlaps a network*", nil},
		{"all taken", full(), attrs, "listen 1s", "*no free subnet: all 1 of length /26*", nil},
		{"lease of our address", claiming(tb.own()), attrs, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "", nil},
		{"reservation", claiming(reserve(tb.own())), attrs, "update 10.5.1.0/24@10 of alpha 1f for 0s", "", nil},
		{"several leases", claiming(tb.own(), reserve(tb.lease("10.5.2.0/24", ourAddress, ourMachine, 5))), attrs, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "", nil},
		{"lease of flannel", claiming(tb.lease("10.5.2.0/24", ourAddress, "", 5)), attrs, "update 10.5.2.0/24@5 of alpha 1f for 24h0m0s", "", nil},
		{"lease that does not fit", claiming(tb.lease("10.6.1.0/24", ourAddress, "", 5)), attrs, "delete 10.6.1.0/24@5", "", nil},
		{"reservation that does not fit", claiming(reserve(tb.lease("10.6.1.0/24", ourAddress, "", 5))), attrs, "create 10.5.1.0/24 for 24h0m0s", "*10.6.1.0/24, reserved for this host, does not fit*", nil},
		{"moved lease that does not fit", with(claiming(tb.lease("10.6.1.0/24", oldAddress, ourMachine, 5)), func(s *state) { s.identity.previous = tb.subnet("10.6.1.0/24") }), attrs, "create 10.5.*", "*10.6.1.0/24 that this machine wrote does not fit*", nil},
		{"lease that loses to another", claiming(tb.lease("10.5.0.0/20", ourAddress, "", 5), tb.lease("10.5.2.0/24", "192.0.2.9", "", 5)), attrs, "create 10.5.1.0/24 for 24h0m0s", "*10.5.0.0/20 of our public address overlaps 10.5.2.0/24*", nil},
		{"moved lease", claiming(tb.lease(ourSubnet, oldAddress, ourMachine, 5)), attrs, "update 10.5.1.0/24@5 of alpha 1f asked by alpha 1f for 24h0m0s", "", nil},
		{"moved lease, and another machine at our address", claiming(tb.lease(ourSubnet, oldAddress, ourMachine, 5), tb.lease("10.5.2.0/24", ourAddress, "beta 2e", 6)), attrs, "update 10.5.2.0/24@6 of beta 2e asked by alpha 1f for 24h0m0s", "", nil},
		{"lease of flannel at another address, and something is saved", with(claiming(tb.lease(ourSubnet, oldAddress, "", 5)), func(s *state) { s.saved.exists = true }), attrs, "load", "", nil},

		{"taken over", taken, answer{lease: tb.own()}, "listen 1m0s", "using the subnet 10.5.1.0/24 that this host has a lease of; over; holds 10.5.1.0/24; works", func(s state) bool {
			return s.mode == online && s.identity.previousMachine == l.Machine && s.due.After(tb.now.at.Add(22*time.Hour+50*time.Minute)) && !s.due.After(tb.now.at.Add(23*time.Hour))
		}},
		{"reservation taken over", reserved, answer{lease: r}, "listen 1m0s", "using the subnet 10.5.1.0/24 that is reserved for this host; over; holds 10.5.1.0/24; works", func(s state) bool { return s.due.IsZero() }},
		{"another host was faster to take over", taken, answer{err: ErrChanged}, "listen 50ms", "works; taking over our lease 10.5.1.0/24: *", nil},
		{"created", tb.savedState(create{}, settle{}), answer{lease: tb.own()}, "listen 1m0s", "acquired the subnet 10.5.1.0/24; over; holds 10.5.1.0/24; works", func(s state) bool { return s.saved.exists && !s.saved.loaded && s.saved.Own == nil }},
		{"another host was faster to create", with(tb.starting(create{}), func(s *state) { s.attempt.wanted = tb.subnet(ourSubnet) }), answer{err: ErrExists}, "listen 50ms", "works; acquiring the subnet 10.5.1.0/24: *", nil},
		{"deleted what does not fit", with(tb.starting(discard{}, create{}), func(s *state) { s.attempt.probed = tb.own(); s.identity.previous = elsewhere }), answer{}, "create 10.5.9.0/24 for 24h0m0s", "deleted this host's lease 10.5.1.0/24, *", nil},
		{"what does not fit is gone", with(tb.starting(discard{}, create{}), func(s *state) { s.attempt.probed = tb.own(); s.identity.previous = elsewhere }), answer{err: ErrChanged}, "create 10.5.9.0/24 for 24h0m0s", "deleted this host's lease 10.5.1.0/24, *", nil},
		{"what does not fit not deleted", with(tb.starting(discard{}), func(s *state) { s.attempt.probed = tb.own() }), answer{err: errDown}, "listen 50ms", "*FAILED deleting our old lease 10.5.1.0/24: the store is down", nil},
	}
}

// conflicts are those with another machine that has our address or our ID.
func (tb table) conflicts() []transition {
	theirs := tb.lease(ourSubnet, ourAddress, "beta 2e", 5)
	original := tb.lease(ourSubnet, oldAddress, "omega 1f", 5)
	question := asked(tb.lease(ourSubnet, ourAddress, "beta 2e", 6), ourMachine)
	waits := func(p probeHolder, left time.Duration, todo ...goal) state {
		g := awaitAnswer{probe: p, asked: asked(tb.lease(ourSubnet, p.lease.PublicIP.V4.String(), p.lease.Machine, 6), ourMachine), patience: answerTime, until: tb.now.at.Add(left)}
		g.readdressed = p.lease == original
		return tb.starting(g, todo...)
	}
	p, stays, copied := probeHolder{lease: theirs}, probeHolder{lease: theirs, stays: true}, probeHolder{lease: original}
	known := with(tb.starting(sleep{}, p), func(s *state) {
		s.identity.conflict = addressConflict{"gamma 2e", tb.now.at.Add(-conflictPause + time.Second)}
	})
	again := with(tb.starting(sleep{}, p), func(s *state) {
		s.identity.conflict = addressConflict{"gamma 2e", tb.now.at.Add(-conflictPause)}
	})
	inDoubt := with(tb.starting(sleep{}, probeHolder{lease: tb.lease(ourSubnet, ourAddress, "omega 1f", 5)}), func(s *state) { s.identity.previousMachine = "omega 1f" })
	return []transition{
		{"holder asked", tb.starting(p), answer{lease: question}, "sleep 500ms", "WAITS *was written by the machine beta 2e: waiting whether it is alive", nil},
		{"original asked", tb.starting(copied), answer{lease: question}, "sleep 500ms", "WAITS *192.0.2.77: waiting whether another machine with our ID is alive there", nil},
		{"holder not asked", tb.starting(p), answer{err: errDown}, "listen 50ms", "*FAILED asking the machine beta 2e whether it is alive: the store is down", nil},
		{"holder known to be alive", known, answer{}, "listen 1s", "*the machine beta 2e, which is alive and has the lease 10.5.1.0/24*", nil},
		{"holder known to have been alive", again, answer{}, "update 10.5.1.0/24@5 of beta 2e asked by alpha 1f for 24h0m0s", "", nil},
		{"a machine of our ID that answered once", inDoubt, answer{}, "update 10.5.1.0/24@5 of omega 1f asked by alpha 1f for 24h0m0s", "", nil},
		{"pause over", tb.starting(sleep{answerPoll}, awaitAnswer{}), answer{}, "list within 10s", "", nil},
		{"no answer yet", waits(p, time.Second), answer{snapshot: snapshot(question)}, "sleep 500ms", "", nil},
		{"no listing", waits(p, time.Second), answer{err: errDown}, "listen 50ms", "*FAILED the store is down", nil},
		{"a third machine asks", waits(p, 0), answer{snapshot: snapshot(asked(tb.lease(ourSubnet, ourAddress, "beta 2e", 7), "gamma 3d"))}, "sleep 500ms", "", func(s state) bool {
			g := s.todo[0].(awaitAnswer)
			return g.asked.Revision == 7 && g.until.Equal(tb.now.at.Add(answerTime))
		}},
		{"holder alive", waits(p, time.Second), answer{snapshot: snapshot(tb.lease(ourSubnet, ourAddress, "beta 2e", 7))}, "listen 1s", "*WAITS the public address 192.0.2.1 of this machine, alpha 1f, is also that of the machine beta 2e, which is alive*", func(s state) bool {
			return s.identity.conflict == addressConflict{"beta 2e", tb.now.at}
		}},
		{"original alive", waits(copied, time.Second), answer{snapshot: snapshot(tb.lease(ourSubnet, oldAddress, "omega 1f", 7))}, "listen 50ms", "*this machine is a copy of it, and takes another subnet*", func(s state) bool {
			return s.identity.copied == tb.subnet(ourSubnet)
		}},
		{"lease gone", waits(p, time.Second), answer{snapshot: snapshot()}, "listen 50ms", "works; the lease was changed meanwhile; trying again", nil},
		{"lease passed on", waits(p, time.Second), answer{snapshot: snapshot(tb.lease(ourSubnet, ourAddress, "gamma 3d", 7))}, "listen 50ms", "works; the lease was changed meanwhile; trying again", nil},
		{"holder does not answer", waits(p, 0, takeOver{theirs, theirs.Subnet}), answer{snapshot: snapshot(question)}, "update 10.5.1.0/24@6 of alpha 1f for 24h0m0s", "the machine beta 2e, which had our public address 192.0.2.1 and the lease 10.5.1.0/24, does not answer: the lease is ours now", nil},
		{"original does not answer", waits(copied, 0, takeOver{original, original.Subnet}), answer{snapshot: snapshot(asked(tb.lease(ourSubnet, oldAddress, "omega 1f", 6), ourMachine))}, "update 10.5.1.0/24@6 of alpha 1f for 24h0m0s", "*where nobody answers: it is 192.0.2.1 now", nil},
		{"who has our address does not answer", waits(stays, 0, probeHolder{lease: tb.own()}, takeOver{tb.own(), tb.own().Subnet}), answer{snapshot: snapshot(question)}, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "the machine beta 2e, whose lease 10.5.1.0/24 has our public address 192.0.2.1, does not answer", nil},
		{"holder does not answer, and it does not fit", waits(p, 0, discard{}), answer{snapshot: snapshot(question)}, "delete 10.5.1.0/24@6", "*does not answer*", nil},
	}
}

// withoutStore are those of a start with what was saved.
func (tb table) withoutStore() []transition {
	change := func(change func(*Saved)) state {
		return with(tb.savedState(sleep{}, adoptSaved{}), func(s *state) {
			own := *s.saved.Own
			s.saved.Own = &own
			change(&s.saved.Saved)
		})
	}
	rests := "waiting for the store, as there is nothing to start with: "
	return []transition{
		{"store away, nothing loaded", with(tb.savedState(readConfig{callTimeout}), func(s *state) { s.saved.loaded = false }), answer{err: errDown}, "load", "*FAILED the store is down", nil},
		{"store away for a moment", with(tb.savedState(readConfig{callTimeout}), func(s *state) { s.begun = tb.now.at }), answer{err: errDown}, "listen 50ms", "*FAILED the store is down", nil},
		{"loaded", tb.savedState(loadSaved{}, adoptSaved{}), answer{saved: tb.savedState(nil).saved.Saved}, "prepare 10.5.0.0/16 with 1 leases", "", nil},
		{"nothing to load", tb.savedState(loadSaved{}, adoptSaved{}), answer{err: errHost}, "listen 50ms", rests + "no interface", func(s state) bool { return !s.saved.exists }},
		{"loaded for the address that flannel's lease has", with(tb.starting(loadSaved{}, claim{}), func(s *state) {
			s.saved.exists, s.identity.previous = true, tb.subnet(ourSubnet)
			s.listed = snapshot(tb.lease(ourSubnet, oldAddress, "", 5))
		}), answer{saved: Saved{Holding: Holding{Own: tb.lease(ourSubnet, oldAddress, "", 5)}}}, "update 10.5.1.0/24@5 of alpha 1f for 24h0m0s", "", nil},
		{"saved in the future", change(func(s *Saved) { s.At = tb.now.at.Add(time.Minute) }), answer{}, "listen 50ms", rests + "it was saved at *", func(s state) bool { return s.saved.exists }},
		{"saved lease ended", change(func(s *Saved) { s.Own.Expires = tb.now.at }), answer{}, "listen 50ms", rests + "our lease 10.5.1.0/24 ended at *", nil},
		{"saved lease does not fit", change(func(s *Saved) { s.Own.Subnet = tb.subnet("10.6.1.0/24") }), answer{}, "listen 50ms", rests + "our lease 10.6.1.0/24 does not fit the configuration", nil},
		{"host cannot say", tb.savedState(adoptSaved{}), answer{err: errHost}, "listen 50ms", rests + "no interface", nil},
		{"saved lease of another machine", tb.savedState(adoptSaved{}), answer{attrs: tb.attrs(ourAddress, "beta 2e")}, "listen 50ms", rests + "our lease is that of the machine alpha 1f, *", nil},
		{"saved lease of another address", tb.savedState(adoptSaved{}), answer{attrs: tb.attrs(oldAddress, "beta 2e")}, "listen 50ms", rests + "our lease is that of another public address, 192.0.2.1", nil},
		{"saved lease adopted", tb.savedState(adoptSaved{}), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "config within 10s", "the store cannot be reached: *, 1 leases; our subnet 10.5.1.0/24 is ours until *; holds 10.5.1.0/24 partial", func(s state) bool {
			return s.mode == offline && !s.saved.exists && s.identity.previous == tb.subnet(ourSubnet) && !s.identity.readdressed
		}},
		{"saved lease of a subnet that is another host's adopted", with(tb.savedState(adoptSaved{}), func(s *state) { s.saved.Holder = "someone" }), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "config within 10s", "*our subnet 10.5.1.0/24 is now that of someone; holds 10.5.1.0/24 of others partial", nil},
		{"loaded before", tb.savedState(sleep{}, loadSaved{}, adoptSaved{}), answer{}, "prepare 10.5.0.0/16 with 1 leases", "", nil},
		{"saved lease adopted by another address", tb.savedState(adoptSaved{}), answer{attrs: tb.attrs(oldAddress, ourMachine)}, "config within 10s", "*holds 10.5.1.0/24 partial", func(s state) bool { return s.identity.readdressed }},
		{"store still away", tb.offline(readConfig{callTimeout}), answer{err: errDown}, "listen 50ms", "FAILED the store is down", nil},
		{"store back, and its leases are followed", with(tb.offline(create{}), func(s *state) { s.holding.Snapshot.Revision = 20 }), answer{err: errDown}, "listen 50ms", "holds 10.5.1.0/24 partial; FAILED *", nil},
		{"store back, with another configuration", tb.offline(readConfig{callTimeout}, listLeases{callTimeout}), answer{config: []byte(`{"Network":"10.4.0.0/15","Backend":{"Type":"vxlan"}}`)}, "list within 10s", "", func(s state) bool { return s.attempt.config.BackendType == "vxlan" }},
		{"lease kept", with(tb.offline(askAttrs{}), func(s *state) { s.listed = snapshot(tb.own()) }), answer{attrs: tb.attrs("192.0.2.5", ourMachine)}, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "", nil},
		{"lease of another host meanwhile", with(tb.offline(askAttrs{}), func(s *state) { s.listed = snapshot(tb.lease(ourSubnet, "192.0.2.9", "", 15)) }), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "create 10.5.*", "*is taken; not asking for it", func(s state) bool {
			return s.holding.Holder == "the host with the public address 192.0.2.9"
		}},
		{"another subnet acquired", tb.offline(create{}), answer{lease: tb.lease("10.5.2.0/24", ourAddress, ourMachine, 21)}, "listen 1m0s", "acquired*; this host's subnet changed from 10.5.1.0/24 to 10.5.2.0/24: *; over; holds 10.5.2.0/24; works", nil},
	}
}

// keeps are the snapshots that a host with a lease may see.
func (tb table) keeps() []transition {
	see := func(leases ...*Lease) event { return newSnapshot{snapshot(leases...)} }
	rest := tb.online(nil)
	errRefused := errors.New("no permission")
	refused := snapshot(tb.own())
	refused.Refused = errRefused
	edited := func(machine, challenger string) *Lease {
		l := asked(tb.lease(ourSubnet, ourAddress, machine, 15), challenger)
		l.BackendType = "udp"
		return l
	}
	lost := func(holder string) string {
		return fmt.Sprintf("our subnet 10.5.1.0/24 now belongs to %s; taking another one", holder)
	}
	retrying := with(rest, func(s *state) { s.retrying, s.due = true, tb.now.at.Add(time.Second) })
	homeless := with(rest, func(s *state) { s.holding.Holder = "the host with the public address 192.0.2.9" })
	wiped := with(tb.online(reclaim{}, settle{}), func(s *state) { s.stored.wiped = true })
	moving := func(doing request, todo ...goal) state {
		return with(tb.online(doing, todo...), func(s *state) {
			s.attempt, s.holding.Holder, s.identity.previous = attempt{config: tb.c}, "the host with the public address 192.0.2.9", tb.subnet(ourSubnet)
		})
	}
	overwritten := with(rest, func(s *state) {
		s.identity.corrected, s.identity.overwritten = tb.now.at.Add(-time.Second), "omega 1f"
	})
	another := reserve(tb.lease("10.5.2.0/24", "192.0.2.9", "", 5))
	later, ended := tb.lease(ourSubnet, ourAddress, ourMachine, 21), tb.own()
	ended.Expires = tb.now.at.Add(-time.Second)
	return []transition{
		{"as it was", rest, see(tb.own()), "listen 1m0s", "holds 10.5.1.0/24; works", func(s state) bool { return s.renewal.seen == 20 }},
		{"written in our own words", rest, see(tb.lease(ourSubnet, ourAddress, ourMachine, 15)), "listen 1m0s", "someone else wrote our lease 10.5.1.0/24, in our own words*; holds 10.5.1.0/24; works", func(s state) bool { return s.holding.Own.Revision == 15 }},
		{"reserved", rest, see(reserve(tb.lease(ourSubnet, ourAddress, ourMachine, 15))), "listen 1m0s", "our lease 10.5.1.0/24 is now a reservation*; holds 10.5.1.0/24; works", func(s state) bool { return s.due.IsZero() }},
		{"no longer reserved", with(rest, func(s *state) { s.holding.Own = reserve(tb.own()) }), see(tb.own()), "listen 1m0s", "our lease 10.5.1.0/24 is no longer a reservation*; holds 10.5.1.0/24; works", func(s state) bool { return !s.due.IsZero() }},
		{"edited", rest, see(edited(ourMachine, "")), "update 10.5.1.0/24@15 of alpha 1f for 24h0m0s", "someone changed our lease 10.5.1.0/24; writing it again", nil},
		{"a machine with our address asks", rest, see(edited(ourMachine, "beta 2e")), "update 10.5.1.0/24@15 of alpha 1f for 24h0m0s", "the machine beta 2e asks whether we are alive: it has our public address 192.0.2.1, too; *", nil},
		{"a machine with our ID asks", rest, see(edited(ourMachine, "beta 1f")), "update 10.5.1.0/24@15 of alpha 1f for 24h0m0s", "the machine beta 1f asks whether we are alive: it has our machine ID, too; *", nil},
		{"edited again", overwritten, see(edited(ourMachine, "")), "listen 50ms", "holds 10.5.1.0/24; works; our lease 10.5.1.0/24 is being changed again and again*; trying again", func(s state) bool { return s.retrying }},
		{"a machine of our ID writes its lease again", overwritten, see(edited("omega 1f", "")), "config within 10s", lost("the machine omega 1f, which has our public address 192.0.2.1 and our machine ID, too"), nil},
		{"gone", rest, see(), "create 10.5.1.0/24 for 24h0m0s", "", nil},
		{"reservation gone", with(rest, func(s *state) { s.holding.Own = reserve(tb.own()) }), see(), "create 10.5.1.0/24 for 0s", "", nil},
		{"gone, and overlapped as ever", rest, see(reserve(tb.lease("10.5.0.0/20", "192.0.2.9", "", 5))), "create 10.5.1.0/24 for 24h0m0s", "", nil},
		{"gone, and overlapped since", rest, see(reserve(tb.lease("10.5.0.0/20", "192.0.2.9", "", 15))), "config within 10s", lost("the host with the public address 192.0.2.9, by the lease 10.5.0.0/20, which overlaps it"), nil},
		{"gone, and overlapped by what cannot be read", rest, newSnapshot{Snapshot{Revision: 20, Problems: []Problem{{Key: "10.5.0.0-20", Subnet: tb.subnet("10.5.0.0/20"), Revision: 15}}}}, "config within 10s", lost("whoever has the lease 10.5.0.0/20, which overlaps it and cannot be read"), nil},
		{"of another host", rest, see(tb.lease(ourSubnet, "192.0.2.9", "", 15)), "config within 10s", lost("the host with the public address 192.0.2.9"), func(s state) bool { return s.identity.previous == tb.subnet(ourSubnet) }},
		{"of another machine at our address", rest, see(tb.lease(ourSubnet, ourAddress, "beta 2e", 15)), "config within 10s", lost("the machine beta 2e, which has our public address 192.0.2.1, too"), nil},
		{"unreadable", rest, newSnapshot{tb.unreadable(time.Hour)}, "update 10.5.1.0/24@15 of alpha 1f for 24h0m0s", "someone changed our lease 10.5.1.0/24; writing it again", nil},
		{"unreadable, after ours ended", with(rest, func(s *state) { s.holding.Own = ended }), newSnapshot{tb.unreadable(time.Hour)}, "config within 10s", lost(unreadable), nil},
		{"unreadable reservation", with(rest, func(s *state) { s.holding.Own = reserve(tb.own()) }), newSnapshot{tb.unreadable(0)}, "update 10.5.1.0/24@15 of alpha 1f for 0s", "someone changed our lease*", nil},
		{"older than our last write", with(rest, func(s *state) { s.holding.Own = later }), see(), "list within 10s", "", nil},
		{"listed anew", tb.online(listLeases{callTimeout}, check{}, settle{}), answer{snapshot: snapshot(tb.own())}, "listen 1m0s", "holds 10.5.1.0/24; works", nil},
		{"not listed anew", tb.online(listLeases{callTimeout}, check{}, settle{}), answer{err: errDown}, "listen 50ms", "FAILED the store is down", func(s state) bool { return s.retrying && len(s.todo) == 0 }},

		{"while a retry is due", retrying, see(tb.own(), another), "listen 1s", "holds 10.5.1.0/24", func(s state) bool { return len(s.holding.Snapshot.Leases) == 2 }},
		{"while a retry is due, older", with(retrying, func(s *state) { s.holding.Own, s.published.Own = later, later }), see(), "listen 1s", "", nil},
		{"while a retry is due, written after all", retrying, see(tb.lease(ourSubnet, ourAddress, ourMachine, 15)), "listen 1m0s", "*holds 10.5.1.0/24; works", func(s state) bool { return !s.retrying && s.holding.Own.Revision == 15 }},

		{"refused to watch", rest, newSnapshot{refused}, "listen 1m0s", "holds 10.5.1.0/24; FAILED no permission", func(s state) bool { return !s.retrying }},
		{"refused to watch for a minute", with(rest, func(s *state) { s.refused, s.looksNext = errRefused, tb.now.at }), timeUp{}, "listen 1m0s", "FAILED no permission", nil},
		{"refused to watch no more", with(rest, func(s *state) { s.refused = errRefused }), see(tb.own()), "listen 1m0s", "holds 10.5.1.0/24; works", func(s state) bool { return s.refused == nil }},

		{"claimed again", tb.online(reclaim{}, settle{}), answer{lease: tb.own()}, "listen 1m0s", "our lease 10.5.1.0/24 had vanished from the store; claimed it again; holds 10.5.1.0/24; works", nil},
		{"claimed again, without a configuration", wiped, answer{lease: tb.own()}, "listen 1m0s", "our lease 10.5.1.0/24 had vanished from the store; claimed it again; the network configuration is not there any more, and stays in force; *", func(s state) bool { return !s.stored.wiped }},
		{"taken meanwhile", tb.online(reclaim{}, settle{}), answer{err: ErrExists}, "listen 50ms", "works; claiming our lease 10.5.1.0/24 again: *", nil},
		{"not claimed again", tb.online(reclaim{}, settle{}), answer{err: errDown}, "listen 50ms", "FAILED the store is down", nil},

		{"no other subnet yet", homeless, see(tb.lease(ourSubnet, "192.0.2.10", "", 15)), "config within 10s", "", func(s state) bool { return s.holding.Holder == "the host with the public address 192.0.2.10" }},
		{"no other subnet, for lack of a configuration", moving(readConfig{callTimeout}, settle{}), answer{err: errDown}, "listen 50ms", "holds 10.5.1.0/24 of others; FAILED taking another subnet than 10.5.1.0/24, which belongs to the host with the public address 192.0.2.9: the store is down", nil},
		{"configuration gone meanwhile", moving(readConfig{callTimeout}, listLeases{callTimeout}), answer{err: ErrNoConfig}, "list within 10s", "keeping the configuration that we have: no network configuration", nil},
		{"configuration of another backend meanwhile", moving(readConfig{callTimeout}, listLeases{callTimeout}), answer{config: []byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)}, "list within 10s", "", func(s state) bool { return s.attempt.config == tb.c }},
		{"another subnet", moving(create{}, settle{}), answer{lease: tb.lease("10.5.2.0/24", ourAddress, ourMachine, 21)}, "listen 1m0s", "acquired the subnet 10.5.2.0/24; this host's subnet changed from 10.5.1.0/24 to 10.5.2.0/24: *; holds 10.5.2.0/24; works", nil},
		{"another subnet, under the configuration that was not followed", with(moving(create{}, settle{}), func(s *state) {
			s.holding.Unfollowed, s.stored.StoredConfig = "no", stores(theNetwork).Config
		}), answer{lease: tb.lease("10.5.2.0/24", ourAddress, ourMachine, 21)}, "listen 1m0s", "*; holds 10.5.2.0/24; works", nil},
		{"our subnet free again", moving(create{}, settle{}), answer{lease: tb.lease(ourSubnet, ourAddress, ourMachine, 21)}, "listen 1m0s", "*our subnet 10.5.1.0/24 is free again, and ours; holds 10.5.1.0/24; works", nil},
		{"the others while a holder is asked", moving(awaitAnswer{probe: probeHolder{lease: tb.own()}, asked: tb.own(), until: tb.now.at.Add(time.Second)}), answer{snapshot: snapshot(tb.own(), another)}, "sleep 500ms", "holds 10.5.1.0/24 of others", nil},
	}
}

// renews are those by time, and by what this host wants.
func (tb table) renews() []transition {
	due := with(tb.online(nil), func(s *state) { s.due = tb.now.at })
	again := with(tb.online(nil), func(s *state) { s.again = tb.now.at })
	woken := func(slept time.Duration) state {
		return with(tb.online(nil), func(s *state) { s.looksNext, s.asleep.from.boot = tb.now.at, tb.now.boot-slept })
	}
	other := answer{attrs: tb.attrs("192.0.2.5", ourMachine)}
	same := answer{attrs: tb.attrs(ourAddress, ourMachine)}
	later := tb.lease(ourSubnet, ourAddress, ourMachine, 21)
	short := tb.lease(ourSubnet, ourAddress, ourMachine, 21)
	short.Expires = tb.now.at.Add(time.Minute)
	long := tb.lease(ourSubnet, ourAddress, ourMachine, 21)
	long.Expires = tb.now.at.Add(30 * LeaseTTL)
	dueIn := func(d time.Duration) func(state) bool {
		return func(s state) bool { return s.due.Equal(tb.now.at.Add(d)) && !s.retrying }
	}
	writes := func() state { return tb.online(write{10, false, true}, settle{}) }
	restless := with(writes(), func(s *state) { s.renewal.wrote, s.renewal.rest = tb.now.at.Add(-time.Minute), 20*time.Minute })
	return []transition{
		{"due", due, timeUp{}, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "", nil},
		{"due, and the host may want something else", with(due, func(s *state) { s.outdated = true }), timeUp{}, "prepare 10.5.0.0/16 with 0 leases", "", nil},
		{"due, and the subnet is another host's", with(due, func(s *state) { s.holding.Holder = "someone" }), timeUp{}, "config within 10s", "", nil},
		{"nothing due", with(tb.online(nil), func(s *state) { s.due = tb.now.at.Add(time.Second) }), timeUp{}, "listen 1s", "", nil},
		{"renewed", writes(), answer{lease: later}, "listen 1m0s", "holds 10.5.1.0/24; works", dueIn(23 * time.Hour)},
		{"renewed for a minute", writes(), answer{lease: short}, "listen 1m0s", "holds 10.5.1.0/24; works", dueIn(renewLeast)},
		{"renewed for a minute again", restless, answer{lease: short}, "listen 1m0s", "holds 10.5.1.0/24; works", dueIn(40 * time.Minute)},
		{"renewed for a month", writes(), answer{lease: long}, "listen 1m0s", "holds 10.5.1.0/24; works", dueIn(23 * time.Hour)},
		{"not renewed", writes(), answer{err: errDown}, "listen 50ms", "FAILED renewing our lease 10.5.1.0/24: the store is down", func(s state) bool { return s.retrying }},
		{"someone else wrote it", writes(), answer{err: ErrChanged}, "list within 10s", "", nil},
		{"someone else wrote it, while we wrote it again", tb.online(write{revision: 15}, settle{}), answer{err: ErrChanged}, "listen 50ms", "works; renewing our lease 10.5.1.0/24: *", nil},
		{"someone else wrote it, says the store, and it is as it was", tb.online(listLeases{callTimeout}, check{}, wasWritten{10}, settle{}), answer{snapshot: snapshot(tb.own())}, "listen 50ms", "*FAILED renewing our lease 10.5.1.0/24: the store says that it was changed, and lists it as it was", nil},
		{"someone else wrote it, and it is ours", tb.online(listLeases{callTimeout}, check{}, wasWritten{10}, settle{}), answer{snapshot: snapshot(tb.lease(ourSubnet, ourAddress, ourMachine, 15))}, "listen 1m0s", "*holds 10.5.1.0/24; works", nil},

		{"asked to refresh", tb.online(nil), refreshAsked{}, "prepare 10.5.0.0/16 with 0 leases", "", func(s state) bool { return s.outdated }},
		{"asked to refresh while a retry is due", with(tb.online(nil), func(s *state) { s.retrying = true }), refreshAsked{}, "prepare 10.5.0.0/16 with 0 leases", "", nil},
		{"asked to refresh while a configuration is not followed", with(tb.online(nil), func(s *state) {
			s.holding.Unfollowed, s.stored.StoredConfig = "no", stores(`{"Network":"10.4.0.0/15"}`).Config
		}), refreshAsked{}, "prepare 10.4.0.0/15 with 0 leases", "", nil},
		{"nothing to refresh", with(tb.online(askAgain{}, reconsidered{}), func(s *state) { s.outdated, s.again = true, tb.now.at.Add(time.Second) }), same, "listen 1m0s", "over our lease *", func(s state) bool { return !s.outdated && s.again.IsZero() }},
		{"something to refresh", tb.online(askAgain{}, reconsidered{}), other, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "over our lease *; our lease 10.5.1.0/24 is to say *", nil},
		{"host cannot say", with(tb.online(askAgain{}, reconsidered{}), func(s *state) { s.outdated = true }), answer{err: errHost}, "listen 3s", "our lease 10.5.1.0/24 cannot say what it should: no interface; trying again; holds 10.5.1.0/24 unsaid", func(s state) bool { return s.again.Equal(tb.now.at.Add(retryMost)) }},
		{"host is asked again", again, timeUp{}, "prepare 10.5.0.0/16 with 0 leases", "", nil},

		{"not suspended", woken(0), timeUp{}, "listen 1m0s", "", nil},
		{"suspended for a moment", woken(sleepLeast - 1), timeUp{}, "listen 1m0s", "", nil},
		{"suspended for an hour", woken(time.Hour), timeUp{}, "list within 10s", "this host was suspended for 1h0m0s; looking after our lease 10.5.1.0/24", func(s state) bool {
			return s.holding.Own.Expires.Equal(tb.now.at.Add(LeaseTTL-time.Hour)) && s.asleep.from == tb.now
		}},
		{"listed after that", tb.online(listLeases{callTimeout}, check{}, renewUnwritten{}, settle{}), answer{snapshot: snapshot(tb.own())}, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "", nil},
		{"listed after that, a reservation", with(tb.online(listLeases{callTimeout}, check{}, renewUnwritten{}, settle{}), func(s *state) { s.holding.Own = reserve(tb.own()) }), answer{snapshot: snapshot(reserve(tb.own()))}, "listen 1m0s", "holds 10.5.1.0/24; works", nil},
		{"written after that", with(tb.online(write{revision: 15}, renewUnwritten{}, settle{}), func(s *state) { s.listed = snapshot() }), answer{lease: later}, "listen 1m0s", "holds 10.5.1.0/24; works", nil},
	}
}

// reconfigures are the configurations that a host with a lease may see.
func (tb table) reconfigures() []transition {
	const wider = `{"Network":"10.4.0.0/15"}`
	rest := tb.online(nil)
	see := func(text string, leases ...*Lease) event {
		s := stores(text)
		s.Leases = leases
		return newSnapshot{s}
	}
	asking := with(tb.online(reconfigure{}, judge{snapshot(tb.own())}), func(s *state) {
		s.stored.StoredConfig, s.stored.next = stores(wider).Config, tb.config(wider)
	})
	refused := "the network configuration was changed, and the former one stays in force: network configuration"
	unfollowed := "; holds 10.5.1.0/24 unfollowed; works"
	later := tb.lease(ourSubnet, ourAddress, ourMachine, 21)
	waits := with(rest, func(s *state) { s.holding.Unfollowed, s.stored.StoredConfig = "no", stores(wider).Config })
	reconsiders := func(s state) state {
		s.doing, s.todo, s.stored.next = reconfigure{}, []goal{reconsidered{}}, asking.stored.next
		return s
	}
	return []transition{
		{"the one in force", rest, see(theNetwork, tb.own()), "listen 1m0s", "holds 10.5.1.0/24; works", func(s state) bool { return s.stored.StoredConfig != nil }},
		{"a known one", with(rest, func(s *state) { s.stored.StoredConfig = stores(wider).Config }), see(wider, tb.own()), "listen 1m0s", "holds 10.5.1.0/24; works", nil},
		{"another one", rest, see(wider, tb.own()), "prepare 10.4.0.0/15 with 0 leases", "", nil},
		{"the former one", waits, see(theNetwork, tb.own()), "listen 1m0s", "the network configuration is again the one in force; holds 10.5.1.0/24; works", nil},
		{"deleted", rest, see("", tb.own()), "listen 1m0s", refused + " was deleted from the store" + unfollowed, nil},
		{"deleted with our lease", rest, see(""), "create 10.5.1.0/24 for 24h0m0s", "", func(s state) bool { return s.stored.wiped && s.holding.Unfollowed != "" }},
		{"bad", rest, see(bad, tb.own()), "listen 1m0s", refused + `: Network "10.5.0.0" *` + unfollowed, nil},
		{"bad, of a known key", with(rest, func(s *state) { s.configKey = "/net/config" }), see(bad, tb.own()), "listen 1m0s", refused + `: Network "10.5.0.0" * (key /net/config)` + unfollowed, nil},
		{"of another backend", rest, see(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, tb.own()), "listen 1m0s", refused + `: Backend.Type "vxlan" in the place of "udp" takes a restart*` + unfollowed, nil},
		{"without our subnet", rest, see(`{"Network":"10.6.0.0/16"}`, tb.own()), "listen 1m0s", refused + ": Network 10.6.0.0/16 does not hold this host's subnet 10.5.1.0/24*" + unfollowed, nil},
		{"followed", asking, answer{attrs: tb.attrs(ourAddress, ourMachine)}, "listen 1m0s", "the network configuration was changed, and is in force now: *; holds 10.5.1.0/24; works", func(s state) bool { return s.holding.Config == asking.stored.next }},
		{"followed, with another lease", asking, answer{attrs: tb.attrs("192.0.2.5", ourMachine)}, "update 10.5.1.0/24@10 of alpha 1f for 24h0m0s", "the network configuration was changed, and is in force now: *", nil},
		{"followed while a retry is due", with(asking, func(s *state) { s.retrying, s.due, s.holding.Own = true, tb.now.at.Add(time.Second), later }), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "listen 1s", "*; holds 10.5.1.0/24", nil},
		{"not yet followed", asking, answer{err: errHost}, "listen 3s", "the network configuration was changed, and the former one stays in force: no interface; holds 10.5.1.0/24 unfollowed; works", nil},
		{"followed later", reconsiders(waits), answer{attrs: tb.attrs(ourAddress, ourMachine)}, "listen 1m0s", "*is in force now: *; holds 10.5.1.0/24", func(s state) bool { return s.holding.Unfollowed == "" }},
		{"still not followed", with(reconsiders(waits), func(s *state) { s.holding.Unfollowed = errHost.Error(); s.published = s.holding }), answer{err: errHost}, "listen 3s", "", nil},
	}
}
