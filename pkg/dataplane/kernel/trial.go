package kernel

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// trialName is that of a device which is there for a moment only, to see whether the
// kernel would make one like it.
const trialName = "flannel.trial"

// TryVXLAN reports why the kernel would not make a device, beside those that there are.
func (k *Kernel) TryVXLAN(ctx context.Context, v state.VXLAN) error {
	k.devices.Lock()
	defer k.devices.Unlock()
	var all *links
	err := uninterrupted(ctx, func() (err error) { all, _, err = dumpLinks(); return err })
	if err != nil {
		return err
	}
	v.Name = trialName
	lower, ok := all.byName[v.Lower]
	if !ok {
		return nil // there is nothing to try it on
	}
	if err := deleteLink(trialName); err != nil { // of a process that was killed at this point
		return err
	}
	err = k.try(v, lower.index)
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
	b.appendLink(v, lower)
	err := b.exchangeOne()
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("another VXLAN device has the VNI %d and the UDP port %d (%w)", v.VNI, v.Port, err)
	}
	if err != nil {
		return notMade(v, err)
	}
	r, ok, err := lookUp(v.Name)
	if err != nil || !ok {
		return err
	}
	if err := setUp(r); err != nil {
		return notMade(v, err)
	}
	return nil
}
