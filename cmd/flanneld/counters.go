package main

import (
	"context"
	"os"

	"k8s.io/klog/v2"

	"flanneld/pkg/dataplane/tunnels"
)

// logCounters logs what the tunnels have counted whenever it is asked for.
func logCounters(ctx context.Context, tunnelPlane *tunnels.Dataplane, asked <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-asked:
			for dev, counted := range tunnelPlane.Counters() {
				klog.Infof("counted by the tunnel of %s: %s", dev, counted)
			}
		}
	}
}
