package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"flanneld/subnet"
)

// source is where subnets come from.
type source struct {
	// name is what messages call it.
	name string
	// asked reports whether the options ask for it.
	asked func(*options) bool
	// open returns the store. It waits, and tells for what, until it is known who this host
	// is there.
	open func(ctx context.Context, o *options, tell func(string)) (store, error)
	// host is what leases call this host.
	host func(*options) string
	// endpoints are the URLs at which a store is looked for, without passwords; none if that is
	// not known yet.
	endpoints func(*options, store) []string
	// examine asks the servers there what they are.
	examine func(context.Context, *options) ([]subnet.ServerHealth, error)
	// configKey names, in messages, where the configuration is.
	configKey func(*options) string
	// savedAs names the state file of a network, and the network in it. The file has no name
	// where it is not known who this host is.
	savedAs func(*options) (file, network string)
	// cluster returns what tells networks apart that savedAs names alike, as in
	// subnet.Assignment. Nil where there are none.
	cluster func(*options) string
	// alone waits until no other process works in this host's place there, and keeps others
	// from it until release is called.
	alone func(ctx context.Context, o *options, tell func(string)) (release func(), err error)
}

// store is a subnet.Store that has connections.
type store interface {
	subnet.Store
	Close()
}

// savedExt is what the names of state files end with.
const savedExt = ".json"

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
	return name + savedExt
}
