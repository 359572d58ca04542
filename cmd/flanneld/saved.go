package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/backend/awsvpc"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// savedFile is where what this host holds is kept for a start without etcd; empty
// if it is not to be. Daemons for several networks have a file each.
func (o *options) savedFile() string {
	if o.stateDir == "" {
		return ""
	}
	name := strings.ReplaceAll(strings.Trim(o.etcd.Prefix, "/"), "/", "_")
	return filepath.Join(o.stateDir, name+".json")
}

// saved reads that.
func (o *options) saved() (subnet.Saved, error) {
	return subnet.LoadSaved(o.savedFile(), o.etcd.Prefix)
}

// tellCloudRoutes tells which routes stay because they are in a cloud, not on this host.
func tellCloudRoutes(s subnet.Saved, out io.Writer) {
	if s.Config.BackendType != awsvpc.Type.Name {
		return
	}
	b, err := backends.New(s.Config)
	if err != nil {
		return // it was never in use
	}
	for _, object := range b.Local(backend.Host{}, s.Config.Network(), s.Own) {
		if r, ok := object.(state.CloudRoute); ok {
			fmt.Fprintf(out, "left the route to %s in %s: another host takes it over with the subnet, or removes it when this instance does not run and nobody has a lease of the subnet\n", r.Dst, state.CloudTableName(r.Table))
		}
	}
}

// A large network changes all the time, and its file is large: so long it rests
// after it was written, and longer for each lease.
const (
	saveRest      = 10 * time.Second
	saveRestLease = time.Millisecond
	// saveAgain is how soon the file is written although nothing changed: it may have
	// been lost, and the clock that its times are by may have been set.
	saveAgain = 10 * time.Minute
)

// save keeps the file as the keeper's holding is.
func (d *daemon) save(ctx context.Context) error {
	path := d.options.savedFile()
	if path == "" {
		return nil
	}
	var last subnet.Holding
	if s, err := d.options.saved(); err == nil {
		last = s.Holding
	}
	failed := ""
	write := func() time.Duration {
		d.mu.Lock()
		h := d.holding
		d.mu.Unlock()
		if h.Own == nil || last.Config != nil && h.SameSaved(last) {
			return 0
		}
		if err := h.Save(path, d.options.etcd.Prefix); err == nil {
			last, failed = h, ""
		} else {
			if err.Error() != failed {
				failed = err.Error()
				klog.Warningf("a start without etcd would not be possible: %v", err)
			}
			poke(d.unsaved) // it may be better next time
		}
		return saveRest + time.Duration(len(h.Snapshot.Leases))*saveRestLease
	}
	again := time.NewTicker(saveAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			write()
			return ctx.Err()
		case <-d.unsaved:
		case <-again.C:
			last = subnet.Holding{}
		}
		if err := sleep(ctx, write()); err != nil {
			write()
			return err
		}
	}
}
