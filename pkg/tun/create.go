package tun

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Create makes a device that stays when the process ends, and that can have
// several queues. A name with %d gets the lowest number that is free. The alias
// says whose it is: no device stays without it, however the process ends.
func Create(pattern, alias string) (name string, err error) {
	name, err = create(pattern, alias)
	if err != nil {
		return "", fmt.Errorf("creating TUN device %s: %w", pattern, err)
	}
	return name, nil
}

// making is what a device is called until it is made. Were it given a name that is
// taken, the kernel would attach to what has it.
const making = "flanneld-%d"

func create(pattern, alias string) (name string, err error) {
	numbered := strings.Contains(pattern, "%d")
	first := pattern
	if !numbered {
		first = making
	}
	// A program that this process starts has all its files until it is executed, and this one
	// longer: the water package opens it without O_CLOEXEC. It would be attached to the device.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	device, err := water.New(water.Config{
		DeviceType:             water.TUN,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: first, MultiQueue: true},
	})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, closeQueue(device)) }()
	link, err := netlink.LinkByName(device.Name())
	if err != nil {
		return "", fmt.Errorf("looking it up: %w", err)
	}
	if err := netlink.LinkSetAlias(link, alias); err != nil {
		return "", fmt.Errorf("setting its alias: %w", err)
	}
	name = device.Name()
	if !numbered {
		name = pattern
		if err := netlink.LinkSetName(link, name); err != nil {
			return "", fmt.Errorf("naming it: %w", err)
		}
	}
	file, ok := device.ReadWriteCloser.(*os.File)
	if !ok {
		return "", errors.New("it is not a file")
	}
	if err := unix.IoctlSetInt(int(file.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return "", fmt.Errorf("having it stay: %w", err)
	}
	return name, nil
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
