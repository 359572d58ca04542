package kernel

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// ethtoolValue is the argument of the simple ethtool commands.
type ethtoolValue struct{ cmd, data uint32 }

// ethtoolRequest is the kernel's struct ifreq, with a pointer in its union.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(unsafe.Pointer(nil))]byte
}

func ethtool(dev string, v *ethtoolValue) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	r := ethtoolRequest{data: unsafe.Pointer(v)}
	copy(r.name[:unix.IFNAMSIZ-1], dev)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return errno
	}
	return nil
}

// txChecksumOff reports whether the device leaves checksums to software. One
// that has nothing to switch does.
func txChecksumOff(dev string) (bool, error) {
	v := ethtoolValue{cmd: unix.ETHTOOL_GTXCSUM}
	err := ethtool(dev, &v)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return true, nil
	}
	return v.data == 0, err
}

// checksumOff is txChecksumOff of a link, where it matters.
func (r rawLink) checksumOff() (bool, error) {
	if state.IsTUNName(r.name) {
		return false, nil
	}
	return txChecksumOff(r.name)
}

// setTxChecksum does as "ethtool -K dev tx on" or "off".
func setTxChecksum(dev string, on bool) error {
	v := ethtoolValue{cmd: unix.ETHTOOL_STXCSUM}
	if on {
		v.data = 1
	}
	return ethtool(dev, &v)
}
