package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
)

// nfConn asks nf_tables. A library would do, but for what it costs: the kernel begins at a
// chain's first rule for each answer that it writes, so these are to be large.
type nfConn struct {
	fd  int
	seq uint32
	// most is how many bytes an answer may have, if set. One that has more is given up,
	// and then nothing else can be asked.
	most int
}

var errTooLarge = errors.New("the answer is too large")

const (
	nfAnswer   = 32 << 10 // the kernel writes no larger ones
	nfPatience = 10       // seconds
)

func dialNF() (*nfConn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	c := &nfConn{fd: fd}
	if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: nfPatience})
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *nfConn) close() { _ = unix.Close(c.fd) }

// nfMessage is an answer: a family, and attributes.
type nfMessage struct {
	family byte
	data   []byte
}

// ask returns the answers to a request: one, or as many as there are for a dump.
func (c *nfConn) ask(what uint16, dump bool, family byte, attributes ...[]byte) ([]nfMessage, error) {
	const header, nfgenmsg = unix.SizeofNlMsghdr, 4
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
	var all []nfMessage
	for interrupted, size := false, 0; ; {
		if c.most > 0 && size > c.most {
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
				return nil, errCutOff
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
					return nil, dataplane.ErrIncomplete
				}
				return all, nil
			case n >= header+nfgenmsg:
				all = append(all, nfMessage{m[header], m[header+nfgenmsg:]})
				if !dump {
					return all, nil
				}
			}
		}
	}
}

// generation returns the number of the last change of anything in nf_tables.
func (c *nfConn) generation() (uint32, error) {
	messages, err := c.ask(unix.NFT_MSG_GETGEN, false, unix.AF_UNSPEC)
	if err != nil || len(messages) == 0 {
		return 0, err
	}
	a, err := attributes(messages[0].data)
	return a.number(unix.NFTA_GEN_ID), err
}

// isAbsent reports whether the kernel lacks nf_tables.
func isAbsent(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// attrs are attributes by their types, each of which there is one of; nil for none. Those of
// higher types do not matter here.
type attrs [24][]byte

func attributes(b []byte) (a attrs, err error) {
	err = each(b, func(typ uint16, data []byte) {
		if int(typ) < len(a) {
			a[typ] = data
		}
	})
	return a, err
}

// each calls take for each attribute.
func each(b []byte, take func(typ uint16, data []byte)) error {
	const header, typeMask = 4, 0x3fff
	for len(b) >= header {
		n := int(binary.NativeEndian.Uint16(b))
		if n < header || n > len(b) {
			return fmt.Errorf("an attribute of nf_tables: %w", errCutOff)
		}
		take(binary.NativeEndian.Uint16(b[2:])&typeMask, b[header:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

func (a attrs) text(typ uint16) string { return strings.TrimRight(string(a[typ]), "\x00") }

func (a attrs) number(typ uint16) uint32 {
	if b := a[typ]; len(b) >= 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (a attrs) number64(typ uint16) uint64 {
	if b := a[typ]; len(b) >= 8 {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// attribute makes one.
func attribute(typ uint16, data []byte) []byte {
	b := make([]byte, 4, (4+len(data)+3)&^3)
	binary.NativeEndian.PutUint16(b, uint16(4+len(data)))
	binary.NativeEndian.PutUint16(b[2:], typ)
	b = append(b, data...)
	return b[:cap(b)]
}

// name is an attribute with a name.
func name(typ uint16, text string) []byte { return attribute(typ, append([]byte(text), 0)) }

// nest makes an attribute of others.
func nest(typ uint16, inner ...[]byte) []byte {
	var all []byte
	for _, b := range inner {
		all = append(all, b...)
	}
	return attribute(typ|unix.NLA_F_NESTED, all)
}
