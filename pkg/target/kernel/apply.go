package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

const (
	// batchSize is how many messages go to the kernel in one call. If each of
	// them fails, the answers still fit the default receive buffer.
	batchSize = 200
	// answerTimeout is how long the kernel may take over one batch.
	answerTimeout = 10 * time.Second
)

var errAnswerLost = errors.New("the kernel's answer was lost")

// Apply sends ops in batches of netlink messages. The kernel answers for each
// message that fails, and for the last one of a batch; no answer is success.
func (k *Kernel) Apply(ctx context.Context, ops []state.Op) []error {
	errs := make([]error, len(ops))
	for start := 0; start < len(ops); start += batchSize {
		end := min(start+batchSize, len(ops))
		if err := ctx.Err(); err != nil {
			for i := start; i < len(ops); i++ {
				errs[i] = err
			}
			break
		}
		k.applyBatch(ops[start:end], errs[start:end])
	}
	return errs
}

func (k *Kernel) applyBatch(ops []state.Op, errs []error) {
	var b batch
	last := -1
	for i, op := range ops {
		if errs[i] = b.append(op, uint32(i), k.links); errs[i] == nil {
			last = i
		}
	}
	if last < 0 {
		return
	}
	b.acknowledge()
	answered, err := exchange(b.buf, uint32(last), func(i uint32, errno syscall.Errno, text string) {
		if int(i) < len(ops) {
			errs[i] = explain(ops[i], errno, text)
		}
	})
	if err != nil && !answered {
		for i := range ops {
			if errs[i] == nil {
				errs[i] = err
			}
		}
	}
}

// append adds the message for op, unless it is known to be in vain.
func (b *batch) append(op state.Op, seq uint32, links *links) error {
	obj := op.Want
	if obj == nil {
		obj = op.Have
	}
	var dev string
	switch op.Key().Kind {
	case state.KindNexthop:
		dev = nexthopOf(obj).Dev
	case state.KindRoute:
		dev = routeOf(obj).Dev
	}
	index, err := links.find(dev)
	if err != nil && op.Verb != state.Delete {
		return err
	}
	switch op.Key().Kind {
	case state.KindNexthop:
		b.appendNexthop(op, seq, index)
	case state.KindRoute:
		b.appendRoute(op, seq, index)
	}
	return nil
}

// exchange sends messages in one call and calls failed for each that the kernel
// refuses, by its sequence number. It reports whether the kernel answered all,
// up to the message numbered last.
func exchange(messages []byte, last uint32, failed func(seq uint32, errno syscall.Errno, text string)) (bool, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("opening a netlink socket: %w", err)
	}
	defer s.Close()
	// Without these, answers are longer and say less.
	_ = unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = s.SetExtAck(true)
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := s.SetReceiveTimeout(&timeout); err != nil {
		return false, err
	}
	if err := unix.Sendto(s.GetFd(), messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, fmt.Errorf("sending netlink messages: %w", err)
	}
	for {
		answers, _, err := s.Receive()
		if err != nil {
			return false, fmt.Errorf("%w: %w", errAnswerLost, err)
		}
		for _, a := range answers {
			if a.Header.Type != unix.NLMSG_ERROR || len(a.Data) < 4 {
				continue
			}
			if errno := -int32(native.Uint32(a.Data)); errno != 0 {
				failed(a.Header.Seq, syscall.Errno(errno), extendedText(a))
			}
			if a.Header.Seq == last {
				return true, nil
			}
		}
	}
}

// extendedText returns what the kernel says about an error, beyond its number.
func extendedText(m syscall.NetlinkMessage) string {
	const head = 4 + unix.NLMSG_HDRLEN // the error number and the refused message's header
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 || len(m.Data) < head {
		return ""
	}
	for typ, data := range attrs(m.Data[head:]) {
		if typ == unix.NLMSGERR_ATTR_MSG {
			return unix.ByteSliceToString(data)
		}
	}
	return ""
}

// explain words an error of the kernel's; nil if it is none after all.
func explain(op state.Op, errno syscall.Errno, text string) error {
	if op.Verb == state.Delete && (errno == unix.ESRCH || errno == unix.ENOENT || errno == unix.ENODEV) {
		return nil // gone already, by itself or with its interface
	}
	if op.Verb == state.Delete && op.Key().Kind == state.KindRoute && errno == unix.EINVAL && routeOf(op.Have).Nexthop != 0 {
		return nil // gone already, with its nexthop
	}
	if op.Want != nil && (errno == unix.ENETUNREACH || errno == unix.EHOSTUNREACH) {
		var via netip.Addr
		var dev string
		switch w := op.Want.(type) {
		case state.Nexthop:
			via, dev = w.Via, w.Dev
		case state.Route:
			via, dev = w.Via, w.Dev
		}
		return fmt.Errorf("%s is not on the same link: no router may stand between it and %s (%w)", via, dev, errno)
	}
	if text != "" {
		return fmt.Errorf("%w: %s", errno, text)
	}
	return errno
}
