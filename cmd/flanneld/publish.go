package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"flanneld/network"
	"flanneld/pkg/once"
)

// recheck is how often subnet.env is looked at: it is gone after someone cleared
// /run, say.
const recheck = 10 * time.Second

// env is what subnet.env should say. Its MTU is that of the device as it is, not as
// it is about to be. The caller holds d.mu.
func (d *daemon) env() network.Env {
	return network.Env{
		Network: d.holding.Config.Network(),
		Subnet:  d.holding.Own.Subnet,
		MTU:     d.backend.MTU(d.status.Host),
		IPMasq:  d.options.ipMasq,
	}
}

// publishEnv writes subnet.env once the host is as it should be, tells systemd,
// and keeps both right from then on.
func (d *daemon) publishEnv(ctx context.Context) error {
	// Until then nearly all that is allocated stays.
	usual := debug.SetGCPercent(200)
	err := d.awaitReady(ctx)
	debug.SetGCPercent(usual)
	if err != nil {
		return err
	}
	var said string
	first := true
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		d.mu.Lock()
		env, status := d.env(), d.statusText()
		d.mu.Unlock()
		changed, err := env.Write(d.options.subnetFile)
		if err != nil {
			if err.Error() != said {
				said = err.Error()
				what := "not ready"
				if !first {
					what = "what it says is out of date"
				}
				klog.Errorf("%s, trying again: %v", what, err)
			} else if !first && folderLost(d.options.subnetFile, err) {
				return fmt.Errorf("%w: its folder was removed, and whoever starts this daemon has to make it", err)
			}
			d.systemd.status(said)
			if err := once.Sleep(ctx, retryPause); err != nil {
				return err
			}
			continue
		}
		if changed {
			klog.Infof("wrote %s: %s", d.options.subnetFile, strings.Join(strings.Fields(env.String()), " "))
		}
		first, said = false, ""
		d.systemd.ready(status)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.publish:
		case <-tick.C:
		}
	}
}

// folderLost reports whether a file cannot be written because its folder was removed
// where this process cannot make it again: a unit or a container is given one by whoever
// starts it, and sees no other one.
func folderLost(file string, err error) bool {
	if errors.Is(err, fs.ErrNotExist) {
		return true // it is there without a name
	}
	_, missing := os.Stat(filepath.Dir(file))
	return errors.Is(err, unix.EROFS) && errors.Is(missing, fs.ErrNotExist)
}

// awaitReady waits until the host is as it should be, and tells systemd why it is
// not, once there is a subnet to tell of.
func (d *daemon) awaitReady(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.reconciler.Ready():
			return nil
		case <-d.publish:
			var text string
			d.mu.Lock()
			if d.holding.Own != nil {
				text = d.statusText()
			}
			d.mu.Unlock()
			if text != "" {
				d.systemd.status("not ready: " + text)
			}
		}
	}
}

// trouble takes why the store cannot be used, or nil if it can.
func (d *daemon) trouble(why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case why == nil:
		d.storeDown, d.storeFails = time.Time{}, ""
	case d.storeDown.IsZero():
		d.storeDown = time.Now()
		fallthrough
	default:
		d.storeFails = why.Error()
	}
	once.Wake(d.publish)
}

// statusText says how things are, in one line. The caller holds d.mu.
func (d *daemon) statusText() string {
	text := fmt.Sprintf("subnet %s on %s (%s), backend %s, %d peers", d.holding.Own.Subnet, d.host.Iface, d.host.PublicIP, d.holding.Config.BackendType, d.peers)
	if d.holding.Holder != "" {
		text += fmt.Sprintf(", this subnet now belongs to %s and no other one could be had yet", d.holding.Holder)
	}
	if why := d.holding.Unfollowed; why != "" {
		text += ", not followed: " + why
	}
	if d.status.Missing > 0 {
		text += fmt.Sprintf(", %d of %d objects not in place", d.status.Missing, d.status.Wanted)
	}
	if n := len(d.problems) + d.status.Useless; n > 0 {
		text += fmt.Sprintf(", %d leases unusable", n)
	}
	if !d.host.Up {
		text += ", " + d.host.Iface + " is down"
	}
	if d.lostSight != "" {
		text += ", " + d.lostSight
	}
	if obstacles := d.obstacles.text(); obstacles != "" {
		text += ", packets are kept from their way: " + obstacles
	}
	if !d.storeDown.IsZero() {
		text += ", etcd cannot be used since " + d.storeDown.Format(time.TimeOnly)
		if d.storeFails != "" {
			text += ": " + d.storeFails
		}
	}
	return text
}
