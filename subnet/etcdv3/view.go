package etcdv3

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"flanneld/subnet"
)

// view is what a watch knows, and up to where.
type view struct {
	assembler subnet.Assembler
	known     map[string]known // the entries, by key
	listed    bool             // false: list before going on
	revision  int64            // all up to here is in the view
	target    int64            // the server has been seen to be here
	cluster   uint64
	// config is up to where the configuration is known: its events come by
	// themselves, so this may be ahead of revision, or behind it.
	config int64
	// refused is why the server refuses requests beside the stream; or nil.
	refused error

	listing map[string]known // that is being taken
	entries []subnet.Entry
}

// known is what is known of a key besides what the assembler has.
type known struct {
	revision int64 // of the last write
	version  int64 // the number of writes since it was created
	ends     time.Time
}

func (v *view) snapshot() subnet.Snapshot {
	s := v.assembler.Snapshot(uint64(v.revision))
	s.Refused = v.refused
	return s
}

// setRefused takes why the server refuses requests, and reports whether that is news.
func (v *view) setRefused(err error) (changed bool) {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	changed = text(err) != text(v.refused)
	v.refused = err
	return changed
}

// expect begins a listing of n entries; take takes each, and reset makes them
// what the view knows.
func (v *view) expect(n int) {
	v.entries = make([]subnet.Entry, 0, n)
	v.listing = make(map[string]known, n)
}

func (v *view) take(key string, kv *mvccpb.KeyValue, ends time.Time) {
	v.entries = append(v.entries, entry(key, kv, ends))
	v.listing[key] = known{kv.ModRevision, kv.Version, ends}
}

func (v *view) reset(h *pb.ResponseHeader) {
	v.assembler.Reset(v.entries)
	v.known = v.listing
	v.entries, v.listing = nil, nil
	v.listed, v.revision, v.target, v.cluster = true, h.Revision, 0, h.ClusterId
	v.config, v.refused = 0, nil
}

func entry(key string, kv *mvccpb.KeyValue, ends time.Time) subnet.Entry {
	return subnet.Entry{Key: key, Value: string(kv.Value), Expires: ends, Revision: uint64(kv.ModRevision)}
}

// last is the entry that was written last, or "".
func (v *view) last() (key string, last known) {
	for k, known := range v.known {
		if known.revision > last.revision {
			key, last = k, known
		}
	}
	return key, last
}

// continues reports whether an event is the next one of what the view knows of
// the key. If not, the server's history is not the one that the view is of.
func (v *view) continues(key string, e *mvccpb.Event) bool {
	if e.Type == mvccpb.DELETE {
		return v.known[key].version > 0
	}
	return e.Kv.Version == v.known[key].version+1 // version 1 is a new key
}

// put takes an event that wrote a key.
func (v *view) put(key string, kv *mvccpb.KeyValue, ends time.Time) {
	v.assembler.Put(entry(key, kv, ends))
	v.known[key] = known{kv.ModRevision, kv.Version, ends}
}

// remove takes an event that deleted a key.
func (v *view) remove(key string) {
	v.assembler.Remove(key)
	delete(v.known, key)
}

// setConfig takes what is under the configuration's key as of a revision, and reports
// whether that is news.
func (v *view) setConfig(kvs []*mvccpb.KeyValue, revision int64) (changed bool) {
	if revision < v.config {
		return false
	}
	v.config = revision
	if len(kvs) == 0 {
		return v.assembler.SetConfig(subnet.StoredConfig{Missing: true})
	}
	return v.assembler.SetConfig(subnet.StoredConfig{Text: string(kvs[0].Value)})
}
