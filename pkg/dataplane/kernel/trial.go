package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
)

// trialName is that of a device which is there for a moment only, to see whether the
// kernel would make one like it.
const trialName = "flannel.trial"

// trial is of the device that was tried last. Trying it makes a device, if only for a
// moment, which the whole host is notified of; so one that fails is tried ever more rarely.
type trial struct {
	device  state.VXLAN
	err     error
	backoff once.Backoff
	next    time.Time
}

// trialFirst and trialMost bound the pauses between two trials of the same device.
const (
	trialFirst = time.Second
	trialMost  = time.Minute
)

var _ dataplane.Trier = (*Kernel)(nil)

// Try implements dataplane.Trier: it makes a VXLAN device as is to be wanted, beside those
// that there are.
func (k *Kernel) Try(ctx context.Context, before, after []state.Object) error {
	k.devices.Lock()
	defer k.devices.Unlock()
	all, _, err := listLinks(ctx)
	if err != nil {
		return err
	}
	for _, f := range ip.Families {
		had, there := findVXLAN(before, f)
		want, wanted := findVXLAN(after, f)
		// With another GBP on the same port, ours would be in the way itself.
		if !wanted || there && want.Port == had.Port && (want.VNI == had.VNI || want.GBP != had.GBP) {
			continue
		}
		if err := k.tryInPlaceOf(had, want, all); err != nil {
			return err
		}
	}
	return nil
}

// findVXLAN returns the device whose packets leave in a family.
func findVXLAN(objects []state.Object, f ip.Family) (state.VXLAN, bool) {
	i := slices.IndexFunc(objects, func(o state.Object) bool {
		v, ok := o.(state.VXLAN)
		return ok && ip.FamilyOf(v.Local) == f
	})
	if i < 0 {
		return state.VXLAN{}, false
	}
	return objects[i].(state.VXLAN), true
}

// tryInPlaceOf tries a device that is to follow another one. The caller holds k.devices.
func (k *Kernel) tryInPlaceOf(had, want state.VXLAN, all *links) error {
	lower, ok := all.byName[want.Lower]
	if !ok {
		return nil // there is nothing to try it on
	}
	if _, taken := all.byName[want.Name]; taken && want.Name != had.Name {
		return nil // what bears its name is made over
	}
	t := k.trials[want.Name]
	if t == nil || t.device != want {
		t = &trial{device: want, backoff: once.Backoff{First: trialFirst, Most: trialMost}}
		k.trials[want.Name] = t
	}
	if t.err == nil || !time.Now().Before(t.next) {
		t.err = k.tryVXLAN(want, lower.index)
		t.next = time.Now().Add(t.backoff.Double())
	}
	if t.err != nil {
		return fmt.Errorf("%s cannot be made: %w", want, t.err)
	}
	return nil
}

// tryVXLAN reports why the kernel would not make a device. The caller holds k.devices.
func (k *Kernel) tryVXLAN(v state.VXLAN, lower int) error {
	v.Name = trialName
	if err := deleteLink(trialName); err != nil { // of a process that was killed at this point
		return err
	}
	err := k.try(v, lower)
	return errors.Join(err, deleteLink(trialName))
}

// deleteTrial deletes the device of a process that was killed while it was there, since it
// holds a VNI and a port, and nobody else knows it.
func (k *Kernel) deleteTrial(all *links) error {
	r, ok := all.byName[trialName]
	if !ok || !k.devices.TryLock() { // it may be ours that is there now
		return nil
	}
	defer k.devices.Unlock()
	delete(all.byName, trialName)
	delete(all.byIndex, r.index)
	return deleteLink(trialName)
}

func (k *Kernel) try(v state.VXLAN, lower int) error {
	var b batch
	b.appendVXLAN(v, lower)
	err := b.exchangeOne()
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("another VXLAN device has the VNI %d and the UDP port %d (%w)", v.VNI, v.Port, err)
	}
	if err != nil {
		return explainVXLAN(v, err)
	}
	r, ok, err := lookUp(v.Name)
	if err != nil || !ok {
		return err
	}
	if err := setLink(r.index, unix.IFF_UP, unix.IFF_UP, nil); err != nil {
		return explainVXLAN(v, fmt.Errorf("setting it up: %w", err))
	}
	return nil
}
