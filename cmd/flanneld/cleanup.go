package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"flanneld/network"
	"flanneld/pkg/cni"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/file"
	"flanneld/pkg/ip"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// cleanup removes from the host what a daemon with this subnet file left there,
// and its files. It tells what.
func cleanup(ctx context.Context, o *options, machine host, out io.Writer) error {
	release, err := make(sockets).claim(o.subnetFile)
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
		return unclear(ctx, o, machine, out)
	}
	planes := []dataplane.Dataplane{machine}
	if o.rules != nil {
		planes = []dataplane.Dataplane{o.rules, machine} // rules refer to nothing else
	}
	gone, err := network.Cleanup(ctx, networks, planes...)
	for _, object := range gone {
		fmt.Fprintf(out, "removed %s\n", object)
	}
	if err = errors.Join(err, unseen(o)); err != nil {
		return err
	}
	if err := removeState(ctx, o, env.Subnet, out); err != nil {
		return err
	}
	if _, err := removeCNI(o, out); err != nil {
		return err
	}
	// The last, since it tells what is ours.
	empty, err := network.RemoveEnv(o.subnetFile)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case empty:
		fmt.Fprintf(out, "removed %s\n", o.subnetFile)
	case err == nil:
		fmt.Fprintf(out, "removed what is ours in %s, and left the lines of others there\n", o.subnetFile)
	}
	return nil
}

// removeState removes the files that daemons saved while this host had a subnet, whichever
// store it was from, and the one that the options name unless it is of another subnet.
func removeState(ctx context.Context, o *options, own ip.Subnet, out io.Writer) error {
	named := o.savedFile()
	if named == "" {
		return nil
	}
	err := file.Patiently(ctx, func() error { return removeStateIn(o.stateDir, named, own, out) })
	if errors.Is(err, file.ErrNoAnswer) {
		err = fmt.Errorf("removing what was saved in %s: %w", o.stateDir, err)
	}
	return err
}

func removeStateIn(folder, named string, own ip.Subnet, out io.Writer) error {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files := []string{named}
	for _, e := range entries {
		if path := filepath.Join(folder, e.Name()); filepath.Ext(path) == savedExt && path != named {
			files = append(files, path)
		}
	}
	for _, path := range files {
		s, err := subnet.LoadSaved(path, subnet.AnyStore)
		switch {
		case err == nil && s.Own.Subnet == own:
			reportOffHost(s, out)
		case path != named:
			continue
		case err == nil:
			fmt.Fprintf(out, "left %s: it is of the subnet %s, not of %s\n", path, s.Own.Subnet, own)
			continue
		}
		for _, file := range []string{path, usedAPIBeside(path)} {
			if err := os.Remove(file); err == nil {
				fmt.Fprintf(out, "removed %s\n", file)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// unclear is for when the subnet file does not tell which network was ours.
func unclear(ctx context.Context, o *options, machine host, out io.Writer) error {
	routes, err := countOurs(ctx, machine, state.DependsOnRoutes)
	if err != nil {
		return err
	}
	rules := 0
	if o.rules != nil {
		if rules, err = countOurs(ctx, o.rules, func(state.Object) bool { return true }); err != nil {
			return err
		}
	}
	if routes+rules > 0 {
		return fmt.Errorf("%s does not say which network this host was in, so whose the %d routes of protocol 70 and %d sets of rules for packets are can't be told; write FLANNEL_NETWORK= and the network into it", o.subnetFile, routes, rules)
	}
	if err := unseen(o); err != nil {
		return err
	}
	if removed, err := removeCNI(o, out); removed || err != nil {
		return err
	}
	fmt.Fprintln(out, "there is nothing to remove")
	return nil
}

// removeCNI removes the configuration of CNI if a daemon wrote it.
func removeCNI(o *options, out io.Writer) (removed bool, err error) {
	switch err := cni.Remove(o.cniFile); {
	case o.cniFile == "", errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, cni.ErrForeign):
		fmt.Fprintf(out, "left %s: %v\n", o.cniFile, err)
		return false, nil
	case err != nil:
		return false, err
	}
	fmt.Fprintf(out, "removed %s\n", o.cniFile)
	return true, nil
}

// countOurs returns how many objects there are that could be ours.
func countOurs(ctx context.Context, t dataplane.Dataplane, count func(state.Object) bool) (n int, err error) {
	have, err := t.Dump(ctx, nil)
	for _, e := range have {
		if e.Owner == state.Ours && count(e.Object) {
			n++
		}
	}
	return n, err
}

// unseen says which rules for packets may be left because they could not be seen.
func unseen(o *options) error {
	if o.rules == nil {
		return nil
	}
	return o.rules.Unseen()
}
