package etcd

import (
	"time"

	"flanneld/subnet"
)

// View is what a watch knows, and up to where. Revisions are those of either API.
type View struct {
	Known    map[string]Known // the entries, by key
	Listed   bool             // false: list before going on
	Revision uint64           // all up to here is in the view
	Target   uint64           // the server has been seen to be here
	Cluster  string           // the server's
	// Config is up to where the configuration is known: its events come by themselves, so
	// this may be ahead of Revision, or behind it.
	Config uint64
	// Refused is why the server refuses requests beside what it brings; or nil.
	Refused error

	owed      bool // something changed since the last snapshot that Run's caller got
	assembler subnet.Assembler
}

// Known is what is known of a key besides what the assembler has.
type Known struct {
	Revision uint64 // of the last write
	Version  int64  // the number of writes since it was created, in version 3
	Ends     time.Time
}

// Snapshot returns what the view knows.
func (v *View) Snapshot() subnet.Snapshot {
	s := v.assembler.Snapshot(v.Revision)
	s.Refused = v.Refused
	return s
}

// Reset takes a complete listing.
func (v *View) Reset(entries []subnet.Entry, revision uint64, cluster string) {
	v.assembler.Reset(entries)
	*v = View{Known: make(map[string]Known, len(entries)), Listed: true, Revision: revision, Cluster: cluster, owed: true, assembler: v.assembler}
	for _, e := range entries {
		v.Known[e.Key] = Known{Revision: e.Revision, Ends: e.Expires}
	}
}

// Put takes an entry that was written; version is as in Known.
func (v *View) Put(e subnet.Entry, version int64) {
	v.assembler.Put(e)
	v.Known[e.Key] = Known{e.Revision, version, e.Expires}
}

// Remove takes the key of an entry that was deleted.
func (v *View) Remove(key string) {
	v.assembler.Remove(key)
	delete(v.Known, key)
}

// SetConfig takes the configuration as of a revision, and reports whether it is another one.
func (v *View) SetConfig(c subnet.StoredConfig, revision uint64) (changed bool) {
	if revision < v.Config {
		return false
	}
	v.Config = revision
	changed = v.assembler.SetConfig(c)
	v.owed = v.owed || changed
	return changed
}

// Last is the entry that was written last, or "".
func (v *View) Last() (key string, last Known) {
	for k, known := range v.Known {
		if known.Revision > last.Revision {
			key, last = k, known
		}
	}
	return key, last
}

// Refuse takes why the server refuses requests, and reports whether that is another reason.
func (v *View) Refuse(err error) (changed bool) {
	changed = (err == nil) != (v.Refused == nil) || err != nil && err.Error() != v.Refused.Error()
	v.Refused = err
	v.owed = v.owed || changed
	return changed
}
