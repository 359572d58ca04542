package subnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
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
	savedHead
	Leases []savedLease
	// Vanished leases are none of the store's, but lingered.
	Vanished []savedVanished `json:",omitempty"`
}

type savedHead struct {
	// Store says what the leases are from, so that one is not taken for another.
	Store  string
	At     time.Time
	Config string // as written
	Own    string // the key of this host's lease
	Holder string `json:",omitempty"` // who has that now, if we have no other one yet
	// Assignment is there where the store chose our subnet.
	Assignment *Assignment `json:",omitempty"`
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
	return file.WriteParts(path, func(w io.Writer) error { return h.write(w, store, time.Now(), vanished) })
}

// write writes savedJSON lease by lease: of thousands, the text as a whole would be a good part
// of the daemon's memory.
func (h Holding) write(to io.Writer, store string, now time.Time, vanished []Vanished) error {
	head, err := json.Marshal(savedHead{
		Store: store, At: now, Config: h.Config.raw, Own: h.Own.Subnet.Key(), Holder: h.Holder, Assignment: h.Snapshot.Own,
	})
	w := savedWriter{to: to, now: now, failed: err}
	w.text(strings.TrimSuffix(string(head), "}") + `,"Leases":[`)
	w.json(w.lease(h.Own))
	for _, l := range h.Snapshot.Leases {
		if l.Subnet != h.Own.Subnet {
			w.text(",")
			w.json(w.lease(l))
		}
	}
	for i, v := range vanished {
		if i == 0 {
			w.text(`],"Vanished":[`)
		} else {
			w.text(",")
		}
		w.json(savedVanished{w.lease(v.Lease), now.Add(v.Since.Sub(now))})
	}
	w.text("]}\n")
	return w.failed
}

// savedWriter writes nothing any more once something failed.
type savedWriter struct {
	to     io.Writer
	now    time.Time
	part   bytes.Buffer // the last one that was encoded
	failed error
}

func (w *savedWriter) text(s string) {
	if w.failed == nil {
		_, w.failed = io.WriteString(w.to, s)
	}
}

func (w *savedWriter) json(v any) {
	if w.failed == nil {
		w.part.Reset()
		w.failed = json.NewEncoder(&w.part).Encode(v)
	}
	if w.failed == nil {
		_, w.failed = w.to.Write(bytes.TrimSuffix(w.part.Bytes(), []byte("\n")))
	}
}

func (w *savedWriter) lease(l *Lease) savedLease {
	w.part.Reset()
	if err := l.encode(&w.part); err != nil && w.failed == nil {
		w.failed = err
	}
	return savedLease{l.Subnet.Key(), strings.TrimSuffix(w.part.String(), "\n"), l.ends(w.now), l.Revision, l.Created}
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
