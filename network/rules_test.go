package network

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

var allRules = Rules{V4: Ways{Backend: state.NFTables}, V6: Ways{Backend: state.NFTables}, Masquerade: true, RandomFully: true, Forward: true}

// rulesDesired is for a host with packet rules, and a peer.
func rulesDesired(t *testing.T, config string, r Rules) Desired {
	t.Helper()
	c, err := subnet.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	w := desire(lease(1, 1))
	w.Config, w.Rules = c, r
	w.Own = &subnet.Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.7.0/24"))}
	w.Networks = []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("10.0.0.0/16")}
	return w
}

const rulesConfig = `{"Network":"10.5.0.0/16","MasqExclude":["192.0.2.0/24","fc00::/7","198.51.100.0/24"]}`

func rulesOf(way state.RuleBackend, network, own, exclude string) state.Set {
	n := netip.MustParsePrefix(network)
	all := make(state.Set)
	for _, o := range []state.Object{
		state.Masquerade{Backend: way, Network: n, Own: netip.MustParsePrefix(own), Exclude: exclude, RandomFully: true},
		state.Forward{Backend: way, Network: n},
	} {
		all[o.Key()] = o
	}
	return all
}

func (r *fixture) wantRules(want state.Set) {
	r.Helper()
	if got := r.fake.Rules(); !maps.Equal(got, want) {
		r.Errorf("the rules are %v, want %v", got, want)
	}
}

func TestRules(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		const excluded = "192.0.2.0/24 198.51.100.0/24"
		right := rulesOf(state.NFTables, "10.5.0.0/16", "10.5.7.0/24", excluded)
		r.start()
		w := rulesDesired(t, rulesConfig, allRules)
		r.SetDesired(w)
		r.pass(debounce)
		r.wantRules(right)
		if last := r.fake.Applied()[2].Key().Kind; last != state.KindForward {
			t.Errorf("the last step is about a %s", last)
		}
		// Whatever someone does to them, is undone.
		for k := range right {
			for _, away := range []bool{false, true} {
				r.fake.SpoilRules(k, away)
				r.pass(time.Second)
				r.wantRules(right)
			}
		}
		strange := state.Key{Kind: state.KindForward, Scope: string(state.IPTablesLegacy), Prefix: netip.MustParsePrefix("0.0.0.0/0")}
		r.fake.SpoilRules(strange, false)
		r.pass(time.Second)
		r.wantRules(right)

		// Those of another network on the host are another daemon's.
		other := state.Key{Kind: state.KindForward, Scope: string(state.NFTables), Prefix: netip.MustParsePrefix("10.6.0.0/16")}
		r.fake.SpoilRules(other, false)
		r.pass(time.Hour)
		all := r.fake.Rules()
		if all[other] == nil || len(all) != len(right)+1 {
			t.Errorf("the rules are %v", all)
		}
		r.fake.SpoilRules(other, true)

		// Another subnet is one step.
		before := len(r.fake.Applied())
		w.Own = &subnet.Lease{Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.8.0/24"))}
		r.SetDesired(w)
		r.pass(time.Second)
		r.wantRules(rulesOf(state.NFTables, "10.5.0.0/16", "10.5.8.0/24", excluded))
		if steps := r.fake.Applied()[before:]; len(steps) != 1 || steps[0].Verb != state.Replace {
			t.Errorf("the steps were %v", steps)
		}
		w.Rules = Rules{V4: allRules.V4, Forward: true}
		r.SetDesired(w)
		r.pass(time.Second)
		if got := r.fake.Rules(); len(got) != 1 {
			t.Errorf("the rules are %v", got)
		}
	})
}

// Of two families each has rules of its own, in ways of its own; one of which this host has no
// subnet yet has none.
func TestRulesOfFamilies(t *testing.T) {
	const config = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","MasqExclude":["192.0.2.0/24","fc00::/7","2001:db8::/32"]}`
	fakeClock(t, func(r *fixture) {
		r.start()
		rules := allRules
		rules.V6 = Ways{Backend: state.IPTablesNFT, ForwardAlso: []state.RuleBackend{state.IPTablesLegacy}}
		w := rulesDesired(t, config, rules)
		w.Networks = append(w.Networks, w.Config.V6.Network)
		r.SetDesired(w)
		r.pass(time.Second)
		v4 := rulesOf(state.NFTables, "10.5.0.0/16", "10.5.7.0/24", "192.0.2.0/24")
		r.wantRules(v4)

		w.Own = &subnet.Lease{Subnet: ip.Subnet{V4: w.Own.Subnet.V4, V6: netip.MustParsePrefix("fc00:0:0:7::/64")}}
		before := len(r.fake.Applied())
		r.SetDesired(w)
		r.pass(time.Second)
		both := rulesOf(state.IPTablesNFT, "fc00::/48", "fc00:0:0:7::/64", "fc00::/7 2001:db8::/32")
		also := state.Forward{Backend: state.IPTablesLegacy, Network: w.Config.V6.Network}
		both[also.Key()] = also
		v6 := maps.Clone(both)
		maps.Copy(both, v4)
		r.wantRules(both)
		for _, op := range r.fake.Applied()[before:] {
			if v4[op.Key()] != nil {
				t.Errorf("with IPv6 there came %s", op)
			}
		}
		w = rulesDesired(t, `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","MasqExclude":["fc00::/7","2001:db8::/32"]}`, rules)
		w.Networks = append(w.Networks, w.Config.V6.Network)
		w.Own = &subnet.Lease{Subnet: ip.Subnet{V6: netip.MustParsePrefix("fc00:0:0:7::/64")}}
		r.SetDesired(w)
		r.pass(time.Second)
		r.wantRules(v6)
	})
}

// When rules are written in another way, or for another network, the new ones are
// there before the old ones go.
func TestRulesChangeWay(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		w := rulesDesired(t, rulesConfig, allRules)
		r.SetDesired(w)
		r.pass(time.Second)
		for _, change := range []func(){
			func() { w.Rules.V4.Backend = state.IPTablesNFT },
			func() {
				networks := w.Networks
				w = rulesDesired(t, `{"Network":"10.9.0.0/16"}`, w.Rules)
				w.Networks = append(networks, w.Networks...)
			},
		} {
			before := len(r.fake.Applied())
			change()
			r.SetDesired(w)
			r.pass(time.Second)
			var verbs []state.Verb
			for _, op := range r.fake.Applied()[before:] {
				if op.Key().Kind != state.KindRoute {
					verbs = append(verbs, op.Verb)
				}
			}
			if want := []state.Verb{state.Create, state.Create, state.Delete, state.Delete}; !slices.Equal(verbs, want) {
				t.Errorf("the steps were %v, want %v", verbs, want)
			}
		}
		r.wantRules(rulesOf(state.IPTablesNFT, "10.9.0.0/16", "10.5.7.0/24", ""))
	})
}

// Rules that cannot be had are told of, tried again, and hold up nothing else.
func TestRulesRefused(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		right := rulesOf(state.NFTables, "10.5.0.0/16", "10.5.7.0/24", "192.0.2.0/24 198.51.100.0/24")
		for k := range right {
			r.fake.Refuse(k, unix.EOPNOTSUPP)
		}
		r.start()
		r.SetDesired(rulesDesired(t, rulesConfig, allRules))
		r.pass(time.Second)
		select {
		case <-r.Ready():
		default:
			t.Error("not ready")
		}
		r.wantRoutes(1, ours(route(1, 1)))
		if s := r.lastStatus(); s.Missing != 2 || s.Wanted != 3 {
			t.Errorf("the status is %+v", s)
		}
		for k := range right {
			r.fake.Refuse(k, nil)
		}
		r.pass(2 * retryMost)
		r.wantRules(right)
	})
}

func TestRulesCleanup(t *testing.T) {
	fake := dataplanetest.NewFake()
	other := state.Key{Kind: state.KindForward, Scope: string(state.NFTables), Prefix: netip.MustParsePrefix("10.6.0.0/16")}
	for _, dst := range []string{"10.5.0.0/16", "0.0.0.0/0"} {
		for _, way := range []state.RuleBackend{state.NFTables, state.IPTablesLegacy} {
			fake.SpoilRules(state.Key{Kind: state.KindMasquerade, Scope: string(way), Prefix: netip.MustParsePrefix(dst)}, false)
		}
	}
	fake.SpoilRules(other, false)
	gone, err := Cleanup(context.Background(), []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16")}, fake)
	if err != nil || len(gone) != 4 {
		t.Errorf("Cleanup() = %v, %v", gone, err)
	}
	if left := fake.Rules(); len(left) != 1 || left[other] == nil {
		t.Errorf("left is %v", left)
	}
}

// Rules that wait until others have stopped changing rules are no failure to report, and are
// made as soon as the target says so. What they take the place of stays until then.
func TestRulesSettling(t *testing.T) {
	log := lines(t, func(r *fixture) {
		r.start()
		w := rulesDesired(t, rulesConfig, allRules)
		r.SetDesired(w)
		r.pass(time.Second)
		before := r.fake.Rules()
		w.Rules.V4.Backend = state.IPTablesNFT
		after := rulesOf(state.IPTablesNFT, "10.5.0.0/16", "10.5.7.0/24", "192.0.2.0/24 198.51.100.0/24")
		for k := range after {
			r.fake.Refuse(k, fmt.Errorf("table x: %w", dataplane.ErrSettling))
		}
		r.SetDesired(w)
		r.pass(time.Second)
		r.wantRules(before)
		for k := range after {
			r.fake.Refuse(k, nil)
		}
		for k := range after {
			r.loops[0].notice(dataplane.Event{Key: k, Gone: true})
		}
		r.pass(100 * time.Millisecond)
		r.wantRules(after)
		if s := r.lastStatus(); s.Missing != 0 {
			t.Errorf("the status is %+v", s)
		}
	})
	for _, line := range log {
		if strings.Contains(line, dataplane.ErrSettling.Error()) || strings.Contains(line, "in place now") {
			t.Errorf("it was logged: %s", line)
		}
	}
}

// Packets are let through in several ways, while one of them masquerades.
func TestRulesForwardAlso(t *testing.T) {
	fakeClock(t, func(r *fixture) {
		r.start()
		rules := allRules
		rules.V4.ForwardAlso = []state.RuleBackend{state.IPTablesLegacy}
		w := rulesDesired(t, rulesConfig, rules)
		r.SetDesired(w)
		r.pass(time.Second)
		want := rulesOf(state.NFTables, "10.5.0.0/16", "10.5.7.0/24", "192.0.2.0/24 198.51.100.0/24")
		also := state.Forward{Backend: state.IPTablesLegacy, Network: netip.MustParsePrefix("10.5.0.0/16")}
		want[also.Key()] = also
		r.wantRules(want)
		w.Rules = allRules
		r.SetDesired(w)
		r.pass(time.Second)
		delete(want, also.Key())
		r.wantRules(want)
	})
}
