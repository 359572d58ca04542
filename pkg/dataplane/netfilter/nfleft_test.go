package netfilter

import (
	"errors"
	"os"
	"testing"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// withoutIPTables is iptables-nft on a host without the program.
func withoutIPTables(t *testing.T, of ip.Family) *iptables {
	t.Helper()
	t.Setenv("PATH", t.TempDir())
	f := families[of]
	return newIPTables(state.IPTablesNFT, f, true, newNFIPTables(f), xtLeft{f})
}

// What any flannel has left by iptables-nft goes without the program, step by step
// in any order; what is like it, and others', stays.
func TestOldRulesWithoutIPTables(t *testing.T) { forEachFamily(t, testOldRulesWithoutIPTables) }

// forEachFamily runs a test with each family's iptables-nft.
func forEachFamily(t *testing.T, test func(*testing.T, wayKey)) {
	for _, f := range ip.Families {
		t.Run(f.String(), func(t *testing.T) {
			dataplanetest.NeedNetns(t)
			test(t, wayKey{state.IPTablesNFT, f})
		})
	}
}

func testOldRulesWithoutIPTables(t *testing.T, way wayKey) {
	const second = `
-t nat -A POSTROUTING -s 10.2.0.0/16 -d 10.2.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FORWARD -s 10.2.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
`
	for version, old := range oldIPTables {
		t.Run(version, func(t *testing.T) {
			h := freshIPTables(t, way)
			h.do(t, othersIPTables)
			h.do(t, second)
			before := h.rules(t)
			h.do(t, old)
			withoutIPTables := withoutIPTables(t, way.Family)
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
					if k.Prefix.String() == h.in("10.2.0.0/16") {
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
	forEachFamily(t, testOneOfTwoNetworksWithoutIPTables)
}

func testOneOfTwoNetworksWithoutIPTables(t *testing.T, way wayKey) {
	h := freshIPTables(t, way)
	other := dataplanetest.OtherWish(way.RuleBackend, way.Family)
	settle(t, New(true), other)
	left := h.rules(t)
	both := way.wish()
	for k, o := range other {
		both[k] = o
	}
	settle(t, New(true), both)
	w := withoutIPTables(t, way.Family)
	for _, o := range way.wish() {
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
func TestRulesOutliveIPTables(t *testing.T) { forEachFamily(t, testRulesOutliveIPTables) }

func testRulesOutliveIPTables(t *testing.T, way wayKey) {
	h := freshIPTables(t, way)
	want := way.wish()
	settle(t, New(true), want)
	have, err := withoutIPTables(t, way.Family).dump(t.Context())
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
func TestNoOthers(t *testing.T) { forEachFamily(t, testNoOthers) }

func testNoOthers(t *testing.T, way wayKey) {
	native := nftables{families[way.Family]}
	noRules(t)
	nftScript(dataplanetest.In(way.Family, oldNFTables))(t)
	for version, old := range oldIPTables {
		t.Run(version, func(t *testing.T) {
			h := freshIPTables(t, way)
			h.do(t, old)
			withoutIPTables := withoutIPTables(t, way.Family)
			if what, err := withoutIPTables.others(t.Context()); err != nil || what != "" {
				t.Errorf("others have %q, %v", what, err)
			}
			if what, err := native.others(t.Context()); err != nil || what != "" {
				t.Errorf("others have %q, %v", what, err)
			}
			h.do(t, "-P FORWARD DROP")
			if what, err := withoutIPTables.others(t.Context()); err != nil || what != "the policy of chain FORWARD of table filter" {
				t.Errorf("others have %q, %v", what, err)
			}
		})
	}
	noRules(t)
	nftScript(dataplanetest.In(way.Family, someoneElses))(t)
	if what, err := native.others(t.Context()); err != nil || what == "" {
		t.Errorf("others have %q, %v", what, err)
	}
}
