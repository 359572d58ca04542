package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/lab"
)

// stepTimeout bounds each step of the setup.
const stepTimeout = 30 * time.Second

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
	etcd     *lab.Etcd
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
	d := &demo{options: o, lab: l}
	defer func() { err = errors.Join(err, l.Close()) }()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"a switch and its hosts", d.addHosts},
		{"etcd, with the network's configuration", d.startEtcd},
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
	fmt.Printf("  %-42s", what)
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
	if d.server, err = d.lab.AddHost("etcd", d.sw, lab.HostOptions{}); err != nil {
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

func (d *demo) startEtcd(ctx context.Context) error {
	var err error
	if d.etcd, err = d.lab.StartEtcd(ctx, d.server, lab.EtcdOptions{}); err != nil {
		return err
	}
	keys, err := d.etcd.Keys()
	if err != nil {
		return err
	}
	config := fmt.Sprintf(`{"Network": "10.5.0.0/16", "Backend": {"Type": %q}}`, d.backend)
	_, err = keys.Create(ctx, "/coreos.com/network/config", config)
	var exists client.Error
	if errors.As(err, &exists) {
		return fmt.Errorf("writing the configuration: %s", exists.Message)
	}
	return err
}

func (d *demo) startDaemons(ctx context.Context) error {
	for _, m := range d.machines {
		var err error
		if m.daemon, err = m.host.StartFlanneld(filepath.Join(d.binDir, "flanneld")); err != nil {
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
