package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
	"flanneld/subnet"
)

// releaseLease deletes this host's lease, by which a daemon here would know it, and
// tells what it did.
func releaseLease(ctx context.Context, o *options, machine host, out io.Writer) error {
	release, err := claim(o.subnetFile)
	if err != nil {
		return fmt.Errorf("%w; stop it first", err)
	}
	defer release()
	host, err := o.iface.Choose(ctx, machine)
	if err != nil {
		return fmt.Errorf("finding the external interface: %w", err)
	}
	store, err := openStore(o)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := releaseFrom(ctx, store, host.PublicIP, machineName(machineID()), out); err != nil {
		return err
	}
	// A start without etcd would take the lease for ours still.
	if s, err := o.saved(); err == nil && s.Own.PublicIP == host.PublicIP {
		tellCloudRoutes(s, out)
		return os.Remove(o.savedFile())
	}
	return nil
}

func releaseFrom(ctx context.Context, store subnet.Store, public ip.Addrs, machine string, out io.Writer) error {
	s, err := store.List(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, l := range s.Leases {
		if l.PublicIP != public {
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
		fmt.Fprintf(out, "released %s, the lease of this host (%s)\n", l.Subnet, public)
	}
	if !found {
		fmt.Fprintf(out, "there is nothing to release: no lease is of this host (%s)\n", public)
	}
	return nil
}
