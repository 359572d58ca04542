// Package nfdump reads which packet rules a kernel has: those of nf_tables by netlink, and
// those of ip_tables by getsockopt. It understands as little of them as it takes to list them.
package nfdump

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
)

// Conn asks nf_tables. A library would do, but for what it costs: the kernel begins at a
// chain's first rule for each answer that it writes, so these are to be large.
type Conn struct {
	fd  int
	seq uint32
	// Most is how many bytes an answer may have, if set. One that has more is given up,
	// and then nothing else can be asked.
	Most int
}

// ErrChanging is in the errors of what was read while others changed it.
var ErrChanging = dataplane.ErrIncomplete

// ErrAbsent is in the errors of a kernel without nf_tables.
var ErrAbsent = errors.New("the kernel has no nf_tables")

// ErrCutOff is in the errors of what cannot be decoded.
var ErrCutOff = errors.New("an entry is cut off")

var errTooLarge = errors.New("the answer is too large")

const (
	nfAnswer   = 32 << 10 // the kernel writes no larger ones
	nfPatience = 10       // seconds
	nfgenmsg   = 4        // bytes before the attributes
)

// Dial returns a connection to the network namespace of the calling thread.
func Dial() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		err = fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	if err != nil {
		return nil, err
	}
	c := &Conn{fd: fd}
	if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: nfPatience})
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() { _ = unix.Close(c.fd) }

// Message is an answer: a family, and attributes.
type Message struct {
	Family byte
	Data   []byte
}

// Ask returns the answers to a request: one, or as many as there are for a dump.
func (c *Conn) Ask(what uint16, dump bool, family byte, attributes ...[]byte) ([]Message, error) {
	const header = unix.SizeofNlMsghdr
	c.seq++
	flags := uint16(unix.NLM_F_REQUEST)
	if dump {
		flags |= unix.NLM_F_DUMP
	}
	b := make([]byte, header, header+nfgenmsg)
	b = append(b, family, unix.NFNETLINK_V0, 0, 0)
	for _, a := range attributes {
		b = append(b, a...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.NFNL_SUBSYS_NFTABLES<<8|what)
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.NativeEndian.PutUint32(b[8:], c.seq)
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var all []Message
	for interrupted, size := false, 0; ; {
		if c.Most > 0 && size > c.Most {
			return nil, errTooLarge
		}
		b := make([]byte, nfAnswer)
		n, _, err := unix.Recvfrom(c.fd, b, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		}
		size += n
		for b = b[:n]; len(b) >= header; {
			n := int(binary.NativeEndian.Uint32(b))
			if n < header || n > len(b) {
				return nil, ErrCutOff
			}
			m := b[:n]
			b = b[min((n+3)&^3, len(b)):]
			if binary.NativeEndian.Uint32(m[8:]) != c.seq {
				continue // to a request that was given up
			}
			interrupted = interrupted || binary.NativeEndian.Uint16(m[6:])&unix.NLM_F_DUMP_INTR != 0
			switch typ := binary.NativeEndian.Uint16(m[4:]); {
			case (typ == unix.NLMSG_ERROR || typ == unix.NLMSG_DONE) && n >= header+4:
				if errno := int32(binary.NativeEndian.Uint32(m[header:])); errno < 0 {
					return nil, unix.Errno(-errno)
				}
				if interrupted {
					return nil, ErrChanging
				}
				return all, nil
			case n >= header+nfgenmsg:
				all = append(all, Message{m[header], m[header+nfgenmsg:]})
				if !dump {
					return all, nil
				}
			}
		}
	}
}

// Generation returns the number of the last change of anything in nf_tables.
func (c *Conn) Generation() (uint32, error) {
	messages, err := c.Ask(unix.NFT_MSG_GETGEN, false, unix.AF_UNSPEC)
	if err != nil || len(messages) == 0 {
		return 0, err
	}
	a, err := Attributes(messages[0].Data)
	return a.Number(unix.NFTA_GEN_ID), err
}

// Attempts is how often rules are read that change meanwhile.
const Attempts = 5

// Consistently calls read, again if anything in nf_tables changed meanwhile. ErrChanging is in
// the error if it always did.
func (c *Conn) Consistently(ctx context.Context, read func() error) (err error) {
	for range Attempts {
		before, err := c.Generation()
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w: %w", ErrAbsent, err)
		}
		if err != nil {
			return err
		}
		err = read()
		after, genErr := c.Generation()
		if genErr == nil && after != before {
			genErr = ErrChanging
		}
		if err = errors.Join(genErr, err); !errors.Is(err, ErrChanging) || ctx.Err() != nil {
			return err
		}
	}
	return ErrChanging
}

// Attrs are attributes by their types, each of which there is one of; nil for none. Those of
// higher types do not matter here.
type Attrs [24][]byte

// Attributes decodes what is one after the other in b.
func Attributes(b []byte) (a Attrs, err error) {
	err = Each(b, func(typ uint16, data []byte) {
		if int(typ) < len(a) {
			a[typ] = data
		}
	})
	return a, err
}

// Each calls take for each attribute.
func Each(b []byte, take func(typ uint16, data []byte)) error {
	const header, typeMask = 4, 0x3fff
	for len(b) >= header {
		n := int(binary.NativeEndian.Uint16(b))
		if n < header || n > len(b) {
			return fmt.Errorf("an attribute of nf_tables: %w", ErrCutOff)
		}
		take(binary.NativeEndian.Uint16(b[2:])&typeMask, b[header:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// Text returns a name.
func (a Attrs) Text(typ uint16) string { return strings.TrimRight(string(a[typ]), "\x00") }

// Number returns a number of 32 bits, 0 for none.
func (a Attrs) Number(typ uint16) uint32 {
	if b := a[typ]; len(b) >= 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Attribute makes one.
func Attribute(typ uint16, data []byte) []byte {
	b := make([]byte, 4, (4+len(data)+3)&^3)
	binary.NativeEndian.PutUint16(b, uint16(4+len(data)))
	binary.NativeEndian.PutUint16(b[2:], typ)
	b = append(b, data...)
	return b[:cap(b)]
}

// Name is an attribute with a name.
func Name(typ uint16, text string) []byte { return Attribute(typ, append([]byte(text), 0)) }

// Nest makes an attribute of others.
func Nest(typ uint16, inner ...[]byte) []byte {
	var all []byte
	for _, b := range inner {
		all = append(all, b...)
	}
	return Attribute(typ|unix.NLA_F_NESTED, all)
}

// Data returns the value in an attribute, which may be none.
func Data(b []byte) []byte {
	a, err := Attributes(b)
	if err != nil {
		return nil
	}
	return a[unix.NFTA_DATA_VALUE]
}
