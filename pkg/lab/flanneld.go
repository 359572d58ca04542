package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Daemon is a flanneld on a host.
type Daemon struct {
	*Process
	// Notify is the socket that it tells its state to.
	Notify *NotifySocket
	// SubnetFile is where it writes what its host's container runtime needs.
	SubnetFile string
}

// StartFlanneld runs a flanneld that uses the lab's etcd, the last one
// started, and a subnet file and a state folder in the host's directory, unless
// args say otherwise.
func (h *Host) StartFlanneld(bin string, args ...string) (*Daemon, error) {
	return h.StartFlanneldIn(nil, bin, args...)
}

// StartFlanneldIn is StartFlanneld with more variables in the environment.
func (h *Host) StartFlanneldIn(env []string, bin string, args ...string) (*Daemon, error) {
	d := &Daemon{SubnetFile: filepath.Join(h.Dir, "subnet.env")}
	argv := []string{bin}
	if own, ok := flagValue(args, "subnet-file"); ok {
		d.SubnetFile = own
	} else {
		argv = append(argv, "-subnet-file="+d.SubnetFile)
	}
	if _, ok := flagValue(args, "state-dir"); !ok {
		argv = append(argv, "-state-dir="+filepath.Join(h.Dir, "state"))
	}
	h.lab.mu.Lock()
	etcd := h.lab.etcd
	h.lab.mu.Unlock()
	_, elsewhere := flagValue(args, "etcd-endpoints")
	if _, kube := flagValue(args, "kube-subnet-mgr"); !elsewhere && !kube && etcd != nil {
		argv = append(argv, "-etcd-endpoints="+etcd.Endpoint())
	}
	var err error
	if d.Notify, err = h.NewNotifySocket(); err != nil {
		return nil, err
	}
	env = append([]string{"NOTIFY_SOCKET=" + d.Notify.Path}, env...)
	if d.Process, err = h.Start("flanneld", append(argv, args...), env, ProcessOptions{}); err != nil {
		d.Notify.Close()
		return nil, err
	}
	go func() {
		<-d.Exited()
		d.Notify.Close()
	}()
	return d, nil
}

// WaitReady waits until the daemon has said READY=1. It fails at once when the
// daemon ends without that.
func (d *Daemon) WaitReady(ctx context.Context) error {
	select {
	case <-d.Notify.Ready():
		return nil
	case <-d.Exited():
		return fmt.Errorf("waiting for flanneld: %w", d.endedError())
	case <-ctx.Done():
		return fmt.Errorf("waiting for flanneld on %s: %w; its status is %q, its log ends with:\n%s",
			d.ns.Name, ctx.Err(), d.Status(), d.logTail())
	}
}

// Status is the last STATUS= that the daemon has sent.
func (d *Daemon) Status() string { return d.Notify.Status() }

// EnvText is the subnet file as it is now, empty if there is none.
func (d *Daemon) EnvText() string {
	text, err := os.ReadFile(d.SubnetFile)
	if err != nil {
		return ""
	}
	return string(text)
}

// Env has the variables of the subnet file as it is now.
func (d *Daemon) Env() map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(d.EnvText()) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			env[name] = value
		}
	}
	return env
}

// flagValue finds a flag in an argument list, in any spelling that Go's flag
// package knows.
func flagValue(args []string, name string) (string, bool) {
	for i, arg := range args {
		flag, value, hasValue := strings.Cut(arg, "=")
		if flag != "-"+name && flag != "--"+name {
			continue
		}
		if !hasValue && i+1 < len(args) {
			value = args[i+1]
		}
		return value, true
	}
	return "", false
}
