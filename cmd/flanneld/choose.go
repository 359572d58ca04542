package main

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/subnet"
)

// awaitInterface returns the external interface once there is one with an address.
func awaitInterface(ctx context.Context, o *options, machine host, store subnet.Store, previous ip.Subnet, systemd *systemd) (backend.Host, error) {
	var log notice.Log
	var asked time.Time
	for {
		host, err := o.iface.Choose(ctx, machine)
		if err != nil && time.Since(asked) > knownPause {
			var answered bool
			host, answered, err = chooseKnown(ctx, o, machine, store, previous, err)
			if answered { // it may be a large answer
				asked = time.Now()
			}
		}
		if err == nil {
			klog.Infof("using interface %s with address %s and MTU %d; other hosts reach this one at %s", host.V4.Iface, host.V4.Addr, host.V4.MTU, host.V4.PublicIP)
			return host, nil
		}
		text := "waiting for the external interface: " + err.Error()
		if log.State("the external interface", err.Error()) {
			klog.Warning(text)
		}
		systemd.status(text)
		if err := once.Sleep(ctx, retryPause); err != nil {
			return backend.Host{}, err
		}
	}
}

// retryPause is how long to wait before trying again what this host must mend.
const retryPause = time.Second

const (
	// knownPause is how soon the store is asked again which lease is this host's, while
	// the external interface is waited for.
	knownPause = 5 * time.Second
	// knownPatience is how long it has to answer.
	knownPatience = 2 * time.Second
)

// chooseKnown chooses the interface by the address that the state file or this host's
// lease names, when nothing else leads to it for the reason why, which is the error if
// they do not either. It reports whether the store answered.
func chooseKnown(ctx context.Context, o *options, machine host, store subnet.Store, previous ip.Subnet, why error) (h backend.Host, answered bool, err error) {
	if o.iface.Explicit() {
		return backend.Host{}, false, why
	}
	known := make(map[netip.Addr]string) // where each is from
	use := func(addrs ...netip.Addr) bool {
		if h, err = o.iface.Choose(ctx, machine, addrs...); err == nil {
			klog.Infof("%s: using %s, for its address %s is that of %s", strings.ReplaceAll(why.Error(), "\n", "; "), h.V4.Iface, h.V4.Addr, known[h.V4.Addr])
		}
		return err == nil
	}
	if s, err := o.saved(); err == nil {
		known[s.Own.PublicIP.V4] = "this host in " + o.savedFile()
		if use(s.Own.PublicIP.V4) {
			return h, false, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, knownPatience)
	defer cancel()
	s, err := store.List(ctx)
	if err != nil {
		return backend.Host{}, false, why
	}
	var addrs []netip.Addr
	for _, l := range s.Leases {
		if l.Subnet == previous || subnet.SameMachine(l.Machine, o.source().host(o)) {
			known[l.PublicIP.V4] = "this host's lease " + l.Subnet.String()
			addrs = append(addrs, l.PublicIP.V4)
		}
	}
	if !use(addrs...) {
		return backend.Host{}, true, why
	}
	return h, true, nil
}
