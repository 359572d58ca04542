package subnet

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/once"
)

const (
	ourSubnet     = "10.5.1.0/24"
	ourAddress    = "192.0.2.1"
	ourMachine    = "alpha 1f"
	theNetwork    = `{"Network":"10.5.0.0/16"}`
	bothNetworks  = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`
	network6      = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}`
	bothSubnets   = "10.5.1.0/24,fc00:0:0:1::/64"
	bothAddresses = ourAddress + ",2001:db8::1"
	oldAddress    = "192.0.2.77"
	ourRevision   = 10
)

var (
	errDown = errors.New("the store is down")
	errHost = errors.New("no interface")
)

// table makes what the rows of the table are about.
type table struct {
	now moment
	c   *Config
}

func (tb table) attrs(public, machine string) Attrs {
	a := Attrs{Machine: machine}
	for text := range strings.SplitSeq(public, ",") {
		addr := netip.MustParseAddr(text)
		a.PublicIP = a.PublicIP.With(ip.FamilyOf(addr), addr)
	}
	return a
}

// subnet reads one prefix or two.
func (tb table) subnet(cidr string) (s ip.Subnet) {
	for text := range strings.SplitSeq(cidr, ",") {
		p := netip.MustParsePrefix(text)
		s = s.With(ip.FamilyOf(p.Addr()), p)
	}
	return s
}

// lease ends in a day; reserve makes one that does not.
func (tb table) lease(cidr, public, machine string, revision uint64) *Lease {
	return &Lease{Subnet: tb.subnet(cidr), Attrs: tb.attrs(public, machine), Revision: revision, Expires: tb.now.at.Add(LeaseTTL)}
}

func (tb table) own() *Lease { return tb.lease(ourSubnet, ourAddress, ourMachine, ourRevision) }

func reserve(l *Lease) *Lease {
	l.Expires = time.Time{}
	return l
}

func asked(l *Lease, challenger string) *Lease {
	l.Challenger = challenger
	return l
}

// config is a configuration that is valid, of hosts that choose their subnets.
func (tb table) config(text string) *Config {
	c, err := ParseConfig([]byte(text))
	if err != nil {
		panic(err)
	}
	return c
}

// snapshot has leases, by subnet, as of revision 20.
func snapshot(leases ...*Lease) Snapshot { return Snapshot{Leases: leases, Revision: 20} }

func (tb table) unreadable(ttl time.Duration) Snapshot {
	p := Problem{Key: "10.5.1.0-24", Subnet: tb.subnet(ourSubnet), Revision: 15}
	if ttl > 0 {
		p.Expires = tb.now.at.Add(ttl)
	}
	return Snapshot{Problems: []Problem{p}, Revision: 20}
}

func stores(text string) Snapshot {
	return Snapshot{Revision: 20, Config: &StoredConfig{Text: text, Missing: text == ""}}
}

// starting is a state in an attempt to get the first lease.
func (tb table) starting(doing request, todo ...goal) state {
	b := once.Backoff{First: retryFirst, Most: retryMost}
	return state{
		margin: time.Hour, random: *rand.NewPCG(1, 2), begun: tb.now.at, retry: b,
		asleep: sleepClock{tb.now}, looksNext: tb.now.at.Add(sleepCheck), doing: doing, todo: append(todo, settle{}),
		attempt: attempt{timeout: callTimeout, config: tb.c}, attrs: tb.attrs(ourAddress, ourMachine),
	}
}

// online is a state with a lease.
func (tb table) online(doing request, todo ...goal) state {
	s := tb.starting(doing)
	s.todo = todo
	s.mode, s.holding = online, Holding{Config: tb.c, Own: tb.own()}
	s.published, s.renewal.seen = s.holding, ourRevision
	return s
}

func with(s state, change func(*state)) state {
	change(&s)
	return s
}

// savedState is a state that starts with what was saved a minute ago.
func (tb table) savedState(doing request, todo ...goal) state {
	return with(tb.starting(doing), func(s *state) {
		s.todo = todo
		s.begun = tb.now.at.Add(-offlineAfter)
		h := Holding{Config: tb.c, Own: tb.own(), Snapshot: snapshot(tb.own())}
		s.saved = recollection{exists: true, loaded: true, Saved: Saved{At: tb.now.at.Add(-time.Minute), Holding: h}}
	})
}

// offline is a state that started with that.
func (tb table) offline(doing request, todo ...goal) state {
	return with(tb.starting(doing, todo...), func(s *state) {
		s.mode, s.holding = offline, Holding{Config: tb.c, Own: tb.own(), Partial: true}
		s.identity.previous, s.published = tb.subnet(ourSubnet), s.holding
	})
}

// show is an action in few words. Pauses that chance cuts short are shown uncut.
func show(a action) string {
	switch a := a.(type) {
	case readConfig:
		return fmt.Sprintf("config within %s", a.timeout)
	case listLeases:
		return fmt.Sprintf("list within %s", a.timeout)
	case createLease:
		return fmt.Sprintf("create %s for %s", a.subnet, a.ttl)
	case updateLease:
		by := a.attrs.Machine
		if a.attrs.Challenger != "" {
			by += " asked by " + a.attrs.Challenger
		}
		return fmt.Sprintf("update %s@%d of %s for %s", a.subnet, a.revision, by, a.ttl)
	case moveLease:
		return fmt.Sprintf("move %s@%d to %s of %s for %s", a.from, a.revision, a.to, a.attrs.Machine, a.ttl)
	case deleteLease:
		return fmt.Sprintf("delete %s@%d", a.subnet, a.revision)
	case prepare:
		return fmt.Sprintf("prepare %s with %d leases", a.config.Network(), len(a.snapshot.Leases))
	case loadSaved:
		return "load"
	case sleep:
		return "sleep " + uncut(a.d)
	case listen:
		return "listen " + uncut(a.d)
	}
	return "nothing"
}

func uncut(d time.Duration) string {
	if d > 25*time.Millisecond && d <= 50*time.Millisecond {
		d = 50 * time.Millisecond
	}
	return d.String()
}

func showAll(reports []report) string {
	var all []string
	for _, n := range reports {
		switch n := n.(type) {
		case logLine:
			all = append(all, n.text)
		case changed:
			text := "holds " + n.Own.Subnet.String()
			if n.Holder != "" {
				text += " of others"
			}
			if n.Unfollowed != "" {
				text += " unfollowed"
			}
			if n.Unsaid != "" {
				text += " unsaid"
			}
			if n.Partial {
				text += " partial"
			}
			all = append(all, text)
		case waiting:
			all = append(all, "WAITS "+n.text)
		case ended:
			all = append(all, strings.TrimSpace("over "+n.topic))
		case storeFailed:
			all = append(all, "FAILED "+n.err.Error())
		case storeWorks:
			all = append(all, "works")
		}
	}
	return strings.Join(all, "; ")
}

// transition is a row of the table: in a state something happens.
type transition struct {
	name    string
	state   state
	event   event
	action  string
	reports string // in parts, between stars
	check   func(state) bool
}

// What decide does in each state with each event.
func TestTransitions(t *testing.T) {
	tb := table{now: moment{at: time.Now(), boot: time.Hour}, c: mustConfig(t, theNetwork)}
	seen := make(map[string]bool) // the answers to which goals
	for _, row := range slices.Concat(tb.starts(), tb.conflicts(), tb.withoutStore(), tb.keeps(), tb.renews(), tb.reconfigures(), tb.assignments(), tb.families()) {
		if a, is := row.event.(answer); is {
			seen[fmt.Sprintf("%s, failed: %t", reflect.TypeOf(row.state.doing).Name(), a.err != nil)] = true
		}
		t.Run(row.name, func(t *testing.T) {
			before := row.state
			s, a, reports := decide(row.state, row.event, tb.now)
			if got := show(a); !like(got, row.action) {
				t.Errorf("the action is %q, want %q", got, row.action)
			}
			if got := showAll(reports); !like(got, row.reports) {
				t.Errorf("the reports are %q, want %q", got, row.reports)
			}
			if row.check != nil && !row.check(s) {
				t.Errorf("the state is another one: retrying %t, due in %s, identity %+v, holding %+v", s.retrying, s.due.Sub(tb.now.at), s.identity, s.holding)
			}
			again, b, repeated := decide(row.state, row.event, tb.now)
			if !reflect.DeepEqual(row.state, before) || !reflect.DeepEqual(again, s) || !reflect.DeepEqual(b, a) || !reflect.DeepEqual(repeated, reports) {
				t.Error("what decide returns is not a matter of its arguments alone")
			}
		})
	}
	for _, name := range requestNames(t) {
		for _, failed := range []bool{false, true} {
			if row := fmt.Sprintf("%s, failed: %t", name, failed); !seen[row] && row != "sleep, failed: true" {
				t.Errorf("no row has the answer to %s", row)
			}
		}
	}
}

// like reports whether text is as wanted, where a star stands for anything.
func like(text, want string) bool {
	parts := strings.Split(want, "*")
	if len(parts) == 1 {
		return text == want
	}
	for i, p := range parts {
		at := strings.Index(text, p)
		if at < 0 || i == 0 && at > 0 || i == len(parts)-1 && !strings.HasSuffix(text, p) {
			return false
		}
		text = text[at+len(p):]
	}
	return true
}

// requestNames returns the goals that get an answer.
func requestNames(t *testing.T) []string {
	t.Helper()
	names := make(map[string]bool)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if m, is := d.(*ast.FuncDecl); is && m.Recv != nil && m.Name.Name == "finish" {
				names[m.Recv.List[0].Type.(*ast.Ident).Name] = true
			}
		}
	}
	if len(names) < 10 {
		t.Errorf("only %d goals were found", len(names))
	}
	return slices.Sorted(maps.Keys(names))
}
