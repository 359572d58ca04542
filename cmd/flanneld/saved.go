package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// savedFile is where what this host holds is kept for a start without etcd; empty
// if it is not to be. Daemons for several networks have a file each.
func (o *options) savedFile() string {
	if o.stateDir == "" {
		return ""
	}
	return filepath.Join(o.stateDir, savedName(o.savedStore()))
}

// savedStore is how a file names what it was saved of. What names one network has one
// name: version 2 of etcd's API does not care about a slash in front, version 3 does.
func (o *options) savedStore() string {
	if o.etcdAPI == apiV2 {
		return o.etcd.Root()
	}
	return path.Clean(o.etcd.Prefix)
}

// savedName returns the name of the file of a prefix. No two prefixes have the same.
func savedName(prefix string) string {
	rest, rooted := strings.CutPrefix(prefix, "/")
	name := strings.NewReplacer("/", "_", "_", "%5F", "%", "%25").Replace(rest)
	if !rooted {
		name += "%" // what no other name ends with
	}
	const longest = 200 // a file system takes 255 bytes
	if len(name) > longest {
		name = fmt.Sprintf("%%%x", sha256.Sum256([]byte(prefix)))
	}
	return name + ".json"
}

// saved reads that.
func (o *options) saved() (subnet.Saved, error) {
	return subnet.LoadSaved(o.savedFile(), o.savedStore())
}

// reportOffHost tells what stays because it is not on this host.
func reportOffHost(s subnet.Saved, out io.Writer) {
	b, err := backends.New(s.Config)
	if err != nil {
		return // it was never in use
	}
	for _, object := range b.Local(backend.Host{}, s.Config.Network(), s.Own) {
		if text := state.OffHost(object); text != "" {
			fmt.Fprintf(out, "left %s\n", text)
		}
	}
}

// The file is written as a whole. So the larger it is, the longer it rests after that, for
// a large network may change all the time; a small one is followed within a second.
const (
	saveRest      = 200 * time.Millisecond
	saveRestLease = 10 * time.Millisecond
	// saveRetry is how soon it is tried again to write a file that could not be written.
	saveRetry = 10 * time.Second
	// saveAgain is how soon the file is written although nothing changed: it may have
	// been lost, and the clock that its times are by may have been set.
	saveAgain      = 10 * time.Minute
	saveAgainLease = 24 * time.Millisecond
)

func perLease(h subnet.Holding, base, lease time.Duration) time.Duration {
	return base + time.Duration(len(h.Snapshot.Leases))*lease
}

// resume goes on by what this host had when it last ran. The caller holds d.mu.
func (d *daemon) resume(s subnet.Saved, h subnet.Holding) {
	// A daemon that runs writes the file now and then. Whatever is older may be of long ago.
	if age := d.begun.Sub(s.At); age >= 0 && age <= 2*perLease(s.Holding, saveAgain, saveAgainLease) {
		d.others.Resume(s, h, d.self(), time.Now())
	}
}

// save keeps the file as the keeper's holding is.
func (d *daemon) save(ctx context.Context) error {
	file := d.options.savedFile()
	if file == "" {
		return nil
	}
	var last subnet.Holding
	var written, next time.Time // the latter is when it may be written again
	failed := ""
	write := func(h subnet.Holding, vanished []subnet.Vanished) {
		if h.Own == nil || last.Config != nil && h.SameSaved(last) {
			return
		}
		err := h.Save(file, d.options.savedStore(), vanished...)
		written = time.Now()
		next = written.Add(perLease(h, saveRest, saveRestLease))
		if err == nil {
			last, failed = h, ""
			return
		}
		if err.Error() != failed {
			failed = err.Error()
			klog.Warningf("a start without etcd would not be possible: %v", err)
		}
		next = written.Add(max(saveRetry, time.Until(next)))
		once.Wake(d.unsaved) // it may be better next time
	}
	again := time.NewTicker(saveAgain)
	defer again.Stop()
	rested := time.NewTimer(saveRest)
	defer rested.Stop()
	for {
		ended := ctx.Err() != nil
		d.mu.Lock()
		h, vanished := d.holding, d.others.Gone()
		if d.inFile.Own != nil {
			last, d.inFile = d.inFile, subnet.Holding{}
		}
		d.mu.Unlock()
		// Another configuration or subnet comes rarely, and without it the file is of no use.
		vital := failed == "" && last.Config != nil && h.Own != nil && (h.Config != last.Config || h.Own.Subnet != last.Own.Subnet)
		if left := time.Until(next); left <= 0 || vital || ended {
			write(h, vanished)
		} else {
			rested.Reset(left)
		}
		if ended {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
		case <-d.unsaved:
		case <-rested.C:
		case <-again.C:
			if time.Since(written) >= perLease(h, saveAgain, saveAgainLease)-time.Second {
				last = subnet.Holding{}
			}
		}
	}
}
