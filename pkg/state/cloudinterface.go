package state

import (
	"fmt"
	"net/netip"
)

// CloudInterface is the network interface with an address of this host, set to
// pass packets that are neither from nor to its own addresses.
type CloudInterface struct {
	Host netip.Addr
}

// Key is the address.
func (i CloudInterface) Key() Key {
	return Key{Kind: KindCloudInterface, Prefix: netip.PrefixFrom(i.Host, i.Host.BitLen())}
}

func (i CloudInterface) String() string {
	return fmt.Sprintf("network interface with the address %s without source/destination check", i.Host)
}
