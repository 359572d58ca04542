package tun

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hasCarrier tells whether an interface of this network namespace is up and has
// carrier. The flag IFF_RUNNING would say so up to a second late.
func hasCarrier(name string) (bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }()
	if len(name) >= unix.IFNAMSIZ {
		return false, unix.EINVAL
	}
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_GLINK}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24]byte // the kernel's is a union with more in it
	}{data: unsafe.Pointer(&value)}
	copy(req.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return false, errno
	}
	return value.data != 0, nil
}
