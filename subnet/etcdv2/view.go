package etcdv2

import (
	"strings"

	"flanneld/subnet"
)

// view is what a watch knows, and up to where.
type view struct {
	assembler subnet.Assembler
	revisions map[string]uint64 // of the entries, by key
	listed    bool              // false: list before going on
	index     uint64            // all up to here is in the view
	target    uint64            // the server has been seen to be here
	cluster   string
	config    uint64 // the configuration is known up to here
}

func (v *view) snapshot() subnet.Snapshot { return v.assembler.Snapshot(v.index) }

func (v *view) reset(l *listing) {
	v.assembler.Reset(l.entries)
	v.revisions = make(map[string]uint64, len(l.entries))
	for _, e := range l.entries {
		v.revisions[e.Key] = e.Revision
	}
	v.listed, v.index, v.target, v.cluster = true, l.index, 0, l.cluster
	v.config = 0
}

// setConfig takes the configuration, and reports whether that is news.
func (v *view) setConfig(c configAt) (changed bool) {
	if c.index < v.config {
		return false
	}
	v.config = c.index
	return v.assembler.SetConfig(c.StoredConfig)
}

// last is the entry that was written last, or "".
func (v *view) last() (key string, revision uint64) {
	for k, r := range v.revisions {
		if r > revision {
			key, revision = k, r
		}
	}
	return key, revision
}

// behind reports whether it is cheaper to list all leases than to ask for one event
// after the other up to an index, as when many hosts start at once. If most of what
// happened is about other keys, leases are listed once for each event of theirs.
func (v *view) behind(index uint64) bool {
	return index > v.index+max(16, uint64(len(v.revisions))/4)
}

// apply takes one event, and reports whether the view is still complete: it is
// not after events of directories, and where the event does not continue what
// the view knows of the key.
func (v *view) apply(dir string, rep *reply) bool {
	n, before := rep.Node, rep.PrevNode
	key, below := strings.CutPrefix(n.Key, dir+"/")
	if !below || key == "" || strings.Contains(key, "/") || n.Dir || (before != nil && before.Dir) {
		return false
	}
	var was uint64
	if before != nil {
		was = before.ModifiedIndex
	}
	if v.revisions[key] != was {
		return false
	}
	switch rep.Action {
	case "create", "set", "update", "compareAndSwap":
		v.assembler.Put(rep.entry(n))
		v.revisions[key] = n.ModifiedIndex
	case "delete", "expire", "compareAndDelete":
		v.assembler.Remove(key)
		delete(v.revisions, key)
	default:
		return false
	}
	v.index = n.ModifiedIndex
	return true
}
