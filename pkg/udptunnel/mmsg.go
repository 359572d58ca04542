package udptunnel

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is the kernel's struct of that name, on all architectures.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// mmsg is sendmmsg or recvmmsg without waiting. It returns how many messages
// were, or an error if none was. The scheduler is not told of a call that does not
// wait: that would wake a thread of the runtime that watches how long calls take.
func mmsg(call uintptr, fd int, msgs []mmsghdr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(msgs))),
		uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func ptr[T any](v *T) unsafe.Pointer { return unsafe.Pointer(v) }

// control is room for one control message with a number in it.
type control [controlLen / 8]uint64

const controlLen = (unix.SizeofCmsghdr+7)&^7 + 8

// setCmsg prepares a control message that says how to cut up what is sent.
func setCmsg(b *control) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(b))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
}

func setSegment(b *control, size int) {
	*(*uint16)(unsafe.Add(unsafe.Pointer(b), unix.CmsgLen(0))) = uint16(size)
}

// segmentOf reads how long each datagram is in what was received; 0 if it is one.
func segmentOf(b *control, n int) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(b))
	if n < unix.CmsgLen(4) || h.Level != unix.IPPROTO_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(b), unix.CmsgLen(0))))
}

// inbox is room for messages that are received at once.
type inbox struct {
	n        int
	msgs     []mmsghdr
	bufs     [][]byte
	iov      []unix.Iovec
	names    []unix.RawSockaddrInet4
	controls []control
}

func newInbox(messages int) *inbox {
	in := &inbox{
		msgs:     make([]mmsghdr, messages),
		bufs:     make([][]byte, messages),
		iov:      make([]unix.Iovec, messages),
		names:    make([]unix.RawSockaddrInet4, messages),
		controls: make([]control, messages),
	}
	for i := range in.msgs {
		in.bufs[i] = make([]byte, maxPacket+1)
		in.iov[i] = piece(in.bufs[i])
		h := &in.msgs[i].hdr
		h.Iov = &in.iov[i]
		h.SetIovlen(1)
		h.Name = (*byte)(ptr(&in.names[i]))
		h.Control = (*byte)(ptr(&in.controls[i]))
	}
	return in
}

// fill receives what is there, and so many messages at most.
func (in *inbox) fill(fd, most int) (int, unix.Errno) {
	msgs := in.msgs[:min(most, len(in.msgs))]
	for i := range msgs {
		h := &msgs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet4
		h.SetControllen(controlLen)
		h.Flags = 0
	}
	return mmsg(unix.SYS_RECVMMSG, fd, msgs)
}

// message returns what was received in message i: who sent it, its datagrams and
// their length, and whether it was cut off.
func (in *inbox) message(i int) (from uint32, b []byte, size int, truncated bool) {
	m := &in.msgs[i]
	a := in.names[i].Addr
	from = uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	size = segmentOf(&in.controls[i], int(m.hdr.Controllen))
	return from, in.bufs[i][:m.len], size, m.hdr.Flags&unix.MSG_TRUNC != 0
}
