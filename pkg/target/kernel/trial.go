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
	if err := deleteLink(trialName); err != nil { // of a process that ended at this point
		return err
	}
	err = k.try(v, lower.index)
	return errors.Join(err, deleteLink(trialName))
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
