// Command flanneld gives its host a subnet of a network that spans a cluster,
// and makes the host's kernel carry packets to the subnets of the others.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"
)

// version is set when the program is linked.
var version = "dev"

func main() {
	o, err := parse(os.Args, os.Environ(), os.Stderr)
	switch {
	case err != nil:
		os.Exit(2)
	case o == nil:
		os.Exit(0)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx, o); err != nil && !errors.Is(err, context.Canceled) {
		klog.Errorf("stopping: %v", err)
		os.Exit(1)
	}
	klog.Info("stopping: forwarding, lease and subnet file stay as they are")
}
