// Command flannel-demo shows a whole network on one machine: hosts that are
// network namespaces, a real etcd or Kubernetes API, a flanneld and a pod on each host. It draws
// the network and pings from every pod to every other one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"flanneld/pkg/lab"
)

// backends that the demo can show: those that carry packets by themselves.
var backends = []string{"host-gw", "udp", "vxlan"}

type options struct {
	backend   string
	storeName string
	hosts     int
	once      bool
	binDir    string
}

func main() {
	o, code := parse()
	if code >= 0 {
		os.Exit(code)
	}
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx, o); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// parse returns the options, or an exit code that is not negative.
func parse() (options, int) {
	var o options
	fs := flag.NewFlagSet("flannel-demo", flag.ContinueOnError)
	fs.StringVar(&o.backend, "backend", backends[0], "backend that carries the packets: "+strings.Join(backends, ", "))
	known := slices.Sorted(maps.Keys(stores))
	fs.StringVar(&o.storeName, "store", known[0], "what the hosts have their subnets from: "+strings.Join(known, ", "))
	fs.IntVar(&o.hosts, "hosts", 3, "number of hosts, 2 to 20")
	fs.BoolVar(&o.once, "once", false, "end after the pings")
	fs.StringVar(&o.binDir, "bin", "build", "folder of flanneld, etcd and kube-apiserver")
	err := fs.Parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return o, 0
	case err != nil:
		return o, 2
	case fs.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case !slices.Contains(backends, o.backend):
		err = fmt.Errorf("there is no backend %q that carries packets; there are %s", o.backend, strings.Join(backends, ", "))
	case !slices.Contains(known, o.storeName):
		err = fmt.Errorf("there is no store %q; there are %s", o.storeName, strings.Join(known, ", "))
	case o.hosts < 2 || o.hosts > 20:
		err = fmt.Errorf("%d hosts can't be shown; between 2 and 20 can", o.hosts)
	default:
		return o, -1
	}
	fmt.Fprintln(os.Stderr, "demo:", err)
	return o, 2
}
