package etcdv3

import (
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"flanneld/subnet"
	"flanneld/subnet/etcd"
)

func cluster(h *pb.ResponseHeader) string { return strconv.FormatUint(h.ClusterId, 16) }

// reset takes a complete listing: entries made of kvs.
func reset(v *etcd.View, entries []subnet.Entry, kvs []*mvccpb.KeyValue, h *pb.ResponseHeader) {
	v.Reset(entries, uint64(h.Revision), cluster(h))
	for i, e := range entries {
		v.Known[e.Key] = etcd.Known{Revision: e.Revision, Version: kvs[i].Version, Ends: e.Expires}
	}
}

func entry(key string, kv *mvccpb.KeyValue, ends time.Time) subnet.Entry {
	return subnet.Entry{Key: key, Value: string(kv.Value), Expires: ends, Revision: uint64(kv.ModRevision), Created: kv.CreateRevision}
}

// continues reports whether an event is the next one of what the view knows of
// the key. If not, the server's history is not the one that the view is of.
func continues(v *etcd.View, key string, e *mvccpb.Event) bool {
	if e.Type == mvccpb.DELETE {
		return v.Known[key].Version > 0
	}
	return e.Kv.Version == v.Known[key].Version+1 // version 1 is a new key
}

// setConfig takes what is under the configuration's key as of a revision, and reports
// whether it is another one.
func setConfig(v *etcd.View, kvs []*mvccpb.KeyValue, revision int64) (changed bool) {
	c := subnet.StoredConfig{Missing: len(kvs) == 0}
	if !c.Missing {
		c.Text = string(kvs[0].Value)
	}
	return v.SetConfig(c, uint64(revision))
}
