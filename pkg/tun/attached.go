package tun

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attached returns how many queues of a device are attached to processes. Of a
// device for one queue, and by a kernel before 4.17, no number is told: there it
// is one if the device is up and has carrier.
func Attached(t *netlink.Tuntap) int {
	switch {
	case told(t):
		return t.Queues + t.DisabledQueues
	case t.RawFlags&unix.IFF_LOWER_UP != 0:
		return 1
	}
	return 0
}

func told(t *netlink.Tuntap) bool { return t.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 }

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

// Own returns how many queues this process itself is attached to, by the names
// that their devices have now.
func Own() map[string]int {
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
