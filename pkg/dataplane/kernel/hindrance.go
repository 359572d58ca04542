package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// hindrance keeps packets from going through a device of ours. It is removed where the
// device is.
type hindrance struct {
	present     bool
	text        string // of a device that has it
	removal     string
	flags, mask uint32
	change      func(*batch)
	other       func() error // in the place of flags and change
	gone        error        // what the kernel answers if it is there no more
}

// tunQueueLen is what the kernel gives TUN devices, in packets.
const tunQueueLen = 500

// hindrances are all that there may be, in the order in which they are removed.
func (r rawLink) hindrances(links *links) []hindrance {
	master := links.nameOrIndex(r.master)
	return []hindrance{
		{present: r.master != 0, text: "that is a port of " + master, removal: "taking it out of " + master, change: func(b *batch) {
			b.attr32(unix.IFLA_MASTER, 0)
		}},
		{present: r.protoDown, text: "with protodown on", removal: "setting its protodown off", change: func(b *batch) {
			// The kernel keeps it on for as long as there is a reason.
			reasons := b.nest(unix.IFLA_PROTO_DOWN_REASON)
			b.attr32(unix.IFLA_PROTO_DOWN_REASON_MASK, ^uint32(0))
			b.attr32(unix.IFLA_PROTO_DOWN_REASON_VALUE, 0)
			b.endNest(reasons)
			b.attr(unix.IFLA_PROTO_DOWN, []byte{0})
		}},
		// Without ARP it has no MAC addresses of neighbours.
		{present: r.kind == "vxlan" && r.flags&unix.IFF_NOARP != 0, text: "with arp off", removal: "setting its arp on", mask: unix.IFF_NOARP},
		{present: r.noCarrier(), text: "without a carrier", removal: "setting its carrier on", change: func(b *batch) {
			b.attr(unix.IFLA_CARRIER, []byte{1})
		}, gone: unix.EPERM}, // nobody is attached any more
		// Devices of other kinds have no queue.
		{present: r.kind == "tun" && r.queueLen == 0, text: "with a txqueuelen of 0", removal: "setting its txqueuelen", change: func(b *batch) {
			b.attr32(unix.IFLA_TXQLEN, tunQueueLen)
		}},
		{present: r.forIPv6() && r.noIPv6, text: "without IPv6", removal: "setting its disable_ipv6 to 0", other: func() error {
			return setIPv6(r.name, "disable_ipv6")
		}},
		{present: r.forwardingOff, text: "with forwarding off", removal: "setting its forwarding on", change: appendForwarding},
		{present: !r.up, text: "that is down", removal: "setting it up", flags: unix.IFF_UP, mask: unix.IFF_UP},
	}
}

// hindrance is the text of the first that is present; empty if there is none.
func (r rawLink) hindrance(links *links) string {
	for _, h := range r.hindrances(links) {
		if h.present {
			return h.text
		}
	}
	return ""
}

// removeHindrances lets packets go through a device.
func (r rawLink) removeHindrances(links *links) error {
	for _, h := range r.hindrances(links) {
		if !h.present {
			continue
		}
		remove := h.other
		if remove == nil {
			remove = func() error { return setLink(r.index, h.flags, h.mask, h.change) }
		}
		err := remove()
		if err != nil && !errors.Is(err, h.gone) {
			return fmt.Errorf("%s: %w", h.removal, err)
		}
	}
	return nil
}

// appendForwarding has an interface forward IPv4 packets that come in. Unlike by
// /proc/sys, this can be had where that is mounted read-only.
func appendForwarding(b *batch) {
	spec := b.nest(unix.IFLA_AF_SPEC)
	inet := b.nest(unix.AF_INET)
	settings := b.nest(unix.IFLA_INET_CONF)
	b.attr32(devconfForwarding, 1)
	b.endNest(settings)
	b.endNest(inet)
	b.endNest(spec)
}
