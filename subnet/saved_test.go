package subnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"flanneld/pkg/ip"
)

// saveable is a holding with a lease of every kind.
func saveable(t *testing.T) Holding {
	t.Helper()
	config, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`))
	if err != nil {
		t.Fatal(err)
	}
	lease := func(s, public string, ttl time.Duration) *Lease {
		l := &Lease{
			Subnet: ip.SubnetOf(netip.MustParsePrefix(s)), Revision: 7,
			Attrs: Attrs{PublicIP: ip.Addrs{V4: netip.MustParseAddr(public)}, BackendType: "vxlan", BackendData: `{"VNI":1,"VtepMAC":"0a:00:00:00:00:01"}`},
		}
		if ttl > 0 {
			l.Expires = time.Now().Add(ttl)
		}
		return l
	}
	own := lease("10.5.1.0/24", "192.0.2.1", time.Hour)
	return Holding{Config: config, Own: own, Holder: "someone", Snapshot: Snapshot{Leases: []*Lease{
		own, lease("10.5.2.0/24", "192.0.2.2", time.Hour), lease("10.5.3.0/24", "192.0.2.3", 0),
	}}}
}

// What is written lease by lease is what is read as a whole, byte for byte.
func TestSavedAsAWhole(t *testing.T) {
	h := saveable(t)
	h.Holder = `<"someone" & another>`
	h.Snapshot.Leases[1].Machine = "a <name> 0123456789ab"
	vanished := Vanished{leaseOf("10.5.4.0/24"), time.Now().Add(-5 * time.Second)}
	vanished.Attrs = h.Own.Attrs
	for name, vanished := range map[string][]Vanished{"none vanished": nil, "one": {vanished}, "two": {vanished, vanished}} {
		for _, assigned := range []*Assignment{nil, {Host: "a", Cluster: "b"}} {
			h.Snapshot.Own = assigned
			path := filepath.Join(t.TempDir(), "state.json")
			if err := h.Save(path, "/net", vanished...); err != nil {
				t.Fatal(err)
			}
			written, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var j savedJSON
			if err := json.Unmarshal(written, &j); err != nil {
				t.Fatal(err)
			}
			if len(j.Leases) != len(h.Snapshot.Leases) || len(j.Vanished) != len(vanished) {
				t.Errorf("%s: %s was written", name, written)
			}
			whole, err := json.Marshal(j)
			if err != nil {
				t.Fatal(err)
			}
			if string(written) != string(whole)+"\n" {
				t.Errorf("%s: %s was written, want %s", name, written, whole)
			}
		}
	}
}

// Of thousands of leases, the text is never in memory as a whole.
func TestSavedPartByPart(t *testing.T) {
	h := saveable(t)
	for i := range 5000 {
		l := *h.Own
		l.Subnet = ip.SubnetOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
		h.Snapshot.Leases = append(h.Snapshot.Leases, &l)
	}
	all, most := 0, 0
	if err := h.write(writer(func(p []byte) {
		all += len(p)
		most = max(most, len(p))
	}), "/net", time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	if most > 1000 || all < 1_000_000 {
		t.Errorf("%d bytes were written, up to %d at once", all, most)
	}
	full := errors.New("full")
	if err := h.write(failing{full}, "/net", time.Now(), nil); !errors.Is(err, full) {
		t.Errorf("that it could not be written is %v", err)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

type failing struct{ error }

func (f failing) Write([]byte) (int, error) { return 0, f.error }

func TestSaved(t *testing.T) {
	h := saveable(t)
	path := filepath.Join(t.TempDir(), "new", "state.json")
	vanished := Vanished{leaseOf("10.5.4.0/24"), time.Now().Add(-5 * time.Second)}
	vanished.Attrs = h.Own.Attrs
	if err := h.Save(path, "/net", vanished); err != nil {
		t.Fatal(err)
	}
	s, err := LoadSaved(path, "/net")
	if err != nil {
		t.Fatal(err)
	}
	if v := s.Vanished; len(v) != 1 || v[0].Subnet != vanished.Subnet || v[0].Attrs != vanished.Attrs || v[0].Since.Sub(vanished.Since).Abs() > time.Second {
		t.Errorf("vanished are %v", v)
	}
	if !s.SameSaved(h) {
		t.Errorf("%+v is not the same", s)
	}
	for i, l := range s.Snapshot.Leases {
		want := h.Snapshot.Leases[i]
		if l.Subnet != want.Subnet || l.Attrs != want.Attrs || l.Expires.Sub(want.Expires).Abs() > time.Second || l.Revision != want.Revision {
			t.Errorf("%+v was read, want %+v", l, want)
		}
	}
	if s.Config.Network() != h.Config.Network() || s.Config.BackendType != "vxlan" || s.Own != s.Snapshot.Leases[0] || time.Since(s.At) > time.Minute {
		t.Errorf("%+v was read", s)
	}

	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for want, content := range map[string]string{
		`it is of "/net", not of "/other"`: "",
		"not valid JSON":                   string(good[:len(good)/2]),
		"is a JSON array":                  "[]",
		"network configuration: Network":   strings.Replace(string(good), "10.5.0.0/16", "10.5.0.0/66", 1),
		"own lease is missing":             strings.Replace(string(good), `"Own":"10.5.1.0-24"`, `"Own":"10.5.9.0-24"`, 1),
	} {
		store := "/net"
		if content == "" {
			content, store = string(good), "/other"
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSaved(path, store); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestSameSaved(t *testing.T) {
	h := saveable(t)
	change := func(i int, f func(*Lease)) Holding {
		now := h
		now.Snapshot.Leases = append([]*Lease(nil), h.Snapshot.Leases...)
		l := *h.Snapshot.Leases[i]
		f(&l)
		now.Snapshot.Leases[i] = &l
		if i == 0 {
			now.Own = &l
		}
		return now
	}
	if !change(1, func(l *Lease) { l.Expires, l.Revision = l.Expires.Add(time.Hour), 9 }).SameSaved(h) {
		t.Error("that another host renewed its lease is worth a write")
	}
	for name, now := range map[string]Holding{
		"our own lease renewed": change(0, func(l *Lease) { l.Expires = l.Expires.Add(time.Hour) }),
		"another's attributes":  change(1, func(l *Lease) { l.BackendData = "{}" }),
		"reserved":              change(1, func(l *Lease) { l.Expires = time.Time{} }),
		"another's subnet":      {Config: h.Config, Own: h.Own, Snapshot: h.Snapshot, Holder: "the host"},
		"another configuration": {Config: &Config{raw: "{}"}, Own: h.Own, Holder: h.Holder, Snapshot: h.Snapshot},
		"one that is not there": {Config: h.Config, Own: h.Own, Holder: h.Holder, Snapshot: Snapshot{Leases: h.Snapshot.Leases[:2]}},
		"another in its place":  change(2, func(l *Lease) { l.Subnet = ip.SubnetOf(netip.MustParsePrefix("10.5.4.0/24")) }),
	} {
		if now.SameSaved(h) {
			t.Errorf("%s: not noticed", name)
		}
	}
}

func TestSavedUsable(t *testing.T) {
	h := saveable(t)
	attrs := h.Own.Attrs
	var previous ip.Subnet
	var failure error // of Prepare
	for want, change := range map[string]func(*Saved){
		"":                          func(*Saved) {},
		"yet to come":               func(s *Saved) { s.At = s.At.Add(time.Hour) },
		"ended at":                  func(s *Saved) { s.Own.Expires = time.Now().Add(-time.Second) },
		"does not fit":              func(s *Saved) { s.Own.Subnet = ip.SubnetOf(netip.MustParsePrefix("10.6.1.0/24")) },
		"of another public address": func(*Saved) { attrs.PublicIP.V4 = netip.MustParseAddr("192.0.2.9") },
		"that of the machine other, and this one is here": func(s *Saved) {
			s.Own.Machine, attrs.Machine = "other", "here"
		},
		// As of a host that shares the folder and was made from the same image.
		"that of another public address": func(s *Saved) {
			s.Own.Machine, attrs.Machine, attrs.PublicIP.V4 = "one 1f", "other 1f", netip.MustParseAddr("192.0.2.9")
			previous = ip.SubnetOf(netip.MustParsePrefix("10.5.77.0/24"))
		},
		"no interface": func(*Saved) { failure = errors.New("no interface") },
	} {
		attrs, previous, failure = h.Own.Attrs, ip.Subnet{}, nil
		own := *h.Own
		saved := Saved{At: time.Now().Add(-time.Minute), Holding: h}
		saved.Own = &own
		change(&saved)
		s := state{
			identity: identity{previous: previous}, saved: recollection{exists: true, loaded: true, Saved: saved},
			todo: []goal{adoptSaved{}},
		}
		now := moment{at: time.Now()}
		s, a, reports := decide(s, nil, now)
		if _, asks := a.(prepare); asks {
			s, _, reports = decide(s, answer{attrs: attrs, err: failure}, now)
		}
		if usable := s.mode == offline; usable != (want == "") || !strings.Contains(fmt.Sprint(reports), want) {
			t.Errorf("usable is %t, the reports are %v, want %q", usable, reports, want)
		}
	}
}

// The clock was set since it was learned when leases end: that is not when they end
// by it now.
func TestSavedAfterClockWasSet(t *testing.T) {
	h := saveable(t)
	path := filepath.Join(t.TempDir(), "state.json")
	for _, by := range []time.Duration{24 * time.Hour, -24 * time.Hour, 40 * 365 * 24 * time.Hour} {
		for _, l := range h.Snapshot.Leases[:2] {
			l.Expires = beforeSet(time.Now().Add(time.Hour), by)
		}
		if err := h.Save(path, "/net"); err != nil {
			t.Fatal(err)
		}
		s, err := LoadSaved(path, "/net")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range s.Snapshot.Leases[:2] {
			if left := time.Until(l.Expires); left < 59*time.Minute || left > time.Hour {
				t.Errorf("the clock was set by %s, and %s ends in %s, want an hour", by, l.Subnet, left)
			}
		}
		if !s.Snapshot.Leases[2].Reserved() {
			t.Errorf("%s is no longer reserved", s.Snapshot.Leases[2].Subnet)
		}
	}
}

// beforeSet returns a time of both clocks as it is if the wall clock has been set by
// some time, in seconds, since it was read. Only the clock itself can make such a
// time; here its seconds are changed where package time keeps them.
func beforeSet(t time.Time, by time.Duration) time.Time {
	const inWall = 30 // bits for nanoseconds
	*(*uint64)(unsafe.Pointer(&t)) -= uint64(by/time.Second) << inWall
	return t
}
