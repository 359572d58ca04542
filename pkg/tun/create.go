package tun

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Create makes a device that stays when the process ends, and that can have
// several queues. A name with %d gets the lowest number that is free. The alias
// says whose it is: no device stays without it, however the process ends.
func Create(pattern, alias string) (name string, err error) {
	fd, err := attach(pattern, unix.IFF_TUN|unix.IFF_NO_PI|unix.IFF_MULTI_QUEUE|unix.IFF_TUN_EXCL)
	if err != nil {
		if errors.Is(err, unix.EBUSY) {
			err = unix.EEXIST
		}
		return "", fmt.Errorf("creating TUN device %s: %w", pattern, err)
	}
	if name, _, err = identify(fd); err == nil {
		err = setAlias(name, alias)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return "", fmt.Errorf("creating TUN device %s: %w", pattern, err)
	}
	return name, nil
}

func setAlias(name, alias string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetAlias(l, alias)
	}
	if err != nil {
		return fmt.Errorf("setting its alias: %w", err)
	}
	return nil
}

// Delete removes a persistent device that no process is attached to, else it
// fails with ErrHeld.
func Delete(name string) error {
	d, err := Open(name, Options{})
	if err != nil {
		return fmt.Errorf("deleting TUN device %s: %w", name, err)
	}
	err = unix.IoctlSetInt(d.Queues[0].(*queue).fd, unix.TUNSETPERSIST, 0)
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("deleting TUN device %s: %w", name, err)
	}
	return nil
}
