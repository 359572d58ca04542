package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"flanneld/network"
	"flanneld/pkg/state"
)

// cleanup removes from the host what a daemon with this subnet file left there,
// and its files. It tells what.
func cleanup(ctx context.Context, o *options, machine host, out io.Writer) error {
	release, err := claim(o.subnetFile)
	if err != nil {
		return fmt.Errorf("%w; stop it first", err)
	}
	defer release()
	env, err := network.ReadEnv(o.subnetFile)
	if err != nil {
		return err
	}
	networks := env.Network.Prefixes()
	if len(networks) == 0 {
		return unclear(ctx, o.subnetFile, machine, out)
	}
	gone, err := network.Cleanup(ctx, machine, networks)
	for _, object := range gone {
		fmt.Fprintf(out, "removed %s\n", object)
	}
	if err != nil {
		return err
	}
	saved := o.savedFile()
	if s, err := o.saved(); err == nil && s.Own.Subnet != env.Subnet {
		fmt.Fprintf(out, "left %s: it is of the subnet %s, not of %s\n", saved, s.Own.Subnet, env.Subnet)
		saved = ""
	}
	for _, file := range []string{saved, o.subnetFile} { // the last tells what is ours
		err := os.Remove(file)
		switch {
		case err == nil:
			fmt.Fprintf(out, "removed %s\n", file)
		case file != "" && !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// unclear is for when the subnet file does not tell which network was ours.
func unclear(ctx context.Context, file string, machine host, out io.Writer) error {
	have, err := machine.Dump(ctx)
	if err != nil {
		return err
	}
	marked := 0
	for k, e := range have {
		if e.Owner == state.Ours && (k.Kind == state.KindRoute || k.Kind == state.KindNexthop) {
			marked++
		}
	}
	if marked > 0 {
		return fmt.Errorf("%s does not say which network this host was in, so whose the %d routes of protocol 70 are can't be told; write FLANNEL_NETWORK= and the network into it", file, marked)
	}
	fmt.Fprintln(out, "there is nothing to remove")
	return nil
}
