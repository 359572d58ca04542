package udptunnel

import (
	"context"
	"fmt"
	"net/netip"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// yardstick carries packets as the loop in C does that flannel has for its udp backend: one
// thread polls the device and the socket, and passes on one packet by a read and a
// sendto, or by a recvfrom and a write, until neither has any. It is what a lone packet's time is compared
// with, where flannel itself is not at hand. To be as quick as C, it makes its calls without the scheduler's knowledge,
// and its process does nothing else.
func yardstick(e engine) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	device, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	defer unix.Close(device)
	req, err := unix.NewIfreq(e.Device)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
	if err := unix.IoctlIfreq(device, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("attaching to %s: %w", e.Device, err)
	}
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(sock)
	if err := unix.Bind(sock, &unix.SockaddrInet4{Port: int(e.Local.Port()), Addr: e.Local.Addr().As4()}); err != nil {
		return fmt.Errorf("listening on %s: %w", e.Local, err)
	}
	table, err := NewTable(e.Network, e.Own.Bits())
	if err != nil {
		return err
	}
	if err := table.Replace(e.Peers); err != nil {
		return err
	}
	fmt.Println("ready")
	l := loop{device: device, sock: sock, table: table, buf: make([]byte, maxPacket)}
	l.name = unix.RawSockaddrInet4{Family: unix.AF_INET}
	l.setPort(e.Local)
	l.run(ctx)
	return nil
}

type loop struct {
	device, sock int
	table        *Table
	name         unix.RawSockaddrInet4
	buf          []byte
}

func (l *loop) setPort(a netip.AddrPort) {
	p := (*[2]byte)(ptr(&l.name.Port))
	p[0], p[1] = byte(a.Port()>>8), byte(a.Port())
}

// run ends soon after the context, which nothing wakes it for.
func (l *loop) run(ctx context.Context) {
	fds := []unix.PollFd{{Fd: int32(l.device), Events: unix.POLLIN}, {Fd: int32(l.sock), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		fds[0].Revents, fds[1].Revents = 0, 0
		second := unix.Timespec{Sec: 1} // the kernel takes from it what has gone by
		n, _, _ := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(ptr(&fds[0])), uintptr(len(fds)), uintptr(ptr(&second)), 0, 0, 0)
		for more := int(n) > 0; more; {
			out, in := l.send(), l.receive()
			more = out || in
		}
	}
}

// send passes on one packet of the device.
func (l *loop) send() bool {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(l.device), uintptr(ptr(&l.buf[0])), uintptr(len(l.buf)))
	if errno != 0 {
		return false
	}
	b, why := trim(l.buf[:n])
	if why != none {
		return true
	}
	peer := l.table.lookup(dstOf(b))
	if peer == 0 || b[8] <= 1 {
		return true
	}
	decrementTTL(b)
	l.name.Addr = uintToAddr(peer).As4()
	_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(l.sock), uintptr(ptr(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT, uintptr(ptr(&l.name)), unsafe.Sizeof(l.name))
	return true
}

// receive passes on one datagram.
func (l *loop) receive() bool {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(l.sock), uintptr(ptr(&l.buf[0])), uintptr(len(l.buf)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return false
	}
	b, why := trim(l.buf[:n])
	if why != none || b[8] <= 1 {
		return true
	}
	decrementTTL(b)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(l.device), uintptr(ptr(&b[0])), uintptr(len(b)))
	return true
}
