package subnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"flanneld/pkg/file"
)

// Saved is what a host held at some time, in a file: with it the host can start
// while its store can't be reached.
type Saved struct {
	At time.Time // by the host's clock
	Holding
	// Vanished are the leases that lingered.
	Vanished []Vanished
}

// savedJSON is the file.
type savedJSON struct {
	// Store says what the leases are from, so that one is not taken for another.
	Store  string
	At     time.Time
	Config string // as written
	Own    string // the key of this host's lease
	Holder string `json:",omitempty"` // who has that now, if we have no other one yet
	// Assignment is there where the store chose our subnet.
	Assignment *Assignment `json:",omitempty"`
	Leases     []savedLease
	// Vanished leases are none of the store's, but lingered.
	Vanished []savedVanished `json:",omitempty"`
}

type savedLease struct {
	Key      string
	Value    string
	Expires  time.Time `json:",omitzero"` // by the host's clock; none is a reservation
	Revision uint64
	Created  int64 `json:",omitempty"`
}

type savedVanished struct {
	savedLease
	Since time.Time // by the host's clock
}

// Save writes what a host holds now of a store, and the leases that linger.
func (h Holding) Save(path, store string, vanished ...Vanished) error {
	j := savedJSON{
		Store: store, At: time.Now(), Config: h.Config.raw, Own: h.Own.Subnet.Key(), Holder: h.Holder, Assignment: h.Snapshot.Own,
		Leases: make([]savedLease, 0, len(h.Snapshot.Leases)),
	}
	var failed error
	save := func(l *Lease) savedLease {
		value, err := l.Value()
		failed = errors.Join(failed, err)
		return savedLease{l.Subnet.Key(), value, l.ends(j.At), l.Revision, l.Created}
	}
	j.Leases = append(j.Leases, save(h.Own))
	for _, l := range h.Snapshot.Leases {
		if l.Subnet != h.Own.Subnet {
			j.Leases = append(j.Leases, save(l))
		}
	}
	for _, v := range vanished {
		j.Vanished = append(j.Vanished, savedVanished{save(v.Lease), j.At.Add(v.Since.Sub(j.At))})
	}
	content, err := json.Marshal(j)
	if err = errors.Join(failed, err); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return file.Write(path, append(content, '\n'))
}

// ends returns when a lease expires, by the host's clock as it is now: it may have
// been set since that was learned.
func (l *Lease) ends(now time.Time) time.Time {
	if l.Reserved() {
		return time.Time{}
	}
	return now.Add(l.Expires.Sub(now))
}

// ErrUnread is for what was saved, while it cannot be told what that is: it may be later.
var ErrUnread = errors.New("it is not known yet")

// AnyStore is for LoadSaved, where it does not matter which store something is of.
const AnyStore = ""

// LoadSaved reads what was saved of a store.
func LoadSaved(path, store string) (Saved, error) {
	content, err := file.ReadOwn(path, 0)
	if err != nil {
		return Saved{}, fmt.Errorf("reading what was saved: %w", err)
	}
	s, err := parseSaved(content, store)
	if err != nil {
		return Saved{}, fmt.Errorf("reading what was saved: %s: %w", path, err)
	}
	return s, nil
}

func parseSaved(content []byte, store string) (Saved, error) {
	var j savedJSON
	if err := json.Unmarshal(content, &j); err != nil {
		return Saved{}, jsonError(err)
	}
	if store != AnyStore && j.Store != store {
		return Saved{}, fmt.Errorf("it is of %q, not of %q", j.Store, store)
	}
	config, err := parseConfig([]byte(j.Config), j.Assignment != nil)
	if err != nil {
		return Saved{}, err
	}
	var a Assembler
	entries := make([]Entry, len(j.Leases))
	for i, l := range j.Leases {
		entries[i] = Entry(l)
	}
	a.Reset(entries)
	s := Saved{At: j.At, Holding: Holding{Config: config, Snapshot: a.Snapshot(0), Holder: j.Holder}}
	s.Snapshot.Own = j.Assignment
	for _, l := range s.Snapshot.Leases {
		if l.Subnet.Key() == j.Own {
			s.Own = l
		}
	}
	if s.Own == nil {
		return Saved{}, errors.New("this host's own lease is missing")
	}
	for _, v := range j.Vanished {
		if l := (Snapshot{}).read(Entry(v.savedLease)).lease; l != nil {
			s.Vanished = append(s.Vanished, Vanished{l, v.Since})
		}
	}
	return s, nil
}

// SameSaved reports whether saving one would write what saving the other did, but
// for when other hosts' leases end.
func (h Holding) SameSaved(other Holding) bool {
	a, b := h.Own, other.Own
	if h.Config.raw != other.Config.raw || h.Holder != other.Holder || a.Subnet != b.Subnet || a.Attrs != b.Attrs || a.Revision != b.Revision || a.Expires.Sub(b.Expires).Abs() > time.Second {
		return false
	}
	if x, y := h.Snapshot.Own, other.Snapshot.Own; (x == nil) != (y == nil) || x != nil && x.asksElse(y) {
		return false
	}
	for l, o := range Changes(h.Snapshot.Leases, other.Snapshot.Leases) {
		if l == nil || o == nil || l.Attrs != o.Attrs || l.Reserved() != o.Reserved() {
			return false
		}
	}
	return true
}
