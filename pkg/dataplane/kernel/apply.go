package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/state"
)

// batchSize is how many steps go to the kernel in one call. If each of them
// fails, the answers still fit the default receive buffer.
const batchSize = 200

// Apply sends ops in batches of netlink messages. The kernel answers for each
// message that fails, and for the last one of a batch; no answer is success.
func (k *Kernel) Apply(ctx context.Context, ops []state.Op) []error {
	errs := make([]error, len(ops))
	s := &sender{}
	defer s.close()
	for start, end := 0, 0; start < len(ops); start = end {
		if err := ctx.Err(); err != nil {
			for i := start; i < len(ops); i++ {
				errs[i] = err
			}
			break
		}
		device := ops[start].Kind() == state.KindLink
		for end < len(ops) && end-start < batchSize && (ops[end].Kind() == state.KindLink) == device {
			end++
		}
		if device {
			k.applyLinks(ctx, ops[start:end], errs[start:end])
		} else {
			k.applyBatch(s, ops[start:end], errs[start:end])
			k.applyLed(s, ops[start:end], errs[start:end])
		}
	}
	return errs
}

// sender sends batches by one socket, as long as that does not fail.
type sender struct {
	sock *socket
	buf  []byte
}

func (s *sender) close() {
	if s.sock != nil {
		s.sock.close()
		s.sock = nil
	}
}

// send sends the messages of b.
func (s *sender) send(b *batch, failed func(seq uint32, errno syscall.Errno, text string)) (err error) {
	if s.sock == nil {
		if s.sock, err = open(); err != nil {
			return err
		}
	}
	if err = s.sock.exchange(b.buf, b.acknowledge(), failed); err != nil {
		s.close() // what it may still receive is of the past
	}
	return err
}

func (k *Kernel) applyBatch(s *sender, ops []state.Op, errs []error) {
	k.sendBatch(s, ops, errs, (*batch).append)
}

// applyLed takes again those steps of a batch that failed because another route, such as the
// one to be replaced, or a wider one, leads to the gateway by another way: so an IPv6 kernel
// has it, whoever vouches for the link. Meanwhile there is a route to the gateway alone. That
// is there and gone within one system call.
func (k *Kernel) applyLed(s *sender, ops []state.Op, errs []error) {
	var led []state.Op
	var at []int
	for i, op := range ops {
		r, ok := op.Want.(state.Route)
		if ok && r.Onlink && r.Nexthop == 0 && r.Via.Is6() && !r.Dst.IsSingleIP() && errors.Is(errs[i], unix.EINVAL) {
			led, at = append(led, op), append(at, i)
		}
	}
	if len(led) == 0 {
		return
	}
	again := make([]error, len(led))
	k.sendBatch(s, led, again, func(b *batch, op state.Op, seq uint32, links *links) error {
		want := op.Want.(state.Route)
		index, err := links.find(want.Dev)
		if err != nil {
			return err
		}
		lead := state.Route{Dst: netip.PrefixFrom(want.Via, want.Via.BitLen()), Dev: want.Dev, Metric: leadMetric}
		b.routeMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, seq|aside, lead, index)
		err = b.step(op, seq, index)
		b.routeMessage(unix.RTM_DELROUTE, 0, seq|afterwards, lead, index)
		return err
	})
	for i, err := range again {
		errs[at[i]] = err
	}
}

// leadMetric is that of the route to a gateway alone: routes of ours have none like it.
const leadMetric = state.YieldingMetric + 1

// sendBatch sends the messages that add adds for each step.
func (k *Kernel) sendBatch(s *sender, ops []state.Op, errs []error, add func(b *batch, op state.Op, seq uint32, links *links) error) {
	b := batch{buf: s.buf[:0]}
	for i, op := range ops {
		errs[i] = add(&b, op, uint32(i), k.links)
	}
	s.buf = b.buf
	if len(b.buf) == 0 {
		return
	}
	err := s.send(&b, func(i uint32, errno syscall.Errno, text string) {
		if i < uint32(len(ops)) { // else aside
			errs[i] = explain(ops[i], errno, text)
		}
	})
	if err != nil {
		for i := range ops {
			if errs[i] == nil {
				errs[i] = err
			}
		}
	}
}

// append adds the messages for op, unless it is known to be in vain.
func (b *batch) append(op state.Op, seq uint32, links *links) error {
	obj := op.Want
	if obj == nil {
		obj = op.Have
	}
	index, err := links.find(deviceOf(obj))
	if err != nil && op.Verb != state.Delete {
		return err
	}
	kind := op.Kind()
	if index == 0 && kind != state.KindNexthop && kind != state.KindRoute {
		return nil // gone, with its device
	}
	if kind == state.KindRoute && index == 0 && byDevice(as[state.Route](obj)) {
		return nil // gone, with its device; the kernel would delete any to there
	}
	return b.step(op, seq, index)
}

// step adds the messages for op, whose object is on the device with the given index.
func (b *batch) step(op state.Op, seq uint32, index int) error {
	if op.Verb == state.Delete {
		return b.object(op.Have, true, 0, seq, index)
	}
	if u, ok := op.Have.(unmanaged); ok && u.remake {
		_ = b.object(op.Have, true, 0, seq|aside, index)
	}
	// What the kernel finds out by itself, such as a neighbour, may be there at any time, so
	// to create it is to replace it.
	var flags uint16 = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	if kind := op.Kind(); op.Verb == state.Create && (kind == state.KindNexthop || kind == state.KindRoute) {
		flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	return b.object(op.Want, false, flags, seq, index)
}

// object adds the message that makes or removes an object.
func (b *batch) object(o state.Object, remove bool, flags uint16, seq uint32, index int) error {
	var typ uint16
	if remove {
		typ = 1 // each type of message to delete follows that to make
	}
	switch kind := state.WhichKind(o); kind {
	case state.KindAddr:
		b.addrMessage(unix.RTM_NEWADDR+typ, flags, seq, o, index)
	case state.KindNeigh:
		b.neighMessage(unix.RTM_NEWNEIGH+typ, flags, seq, as[state.Neigh](o), index)
	case state.KindFDB:
		b.fdbMessage(unix.RTM_NEWNEIGH+typ, flags, seq, o, index)
	case state.KindNexthop:
		b.nexthopMessage(unix.RTM_NEWNEXTHOP+typ, flags, seq, as[state.Nexthop](o), index)
	case state.KindRoute:
		b.routeMessage(unix.RTM_NEWROUTE+typ, flags, seq, as[state.Route](o), index)
	default:
		return fmt.Errorf("a kernel has no %s", kind)
	}
	return nil
}

// deviceOf returns the name of the device that an object is on.
func deviceOf(o state.Object) string {
	switch k := o.Key(); k.Kind {
	case state.KindNexthop:
		return as[state.Nexthop](o).Dev
	case state.KindRoute:
		return as[state.Route](o).Dev
	default:
		return k.Scope
	}
}

// exchange sends messages in one call and calls failed for each that the kernel
// refuses, by its sequence number. It returns nil once the kernel has answered
// all, up to the message numbered last.
func (s *socket) exchange(batch []byte, last uint32, failed func(seq uint32, errno syscall.Errno, text string)) error {
	// Without these, answers are longer, and have no texts.
	_ = s.set(unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = s.set(unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	if err := s.send(batch); err != nil {
		return err
	}
	return s.answers(func(a message) (done bool) {
		if a.typ != unix.NLMSG_ERROR || len(a.data) < 4 {
			return false
		}
		if errno := -int32(native.Uint32(a.data)); errno != 0 {
			failed(a.seq, syscall.Errno(errno), extendedText(a))
		}
		return a.seq == last
	})
}

// extendedText returns what the kernel says about an error, beyond its number.
func extendedText(m message) string {
	const head = 4 + unix.NLMSG_HDRLEN // the error number and the refused message's header
	if m.flags&unix.NLM_F_ACK_TLVS == 0 || len(m.data) < head {
		return ""
	}
	for typ, data := range attrs(m.data[head:]) {
		if typ == unix.NLMSGERR_ATTR_MSG {
			return unix.ByteSliceToString(data)
		}
	}
	return ""
}

// explain words an error of the kernel's; nil if it is none after all.
func explain(op state.Op, errno syscall.Errno, text string) error {
	kind := op.Kind()
	if op.Verb == state.Delete && (errno == unix.ESRCH || errno == unix.ENOENT || errno == unix.ENODEV) {
		return nil // gone already, by itself or with its interface
	}
	if op.Verb == state.Delete && kind == state.KindAddr && errno == unix.EADDRNOTAVAIL {
		return nil // gone already
	}
	if op.Verb == state.Delete && kind == state.KindRoute && errno == unix.EINVAL && as[state.Route](op.Have).Nexthop != 0 {
		return nil // gone already, with its nexthop
	}
	err := refusal(errno, text)
	switch {
	case op.Want == nil:
	case errno == unix.ENODEV && kind != state.KindRoute && kind != state.KindNexthop:
		return fmt.Errorf("%w (%w)", noLink("there is no interface "+op.Key().Scope), err)
	case kind == state.KindNeigh && (errno == unix.ENOBUFS || errno == unix.ENOMEM):
		family := strings.ToLower(ip.FamilyOf(op.Key().Prefix.Addr()).String())
		return fmt.Errorf("the neighbour table may be full: see net.%s.neigh.default.gc_thresh3, which kernels before 5.0 apply to such entries too (%w)", family, err)
	case errno == unix.ENETUNREACH || errno == unix.EHOSTUNREACH:
		// The step names the next hop; many have this reason in common.
		var dev string
		switch w := op.Want.(type) {
		case state.Nexthop:
			dev = w.Dev
		case state.Route:
			dev = w.Dev
		default:
			return err
		}
		return fmt.Errorf("the next hop is not on the same link: no router may stand between it and %s (%w)", dev, errno)
	}
	return err
}

// refusal is an error number of the kernel's and the text it gives along.
func refusal(errno syscall.Errno, text string) error {
	if text == "" {
		return errno
	}
	return fmt.Errorf("%w: %s", errno, text)
}
