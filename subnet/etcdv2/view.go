package etcdv2

import (
	"strings"

	"flanneld/subnet/etcd"
)

// behind reports whether it is cheaper to list all leases than to ask for one event
// after the other up to an index, as when many hosts start at once. If most of what
// happened is about other keys, leases are listed once for each event of theirs.
func behind(v *etcd.View, index uint64) bool {
	return index > v.Revision+max(16, uint64(len(v.Known))/4)
}

// apply takes one event, and reports whether the view is still complete: it is
// not after events of directories, and where the event does not continue what
// the view knows of the key.
func apply(v *etcd.View, dir string, rep *reply) bool {
	n, before := rep.Node, rep.PrevNode
	key, below := strings.CutPrefix(n.Key, dir+"/")
	if !below || key == "" || strings.Contains(key, "/") || n.Dir || (before != nil && before.Dir) {
		return false
	}
	var was uint64
	if before != nil {
		was = before.ModifiedIndex
	}
	if v.Known[key].Revision != was {
		return false
	}
	switch rep.Action {
	case "create", "set", "update", "compareAndSwap":
		v.Put(rep.entry(n), 0)
	case "delete", "expire", "compareAndDelete":
		v.Remove(key)
	default:
		return false
	}
	v.Revision = n.ModifiedIndex
	return true
}
