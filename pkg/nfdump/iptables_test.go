package nfdump

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/dataplane/dataplanetest"
	"flanneld/pkg/ip"
)

func TestMain(m *testing.M) { dataplanetest.InNetns(m) }

// forEachFamily runs a test with each, the program that restores its tables, and an address.
func forEachFamily(t *testing.T, test func(t *testing.T, f ip.Family, restore func(*testing.T, string), addr string)) {
	for f, c := range map[ip.Family]struct{ program, addr string }{
		ip.V4: {"iptables-legacy-restore", "192.0.2.1"}, ip.V6: {"ip6tables-legacy-restore", "2001:db8::1"},
	} {
		t.Run(f.String(), func(t *testing.T) {
			dataplanetest.NeedNetns(t)
			restore := func(t *testing.T, text string) { restoreBy(t, c.program, text) }
			t.Cleanup(func() { restore(t, "*filter\n:FORWARD ACCEPT\nCOMMIT\n") })
			test(t, f, restore, c.addr)
		})
	}
}

// restoreBy has a program take a table.
func restoreBy(t *testing.T, program, text string) {
	t.Helper()
	c := exec.Command(program)
	c.Env = append(os.Environ(), "XTABLES_LOCKFILE="+t.TempDir()+"/lock")
	c.Stdin = strings.NewReader(text)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// A table has its chains with their rules and policies, and rules lead to chains.
func TestReadXTable(t *testing.T) { forEachFamily(t, testReadXTable) }

func testReadXTable(t *testing.T, f ip.Family, restore func(*testing.T, string), addr string) {
	restore(t, "*filter\n:FORWARD DROP\n:EMPTY -\n:MINE -\n-A FORWARD -j MINE\n-A MINE -s "+addr+"\n-A MINE -j REJECT\nCOMMIT\n")
	names, err := XTables(f)
	if err != nil || !slices.Contains(names, "filter") {
		t.Fatalf("there are %q, %v", names, err)
	}
	table, err := ReadXTable(f, "filter")
	if err != nil {
		t.Fatal(err)
	}
	const accept, drop, returns = -2, -1, -5
	for _, want := range []struct {
		name         string
		hook, policy int
		rules        int
	}{{"INPUT", 1, accept, 0}, {"FORWARD", 2, drop, 1}, {"OUTPUT", 3, accept, 0}, {"EMPTY", -1, returns, 0}, {"MINE", -1, returns, 2}} {
		i := slices.IndexFunc(table.Chains, func(c *XChain) bool { return c.Name == want.name })
		if i < 0 {
			t.Errorf("there is no chain %s", want.name)
			continue
		}
		c := table.Chains[i]
		if policy, ok := c.Policy.Verdict(); c.Hook != want.hook || !ok || policy != want.policy || len(c.Entries) != want.rules {
			t.Errorf("%s is at hook %d, has policy %d and %d rules", c.Name, c.Hook, policy, len(c.Entries))
		}
		switch c.Name {
		case "FORWARD":
			if to := table.To(c.Entries[0]); to == nil || to.Name != "MINE" {
				t.Errorf("the rule leads to %v", to)
			}
		case "MINE":
			if !c.Entries[0].GoesOn() || table.To(c.Entries[0]) != nil || c.Entries[1].TargetName() != "REJECT" {
				t.Errorf("the rules have other targets")
			}
		}
	}
}

// A table that cannot be understood is no reason to fail.
func TestBrokenXTable(t *testing.T) { forEachFamily(t, testBrokenXTable) }

func testBrokenXTable(t *testing.T, f ip.Family, restore func(*testing.T, string), addr string) {
	restore(t, "*filter\n:MINE -\n-A FORWARD -s "+addr+" -j MINE\n-A MINE -p tcp --dport 80 -m comment --comment x -j ACCEPT\nCOMMIT\n")
	info, entries, err := readXTable(f, "filter")
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 20000 {
		b := append([]byte(nil), entries[:random.IntN(len(entries)+1)]...)
		for range random.IntN(4) {
			if len(b) > 0 {
				b[random.IntN(len(b))] = byte(random.Uint32())
			}
		}
		table, err := xFamilies[f].decode(info, b)
		if err != nil {
			if !errors.Is(err, ErrCutOff) {
				t.Fatal(err)
			}
			continue
		}
		for _, c := range table.Chains {
			for _, e := range append(c.Entries, c.Policy) {
				table.Shape(e)
			}
		}
	}
}
