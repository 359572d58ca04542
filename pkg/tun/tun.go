// Package tun handles TUN devices as a tunnel's data path wants them: several
// packets of one flow in one read or write, with what the kernel calls a virtio
// header in front to say so.
package tun

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrHeld is wrapped where a device belongs to a process that is alive.
var ErrHeld = errors.New("another process is attached to it")

// ErrGone is wrapped where the device was deleted.
var ErrGone = errors.New("the device is gone")

// Queue is one of the file descriptors of a TUN device. One goroutine may read
// from it while any number write.
type Queue interface {
	// FD is what to poll until there is something to read, be it that the device is gone.
	FD() int
	// Read reads a packet. It does not wait: where there is none it returns 0.
	Read(b []byte) (int, error)
	// Write writes one packet from its pieces.
	Write(pieces []unix.Iovec) error
	Close() error
}

// Features are what a device was found to be able to do.
type Features struct {
	// Header is whether each packet has a Header in front. Without it the
	// others are false.
	Header bool
	// TSO is whether reads yield TCP segments joined.
	TSO bool
	// USO is whether reads yield UDP datagrams joined, and writes take them.
	USO bool
}

// Device is an attached TUN device.
type Device struct {
	Name     string
	Queues   []Queue
	Features Features
}

// Options are the wishes of who opens a device.
type Options struct {
	// Queues is how many are wanted. A device that was not made for several
	// has one.
	Queues int
	// Offload asks for all Features that the kernel has.
	Offload bool
}

// Open attaches to a persistent device that exists. It fails with ErrHeld if
// another process is attached.
//
// The kernel sees to that only where a device has one queue. Of others it tells
// how many queues are attached: there must be none before, lest packets be lost
// to a queue that is not read, and no more than this one after. So of two that
// are as quick as each other both may fail, and never do both succeed. A kernel
// before 4.17 can only be asked before.
func Open(name string, opts Options) (*Device, error) {
	d, err := open(name, opts)
	if err != nil {
		return nil, fmt.Errorf("opening TUN device %s: %w", name, err)
	}
	return d, nil
}

func open(name string, opts Options) (_ *Device, err error) {
	t, err := look(name)
	if err != nil {
		return nil, err
	}
	if attached(t) > 0 {
		return nil, ErrHeld
	}
	fd, kind, err := attachAny(name, opts.Offload)
	if err != nil {
		return nil, err
	}
	d := &Device{Name: name}
	if err = alone(name); err == nil {
		d.Features, err = setOffloads(fd, kind&unix.IFF_VNET_HDR != 0)
	}
	if err != nil {
		return nil, errors.Join(err, closeQueue(descriptor(fd)))
	}
	d.Queues = append(d.Queues, &queue{fd})
	if kind&unix.IFF_MULTI_QUEUE != 0 {
		d.more(opts.Queues, kind)
	}
	return d, nil
}

// more adds queues until there are n. Fewer do as well.
func (d *Device) more(n int, kind uint16) {
	for len(d.Queues) < n {
		fd, err := attachTo(d.Name, kind)
		if err != nil {
			return
		}
		d.Queues = append(d.Queues, &queue{fd})
	}
}

// alone checks that the one queue that we have of a device is all that it has, as
// far as the kernel tells.
func alone(name string) error {
	t, err := look(name)
	if err == nil && several(t) && attached(t) > 1 {
		err = ErrHeld
	}
	return err
}

// Close detaches from the device, which stays. No call to its queues may be
// under way.
func (d *Device) Close() error {
	var errs []error
	for _, q := range d.Queues {
		errs = append(errs, q.Close())
	}
	return errors.Join(errs...)
}

// attachAny attaches in whatever way the device allows: with a header or
// without, as the device was made for one queue or several.
func attachAny(name string, header bool) (fd int, flags uint16, err error) {
	const plain = unix.IFF_TUN | unix.IFF_NO_PI
	kinds := []uint16{plain | unix.IFF_MULTI_QUEUE, plain}
	if header {
		kinds = append([]uint16{kinds[0] | unix.IFF_VNET_HDR, kinds[1] | unix.IFF_VNET_HDR}, kinds...)
	}
	for _, flags := range kinds {
		if fd, err = attachTo(name, flags); err == nil {
			return fd, flags, nil
		}
		if errors.Is(err, unix.EBUSY) {
			return -1, 0, ErrHeld
		}
	}
	return -1, 0, fmt.Errorf("attaching to it: %w", err)
}

// attachTo opens one queue of a device that exists.
func attachTo(name string, flags uint16) (int, error) {
	fd, err := attach(name, flags)
	if err != nil {
		return -1, err
	}
	_, is, err := identify(fd)
	if err == nil && is&unix.IFF_PERSIST == 0 {
		err = fmt.Errorf("it does not exist, or not for long: %w", unix.ENODEV)
	}
	if err != nil {
		return -1, errors.Join(err, closeQueue(descriptor(fd)))
	}
	return fd, nil
}

// attach opens one queue of a device. The kernel makes it if there is none.
func attach(name string, flags uint16) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return -1, errors.Join(err, closeQueue(descriptor(fd)))
	}
	return fd, nil
}

// identify returns the name and the flags of a queue's device.
func identify(fd int) (name string, flags uint16, err error) {
	req, err := unix.NewIfreq("")
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, req)
	}
	if err != nil {
		return "", 0, fmt.Errorf("asking which device it is: %w", err)
	}
	return req.Name(), req.Uint16(), nil
}

// setOffloads asks for all that there is, or for nothing: a device remembers
// what its last owner asked for.
func setOffloads(fd int, header bool) (Features, error) {
	set := func(bits int) error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, bits) }
	if !header {
		_ = set(0)
		return Features{}, nil
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, HeaderLen); err != nil {
		return Features{}, fmt.Errorf("setting the length of its header: %w", err)
	}
	const tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO_ECN
	const uso = unix.TUN_F_USO4 | unix.TUN_F_USO6 // the kernel takes both or none
	switch {
	case set(tso|uso) == nil:
		return Features{Header: true, TSO: true, USO: true}, nil
	case set(tso) == nil:
		return Features{Header: true, TSO: true}, nil
	}
	_ = set(0)
	return Features{Header: true}, nil
}
