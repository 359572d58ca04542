package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/file"
	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
	"flanneld/subnet"
)

// releaseLease deletes this host's lease, by which a daemon here would know it, and
// tells what it did.
func releaseLease(ctx context.Context, o *options, machine host, out io.Writer) error {
	release, err := make(sockets).claim(o.subnetFile)
	if err != nil {
		return fmt.Errorf("%w; stop it first", err)
	}
	defer release()
	store, err := o.source().open(ctx, o, func(string) {})
	if err != nil {
		return err
	}
	defer store.Close()
	o.iface.MachineID = machineID()
	name, previous := machineName(o.iface.MachineID), o.previous().Subnet
	var host backend.Host
	var failed []error
	families := familiesOf(ctx, store)
	for _, f := range families {
		u, err := o.iface.Choose(ctx, machine, f, host)
		if err != nil {
			u, _, err = chooseKnown(ctx, o, machine, store, f, previous, err)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("finding %s: %w", network.ExternalOf(f), err))
		}
		host.Set(f, u)
	}
	if len(failed) == len(families) {
		return failed[0]
	}
	if o.iface.PublicIP != (ip.Addrs{}) {
		previous = ip.Subnet{} // it is told whose lease is meant
	}
	if err := releaseFrom(ctx, store, host.PublicIP(), previous, name, out); err != nil {
		return err
	}
	return forget(ctx, o, host.PublicIP(), previous, name, out)
}

// forget removes what was saved of a lease that is this host's by its public address, or by
// its subnet and machine: a start without etcd would take it for ours still.
func forget(ctx context.Context, o *options, public ip.Addrs, previous ip.Subnet, machine string, out io.Writer) error {
	s, err := o.saved()
	switch {
	case errors.Is(err, subnet.ErrUnread):
		return fmt.Errorf("a start without etcd would go by what was saved: %w; remove that file", err)
	case err == nil && (s.Own.PublicIP.Matches(public) || s.Own.Subnet == previous && subnet.SameMachine(s.Own.Machine, machine)):
		reportOffHost(s, out)
		err = file.Patiently(ctx, func() error { return os.Remove(o.savedFile()) })
		if errors.Is(err, file.ErrNoAnswer) {
			err = fmt.Errorf("removing %s: %w", o.savedFile(), err)
		}
		return err
	}
	return nil // it is none of that lease, or there is none
}

// familiesOf returns those of the network; IPv4 alone if its configuration cannot be had.
func familiesOf(ctx context.Context, store subnet.Store) []ip.Family {
	text, err := store.Config(ctx)
	if err == nil {
		var c *subnet.Config
		if c, err = subnet.ParseConfig(text); err == nil {
			return c.Network().Families()
		}
	}
	return []ip.Family{ip.V4}
}

// releaseFrom deletes the leases that bear this host's public address, and that of the
// subnet which its machine had before, though it may bear an earlier one.
func releaseFrom(ctx context.Context, store subnet.Store, public ip.Addrs, previous ip.Subnet, machine string, out io.Writer) error {
	s, err := store.List(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, l := range s.Leases {
		if !l.PublicIP.Matches(public) && (l.Subnet != previous || l.Machine == "" || !subnet.SameMachine(l.Machine, machine)) {
			continue
		}
		found = true
		if l.Machine != "" && !subnet.SameMachine(l.Machine, machine) {
			fmt.Fprintf(out, "left %s: the machine %s wrote it, with the public address of this one (%s)\n", l.Subnet, printable.Name(l.Machine), public)
			continue
		}
		if l.Reserved() {
			fmt.Fprintf(out, "left %s: it is reserved for this host (%s)\n", l.Subnet, public)
			continue
		}
		if err := store.Delete(ctx, l.Subnet, l.Revision); err != nil {
			if errors.Is(err, subnet.ErrChanged) {
				err = fmt.Errorf("%w, so another host may use the address %s: left alone", err, public)
			}
			return err
		}
		fmt.Fprintf(out, "released %s, the lease of this host (%s)\n", l.Subnet, l.PublicIP)
	}
	if !found {
		fmt.Fprintf(out, "there is nothing to release: no lease is of this host (%s)\n", public)
	}
	return nil
}
