package tun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attached returns how many queues of a device are attached to processes. Of a
// device that is not for several, and by a kernel before 4.17, no number is told: there it
// is one if the device is up and has carrier.
func Attached(several bool, told int, carrier bool) int {
	switch {
	case several:
		return told
	case carrier:
		return 1
	}
	return 0
}

func attached(t *netlink.Tuntap) int {
	return Attached(several(t), t.Queues+t.DisabledQueues, t.RawFlags&unix.IFF_LOWER_UP != 0)
}

func several(t *netlink.Tuntap) bool { return t.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 }

// Info is what the kernel says of a device that stays without a process.
type Info struct {
	Name, Alias string
	Held        bool // a process is attached to it
}

// listTries is how often a list of devices is asked for during which there were changes.
const listTries = 5

// List returns the devices that stay without a process.
func List(ctx context.Context) ([]Info, error) {
	links, err := netlink.LinkList()
	for tries := 1; tries < listTries && errors.Is(err, netlink.ErrDumpInterrupted) && ctx.Err() == nil; tries++ {
		links, err = netlink.LinkList()
	}
	if err != nil {
		return nil, fmt.Errorf("listing TUN devices: %w", err)
	}
	var all []Info
	for _, l := range links {
		if t, ok := l.(*netlink.Tuntap); ok && t.EncapType != "ether" && !t.NonPersist {
			all = append(all, Info{t.Name, t.Alias, attached(t) > 0})
		}
	}
	return all, nil
}

// look asks the kernel about a device.
func look(name string) (*netlink.Tuntap, error) {
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		err = fmt.Errorf("%w: %w", unix.ENODEV, err)
	}
	if err != nil {
		return nil, err
	}
	t, ok := l.(*netlink.Tuntap)
	if !ok {
		return nil, fmt.Errorf("it is of kind %s", l.Type())
	}
	return t, nil
}

// descriptors is held while queues are closed and while they are counted. Who reads of a
// descriptor in fdinfo holds it open, so that it would outlive its close; and it is gone
// from there before the kernel has detached its queue, which nobody's would then be.
var descriptors sync.Mutex

func closeQueue(f interface{ Close() error }) error {
	descriptors.Lock()
	defer descriptors.Unlock()
	return f.Close()
}

type descriptor int

func (fd descriptor) Close() error { return unix.Close(int(fd)) }

// Own returns how many queues this process itself is attached to, by the names
// that their devices have now.
func Own() map[string]int {
	descriptors.Lock()
	defer descriptors.Unlock()
	own := make(map[string]int)
	const dir = "/proc/self/fdinfo"
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		info, err := os.ReadFile(filepath.Join(dir, fd.Name()))
		if err != nil {
			continue // closed since
		}
		for line := range strings.Lines(string(info)) {
			if name, ok := strings.CutPrefix(line, "iff:"); ok {
				own[strings.TrimSpace(name)]++
			}
		}
	}
	return own
}
