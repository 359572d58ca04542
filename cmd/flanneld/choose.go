package main

import (
	"context"
	"iter"
	"net/netip"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/ip"
	"flanneld/pkg/notice"
	"flanneld/pkg/once"
	"flanneld/subnet"
)

// awaitInterface returns the external interface of one family once there is one with an
// address: that of the network where this host was, else IPv4. If there is one in the other
// family alone, it returns none, as the configuration tells which families there are to be.
func awaitInterface(ctx context.Context, o *options, machine host, store subnet.Store, previous network.Env, systemd *systemd) (h backend.Host, err error) {
	var log notice.Log
	var asked time.Time
	f := ip.V4
	if !previous.Network.V4.IsValid() && previous.Network.V6.IsValid() {
		f = ip.V6
	}
	for {
		u, err := o.iface.Choose(ctx, machine, f, h)
		if err != nil && time.Since(asked) > knownPause {
			var answered bool
			u, answered, err = chooseKnown(ctx, o, machine, store, f, previous.Subnet, err)
			if answered { // it may be a large answer
				asked = time.Now()
			}
		}
		if err == nil {
			logUnderlay(f, u)
			h.Set(f, u)
			return h, nil
		}
		if _, err := o.iface.Choose(ctx, machine, f.Other(), h); err == nil {
			return h, nil
		}
		text := "waiting for " + network.ExternalOf(f) + ": " + err.Error()
		if log.State("the external interface", err.Error()) {
			klog.Warning(text)
		}
		systemd.status(text)
		if err := once.Sleep(ctx, retryPause); err != nil {
			return backend.Host{}, err
		}
	}
}

func logUnderlay(f ip.Family, u backend.Underlay) {
	how := ""
	if f == ip.V6 {
		how = " for IPv6"
	}
	klog.Infof("using interface %s with address %s and MTU %d%s; other hosts reach this one at %s", u.Iface, u.Addr, u.MTU, how, u.PublicIP)
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

// chooseKnown chooses the interface of a family by the address that the state file or this
// host's lease names, when nothing else leads to it for the reason why, which is the error if
// they do not either. It reports whether the store answered.
func chooseKnown(ctx context.Context, o *options, machine host, store subnet.Store, f ip.Family, previous ip.Subnet, why error) (u backend.Underlay, answered bool, err error) {
	if o.iface.Explicit(f) {
		return backend.Underlay{}, false, why
	}
	known := make(map[netip.Addr]string) // where each is from
	use := func(addrs ...netip.Addr) bool {
		if u, err = o.iface.Choose(ctx, machine, f, backend.Host{}, addrs...); err == nil {
			klog.Infof("%s: using %s, for its address %s is that of %s", strings.ReplaceAll(why.Error(), "\n", "; "), u.Iface, u.Addr, known[u.Addr])
		}
		return err == nil
	}
	if s, err := o.saved(); err == nil {
		known[s.Own.PublicIP.Of(f)] = "this host in " + o.savedFile()
		if use(s.Own.PublicIP.Of(f)) {
			return u, false, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, knownPatience)
	defer cancel()
	s, err := store.List(ctx)
	if err != nil {
		return backend.Underlay{}, false, why
	}
	var addrs []netip.Addr
	for l := range ownLeases(o, previous, s.Leases) {
		known[l.PublicIP.Of(f)] = "this host's lease " + l.Subnet.String()
		addrs = append(addrs, l.PublicIP.Of(f))
	}
	if !use(addrs...) {
		return backend.Underlay{}, true, why
	}
	return u, true, nil
}

// ownLeases returns the leases that are this host's by its subnet or its machine.
func ownLeases(o *options, previous ip.Subnet, leases []*subnet.Lease) iter.Seq[*subnet.Lease] {
	return func(yield func(*subnet.Lease) bool) {
		for _, l := range leases {
			if (l.Subnet == previous || subnet.SameMachine(l.Machine, o.source().host(o))) && !yield(l) {
				return
			}
		}
	}
}
