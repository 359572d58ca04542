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

	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/dataplane/netfilter"
)

func main() { os.Exit(start(kernel.New())) }

// start is the program on the given host. It returns the exit status.
func start(machine host) int {
	guardLogs()
	out := lineWriter{os.Stdout}
	o, err := parse(os.Args, os.Environ(), os.Stderr)
	switch {
	case err != nil:
		return 2
	case o == nil:
		return 0
	}
	if o.logJSON {
		logJSON()
	}
	counters := make(chan os.Signal, 1)
	signal.Notify(counters, syscall.SIGUSR1)
	o.askedCounters = counters
	o.rules = netfilter.New(o.forwardRules)
	// If whoever reads the log is gone, the daemon is not to end as well.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	switch {
	case o.status:
		return printStatus(ctx, o, os.Stdout)
	case o.checkConfig != "":
		return checkConfig(ctx, o, machine, os.Stdin, os.Stdout)
	case o.doctor:
		return examine(ctx, o, machine, os.Stdout)
	case o.cleanup:
		return ended("cleaning up", cleanup(ctx, o, machine, out))
	case o.migrate:
		return ended("migrating", migrateEtcd(ctx, o, out))
	case o.release:
		return ended("releasing the lease", releaseLease(ctx, o, machine, out))
	}
	if err := run(ctx, o, machine); err != nil && !errors.Is(err, context.Canceled) {
		klog.Errorf("stopping: %v", err)
		return 1
	}
	klog.Info("stopping: what is in the kernel, the lease and the subnet file stay as they are")
	return 0
}

// ended returns the exit status of what was done instead of the daemon's work.
func ended(what string, err error) int {
	if err != nil {
		klog.Errorf("%s: %v", what, err)
		return 1
	}
	return 0
}
