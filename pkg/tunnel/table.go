package tunnel

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Table says which host has which subnet. It is read without locks while it is
// changed. All subnets have one length and lie in one network, so the address
// itself is the index; blocks without a subnet take no memory.
type Table struct {
	network netip.Prefix
	bits    int
	base    uint32
	size    uint32 // how many subnets fit
	shift   uint   // from an address to the number of its subnet

	blocks []atomic.Pointer[block]

	mu  sync.Mutex // of those who change it
	len int

	hostsMu sync.RWMutex
	hosts   map[uint32]int // how many subnets each host has
}

// block holds the addresses of some hosts in a row. 0 is none.
type block [1 << blockBits]atomic.Uint32

const blockBits = 10

// NewTable makes a table for the subnets of a length in an IPv4 network.
func NewTable(network netip.Prefix, bits int) (*Table, error) {
	if !network.IsValid() || !network.Addr().Is4() || network != network.Masked() {
		return nil, fmt.Errorf("%s is not an IPv4 network", network)
	}
	if bits < network.Bits() || bits > 32 || bits-network.Bits() > 31 {
		return nil, fmt.Errorf("subnets of length %d don't fit in %s", bits, network)
	}
	t := &Table{
		network: network,
		bits:    bits,
		base:    addrToUint(network.Addr()),
		size:    1 << (bits - network.Bits()),
		shift:   uint(32 - bits),
		hosts:   make(map[uint32]int),
	}
	t.blocks = make([]atomic.Pointer[block], (t.size-1)>>blockBits+1)
	return t, nil
}

// Set enters the host that has a subnet, in place of the former one.
func (t *Table) Set(subnet netip.Prefix, peer netip.Addr) error {
	i, err := t.index(subnet)
	if err != nil {
		return err
	}
	if !peer.Is4() || peer.IsUnspecified() {
		return fmt.Errorf("the host of %s: %s is no IPv4 address of a host", subnet, peer)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(i, addrToUint(peer))
	return nil
}

// Delete takes a subnet out, if it is there.
func (t *Table) Delete(subnet netip.Prefix) error {
	i, err := t.index(subnet)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(i, 0)
	return nil
}

// Replace makes the table hold just what is given, entry by entry: a subnet that
// keeps its host is never without it. If an entry is bad nothing changes.
func (t *Table) Replace(all map[netip.Prefix]netip.Addr) error {
	wanted := make(map[uint32]uint32, len(all))
	for subnet, peer := range all {
		i, err := t.index(subnet)
		if err != nil {
			return err
		}
		if !peer.Is4() || peer.IsUnspecified() {
			return fmt.Errorf("the host of %s: %s is no IPv4 address of a host", subnet, peer)
		}
		wanted[i] = addrToUint(peer)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.entries() {
		if _, ok := wanted[i]; !ok {
			t.set(i, 0)
		}
	}
	for i, peer := range wanted {
		t.set(i, peer)
	}
	return nil
}

// Len is how many subnets the table holds.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.len
}

// All yields what the table holds, in the order of the subnets.
func (t *Table) All() iter.Seq2[netip.Prefix, netip.Addr] {
	return func(yield func(netip.Prefix, netip.Addr) bool) {
		for i, peer := range t.entries() {
			if !yield(netip.PrefixFrom(uintToAddr(t.base+i<<t.shift), t.bits), uintToAddr(peer)) {
				return
			}
		}
	}
}

// lookup returns the host that has the subnet of an address, 0 if there is none.
func (t *Table) lookup(addr uint32) uint32 {
	i := (addr - t.base) >> t.shift
	if i >= t.size {
		return 0
	}
	b := t.blocks[i>>blockBits].Load()
	if b == nil {
		return 0
	}
	return b[i&(1<<blockBits-1)].Load()
}

// inNetwork tells whether an address is one of the network's.
func (t *Table) inNetwork(addr uint32) bool { return (addr-t.base)>>t.shift < t.size }

// hasPeer reports whether a host has a subnet.
func (t *Table) hasPeer(peer uint32) bool {
	t.hostsMu.RLock()
	defer t.hostsMu.RUnlock()
	return t.hosts[peer] > 0
}

func (t *Table) entries() iter.Seq2[uint32, uint32] {
	return func(yield func(uint32, uint32) bool) {
		for n := range t.blocks {
			b := t.blocks[n].Load()
			if b == nil {
				continue
			}
			for i := range b {
				peer := b[i].Load()
				if peer != 0 && !yield(uint32(n<<blockBits+i), peer) {
					return
				}
			}
		}
	}
}

// set changes one entry, with the lock held.
func (t *Table) set(i, peer uint32) {
	b := t.blocks[i>>blockBits].Load()
	if b == nil {
		if peer == 0 {
			return
		}
		b = new(block)
		t.blocks[i>>blockBits].Store(b)
	}
	old := b[i&(1<<blockBits-1)].Swap(peer)
	if old == 0 && peer != 0 {
		t.len++
	}
	if old != 0 && peer == 0 {
		t.len--
	}
	if old != peer {
		t.countHosts(old, peer)
	}
}

// countHosts notes that a subnet is no longer at old but at now; 0 is none.
func (t *Table) countHosts(old, now uint32) {
	t.hostsMu.Lock()
	defer t.hostsMu.Unlock()
	if now != 0 {
		t.hosts[now]++
	}
	if old == 0 {
		return
	}
	if t.hosts[old]--; t.hosts[old] == 0 {
		delete(t.hosts, old)
	}
}

func (t *Table) index(subnet netip.Prefix) (uint32, error) {
	if !subnet.IsValid() || !subnet.Addr().Is4() || subnet.Bits() != t.bits ||
		subnet != subnet.Masked() || !t.network.Contains(subnet.Addr()) {
		return 0, fmt.Errorf("%s is not a subnet of %s with length %d", subnet, t.network, t.bits)
	}
	return (addrToUint(subnet.Addr()) - t.base) >> t.shift, nil
}

func addrToUint(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func uintToAddr(v uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}
