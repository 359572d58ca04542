package tun

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// Create makes a device that stays when the process ends. A name with %d gets
// the lowest number that is free. With several, the device can have more than
// one queue.
func Create(pattern string, several bool) (string, error) {
	if !strings.Contains(pattern, "%d") {
		// The kernel would attach to what is there.
		if _, err := net.InterfaceByName(pattern); err == nil {
			return "", fmt.Errorf("creating TUN device %s: %w", pattern, unix.EEXIST)
		}
	}
	device, err := water.New(water.Config{
		DeviceType: water.TUN,
		PlatformSpecificParams: water.PlatformSpecificParams{
			Name:       pattern,
			Persist:    true,
			MultiQueue: several,
		},
	})
	if err != nil {
		return "", fmt.Errorf("creating TUN device %s: %w", pattern, err)
	}
	if err := device.Close(); err != nil {
		return "", fmt.Errorf("detaching from TUN device %s: %w", device.Name(), err)
	}
	return device.Name(), nil
}

// Abandoned returns the lowest named device of the pattern, which has %d in it,
// that persists and that no process is attached to; and false if there is none.
func Abandoned(pattern string) (name string, found bool, err error) {
	prefix, suffix, ok := strings.Cut(pattern, "%d")
	if !ok {
		return "", false, fmt.Errorf("looking for a TUN device %q: no %%d in it", pattern)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", false, fmt.Errorf("looking for a TUN device %q: %w", pattern, err)
	}
	lowest := -1
	for _, i := range interfaces {
		number, ok := strings.CutPrefix(i.Name, prefix)
		if ok {
			number, ok = strings.CutSuffix(number, suffix)
		}
		n, err := strconv.Atoi(number)
		if !ok || err != nil || n < 0 || strconv.Itoa(n) != number || lowest >= 0 && lowest < n {
			continue
		}
		if Free(i.Name) {
			name, lowest = i.Name, n
		}
	}
	return name, lowest >= 0, nil
}

// Free reports whether a name is that of a persistent TUN device that no process
// is attached to.
func Free(name string) bool {
	d, err := Open(name, Options{})
	if err != nil {
		return false
	}
	defer d.Close()
	q := d.Queues[0].(*queue)
	req, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(q.fd, unix.TUNGETIFF, req)
	}
	return err == nil && req.Uint16()&unix.IFF_PERSIST != 0
}

// Delete removes a persistent device that no other process is attached to.
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
