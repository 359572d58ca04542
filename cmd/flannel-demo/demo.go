package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"flanneld/pkg/lab"
)

// stepTimeout bounds each step of the setup: Kubernetes takes its time on a busy machine.
const stepTimeout = 2 * time.Minute

// machine is a host of the demo.
type machine struct {
	host   *lab.Host
	daemon *lab.Daemon
	pod    *lab.Pod
}

// demo is the network as far as it is there.
type demo struct {
	options
	lab      *lab.Lab
	sw       *lab.Switch
	server   *lab.Host
	store    store
	machines []*machine
}

func run(ctx context.Context, o options) (err error) {
	bin, err := filepath.Abs(o.binDir)
	if err != nil {
		return err
	}
	o.binDir = bin
	l, err := lab.New(lab.Options{BinDir: bin})
	if err != nil {
		return err
	}
	d := &demo{options: o, lab: l, store: stores[o.storeName]()}
	defer func() { err = errors.Join(err, l.Close()) }()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"a switch and its hosts", d.addHosts},
		{d.store.name() + ", with the network's configuration", d.startStore},
		{"flanneld on each host", d.startDaemons},
		{"a pod on each host", d.addPods},
	} {
		if err := timed(ctx, step.what, step.do); err != nil {
			return err
		}
	}
	d.draw(os.Stdout)
	if failed := d.pingAll(ctx, os.Stdout); failed > 0 {
		return fmt.Errorf("%d of %d pings got no answer", failed, len(d.machines)*(len(d.machines)-1))
	}
	if o.once || ctx.Err() != nil {
		return ctx.Err()
	}
	d.suggest(os.Stdout)
	<-ctx.Done()
	fmt.Println("\nTaking everything away again.")
	return nil
}

// timed says what is being done while it is, and how long it took.
func timed(ctx context.Context, what string, do func(context.Context) error) error {
	fmt.Printf("  %-46s", what)
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if err := do(ctx); err != nil {
		fmt.Println("failed")
		return fmt.Errorf("starting %s: %w", what, err)
	}
	fmt.Printf("%5.1f s\n", time.Since(start).Seconds())
	return nil
}

func (d *demo) addHosts(context.Context) error {
	var err error
	if d.sw, err = d.lab.AddSwitch("switch", netip.MustParsePrefix("192.168.0.0/24")); err != nil {
		return err
	}
	if d.server, err = d.lab.AddHost(d.storeName, d.sw, lab.HostOptions{}); err != nil {
		return err
	}
	for i := range d.hosts {
		h, err := d.lab.AddHost(fmt.Sprintf("host%d", i+1), d.sw, lab.HostOptions{})
		if err != nil {
			return err
		}
		d.machines = append(d.machines, &machine{host: h})
	}
	return nil
}

func (d *demo) startStore(ctx context.Context) error {
	return d.store.start(ctx, d, fmt.Sprintf(`{"Network": "10.5.0.0/16", "Backend": {"Type": %q}}`, d.backend))
}

func (d *demo) startDaemons(ctx context.Context) error {
	for i, m := range d.machines {
		env, args, err := d.store.add(ctx, m.host, fmt.Sprintf("10.5.%d.0/24", i+1))
		if err != nil {
			return err
		}
		if m.daemon, err = m.host.StartFlanneldIn(env, filepath.Join(d.binDir, "flanneld"), args...); err != nil { //nolint:contextcheck // it outlives ctx
			return err
		}
	}
	for _, m := range d.machines {
		if err := m.daemon.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) addPods(context.Context) error {
	for i, m := range d.machines {
		var err error
		if m.pod, err = m.host.AddPod(fmt.Sprintf("pod%d", i+1), m.daemon.Env()); err != nil {
			return err
		}
	}
	return nil
}
