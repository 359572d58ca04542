package netfilter

import (
	"errors"
	"os"
	"testing"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/state"
)

// withoutIPTables is iptables-nft on a host without the program.
func withoutIPTables(t *testing.T) *iptables {
	t.Helper()
	t.Setenv("PATH", t.TempDir())
	return newIPTables(state.IPTablesNFT, true, newNFIPTables(), xtLeft{})
}

// What any flannel has left by iptables-nft goes without the program, step by step
// in any order; what is like it, and others', stays.
func TestOldRulesWithoutIPTables(t *testing.T) {
	dataplanetest.NeedNetns(t)
	const second = `
-t nat -A POSTROUTING -s 10.2.0.0/16 -d 10.2.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FORWARD -s 10.2.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
`
	for version, old := range oldIPTables {
		t.Run(version, func(t *testing.T) {
			h := freshIPTables(t, state.IPTablesNFT)
			h.do(t, othersIPTables)
			h.do(t, second)
			before := h.rules(t)
			h.do(t, old)
			withoutIPTables := withoutIPTables(t)
			if what, err := withoutIPTables.others(t.Context()); err != nil || what == "" {
				t.Errorf("others have %q, %v", what, err)
			}
			for try := 0; ; try++ {
				have, err := withoutIPTables.dump(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				todo := 0
				for k, e := range have {
					if k.Prefix == prefix("10.2.0.0/16") {
						continue // another network's
					}
					todo++
					if err := withoutIPTables.apply(t.Context(), state.Op{Verb: state.Delete, Have: e.Object}); err != nil {
						t.Errorf("%s: %v", e.Object, err)
					}
				}
				if todo == 0 {
					if try == 0 {
						t.Error("nothing was found")
					}
					break
				}
				if try > 1 {
					t.Fatalf("there is still %v", have)
				}
			}
			if after := h.rules(t); after != before {
				t.Errorf("there was\n%s\nand is\n%s", before, after)
			}
		})
	}
}

// Of two networks with rules in the same chains, one goes without the program; nothing that is
// to be written is.
func TestOneOfTwoNetworksWithoutIPTables(t *testing.T) {
	dataplanetest.NeedNetns(t)
	h := freshIPTables(t, state.IPTablesNFT)
	other := dataplanetest.RulesWish(state.IPTablesNFT)
	clear(other)
	for _, o := range []state.Object{
		state.Masquerade{Backend: state.IPTablesNFT, Network: prefix("10.64.0.0/12"), Own: prefix("10.66.0.0/24"), Exclude: "10.1.0.0/16"},
		state.Forward{Backend: state.IPTablesNFT, Network: prefix("10.64.0.0/12")},
	} {
		other[o.Key()] = o
	}
	settle(t, New(true), other)
	left := h.rules(t)
	both := dataplanetest.RulesWish(state.IPTablesNFT)
	for k, o := range other {
		both[k] = o
	}
	settle(t, New(true), both)
	w := withoutIPTables(t)
	for _, o := range dataplanetest.RulesWish(state.IPTablesNFT) {
		if err := w.apply(t.Context(), state.Op{Verb: state.Replace, Want: o}); !errors.Is(err, errAbsent) {
			t.Errorf("writing %s: %v", o, err)
		}
		if err := w.apply(t.Context(), state.Op{Verb: state.Delete, Have: o}); err != nil {
			t.Errorf("deleting %s: %v", o, err)
		}
	}
	if now := h.rules(t); now != left {
		t.Errorf("there is left\n%s\nwant\n%s", now, left)
	}
}

// Rules that are as they should be have nothing that is to go, though nobody can
// write such any more.
func TestRulesOutliveIPTables(t *testing.T) {
	dataplanetest.NeedNetns(t)
	h := freshIPTables(t, state.IPTablesNFT)
	want := dataplanetest.RulesWish(state.IPTablesNFT)
	settle(t, New(true), want)
	have, err := withoutIPTables(t).dump(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for k, e := range have {
		if want[k] == nil {
			t.Errorf("there is %s", e.Object)
		}
	}
	for k := range want {
		if have[k].Object == nil {
			t.Errorf("there is nothing under %v", k)
		}
	}
	if err := os.RemoveAll(h.bin); err != nil {
		t.Fatal(err)
	}
	settle(t, New(true), nil)
	if text := h.rules(t); text != "" {
		t.Errorf("there is left\n%s", text)
	}
}

// Where there are only rules of flannel, no one else has any.
func TestNoOthers(t *testing.T) {
	dataplanetest.NeedNetns(t)
	noRules(t)
	nftScript(oldNFTables)(t)
	for version, old := range oldIPTables {
		t.Run(version, func(t *testing.T) {
			h := freshIPTables(t, state.IPTablesNFT)
			h.do(t, old)
			withoutIPTables := withoutIPTables(t)
			if what, err := withoutIPTables.others(t.Context()); err != nil || what != "" {
				t.Errorf("others have %q, %v", what, err)
			}
			if what, err := newNFTables().others(t.Context()); err != nil || what != "" {
				t.Errorf("others have %q, %v", what, err)
			}
			h.do(t, "-P FORWARD DROP")
			if what, err := withoutIPTables.others(t.Context()); err != nil || what != "the policy of chain FORWARD of table filter" {
				t.Errorf("others have %q, %v", what, err)
			}
		})
	}
	noRules(t)
	nftScript(someoneElses)(t)
	if what, err := newNFTables().others(t.Context()); err != nil || what == "" {
		t.Errorf("others have %q, %v", what, err)
	}
}
