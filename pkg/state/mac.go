package state

import (
	"fmt"
	"net"
)

// MAC is a 48-bit hardware address. Its text, in JSON too, is like
// "aa:bb:cc:dd:ee:ff".
type MAC [6]byte

// ParseMAC reads a 48-bit hardware address.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(MAC{}) {
		return MAC{}, fmt.Errorf("%q is not a MAC address of six bytes", s)
	}
	return MAC(hw), nil
}

// IsUnicast reports whether m can be the address of one interface: it is not
// zero, and neither a group nor broadcast address.
func (m MAC) IsUnicast() bool { return m != MAC{} && m[0]&1 == 0 }

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText returns the same text as String.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what ParseMAC reads.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}
