package state

import (
	"net/netip"
	"reflect"
	"testing"
)

// odd is what a target has and this program would not make.
type odd struct{ is Object }

func (o odd) Key() Key       { return o.is.Key() }
func (o odd) Is() Object     { return o.is }
func (o odd) String() string { return "odd" }

var (
	dst   = netip.MustParsePrefix("10.1.2.0/24")
	key   = Key{Kind: KindRoute, Prefix: dst}
	right = Route{Dst: dst, Via: netip.MustParseAddr("192.168.0.2"), Dev: "eth0"}
	wrong = Route{Dst: dst, Via: netip.MustParseAddr("192.168.0.3"), Dev: "eth0"}
)

func TestDiffOwners(t *testing.T) {
	const by = "its text"
	is := func(o Object, owner Owner) *Entry { return &Entry{Object: o, Owner: owner, Text: by} }
	behind := func(o, front Object, whose Owner) *Entry {
		return &Entry{Object: o, Owner: Ours, Front: &Entry{Object: front, Owner: whose, Text: by}}
	}
	create := []Op{{Create, right, nil}}
	replace := func(o Object) []Op { return []Op{{Replace, right, o}} }
	remove := func(o Object) []Op { return []Op{{Delete, nil, o}} }
	blocked := []Blocked{{right, by}}
	for _, c := range []struct {
		name    string
		wanted  bool
		have    *Entry
		keep    bool
		ops     []Op
		blocked []Blocked
	}{
		{"wanted, nothing there", true, nil, false, create, nil},
		{"wanted and ours", true, is(right, Ours), false, nil, nil},
		{"wanted, ours is different", true, is(wrong, Ours), false, replace(wrong), nil},
		{"wanted, ours is odd", true, is(odd{right}, Ours), false, replace(odd{right}), nil},
		{"wanted, ours behind a foreign one", true, behind(right, wrong, Foreign), false, nil, blocked},
		{"wanted, ours behind a foreign one that serves", true, behind(right, right, Foreign), false, nil, nil},
		{"wanted, ours behind an adoptable one", true, behind(right, wrong, Adoptable), false, remove(right), nil},
		{"wanted, ours is different behind a foreign one", true, behind(wrong, wrong, Foreign), false, remove(wrong), nil},
		{"wanted, adoptable", true, is(right, Adoptable), false, replace(right), nil},
		{"wanted, adoptable but different", true, is(wrong, Adoptable), false, replace(wrong), nil},
		{"wanted, adoptable but odd", true, is(odd{right}, Adoptable), false, replace(odd{right}), nil},
		{"wanted, a foreign one serves", true, is(right, Foreign), false, nil, nil},
		{"wanted, a foreign one is in the way", true, is(wrong, Foreign), false, nil, blocked},
		{"wanted and unreadable", true, is(wrong, Ours), true, replace(wrong), nil},
		{"not wanted, nothing there", false, nil, false, nil, nil},
		{"not wanted, ours", false, is(right, Ours), false, remove(right), nil},
		{"not wanted, ours and odd", false, is(odd{right}, Ours), false, remove(odd{right}), nil},
		{"not wanted, ours behind a foreign one", false, behind(right, wrong, Foreign), false, remove(right), nil},
		{"not wanted, ours, to keep", false, is(right, Ours), true, nil, nil},
		{"not wanted, adoptable", false, is(right, Adoptable), false, nil, nil},
		{"not wanted, foreign", false, is(right, Foreign), false, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, have := Set{}, Observed{}
			if c.wanted {
				want[key] = right
			}
			if c.have != nil {
				have[key] = *c.have
			}
			ops, blocked := Diff(want, have, []Key{key}, func(o Object) bool { return c.keep && o.Key() == key })
			if !reflect.DeepEqual(ops, c.ops) || !reflect.DeepEqual(blocked, c.blocked) {
				t.Errorf("Diff() = %v, %v; want %v, %v", ops, blocked, c.ops, c.blocked)
			}
		})
	}
}

// kind is an object of some kind that depends on those of lower kinds.
type kind uint8

func (k kind) Key() Key       { return Key{Kind: Kind(k)} }
func (k kind) String() string { return Kind(k).String() }

func TestDiffOrder(t *testing.T) {
	want := Set{}
	have := Observed{}
	var keys []Key
	for _, k := range []kind{5, 2, 9, 1} {
		want[k.Key()] = k
		keys = append(keys, k.Key())
	}
	for _, k := range []kind{4, 8, 3, 7} {
		have[k.Key()] = Entry{Object: k, Owner: Ours}
		keys = append(keys, k.Key())
	}
	ops, _ := Diff(want, have, keys, func(Object) bool { return false })
	var got []kind
	for i, op := range ops {
		if (op.Verb == Delete) != (i >= 4) {
			t.Errorf("step %d is %s", i, op)
		}
		got = append(got, kind(op.Key().Kind))
	}
	if wanted := []kind{1, 2, 5, 9, 8, 7, 4, 3}; !reflect.DeepEqual(got, wanted) {
		t.Errorf("the order is %v, want %v", got, wanted)
	}
}

// Only the given keys are looked at, and none that is given but unknown.
func TestDiffKeys(t *testing.T) {
	other := Key{Kind: KindRoute, Prefix: netip.MustParsePrefix("10.1.3.0/24")}
	have := Observed{key: {Object: right, Owner: Ours}}
	if ops, blocked := Diff(Set{}, have, []Key{other}, func(Object) bool { return false }); ops != nil || blocked != nil {
		t.Errorf("Diff() = %v, %v", ops, blocked)
	}
}

func TestOpText(t *testing.T) {
	for text, op := range map[string]Op{
		"adding route 10.1.2.0/24 via 192.168.0.2 dev eth0":    {Create, right, nil},
		"replacing route 10.1.2.0/24 via 192.168.0.2 dev eth0": {Replace, right, wrong},
		"deleting route 10.1.2.0/24 via 192.168.0.3 dev eth0":  {Delete, nil, wrong},
	} {
		if op.String() != text || op.Key() != key {
			t.Errorf("%q, about %v; want %q", op, op.Key(), text)
		}
	}
}
