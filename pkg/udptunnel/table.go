package udptunnel

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// Table says which host has which subnet of a network. It is read without locks while
// it is changed. Nearly all subnets have one length, so the address itself is the index;
// blocks without a subnet take no memory. For each other length there is a table of its
// own. Subnets do not overlap.
type Table struct {
	network netip.Prefix
	bits    int
	base    uint32
	size    uint32 // how many subnets fit
	shift   uint   // from an address to the number of its subnet

	blocks []atomic.Pointer[block]
	others atomic.Pointer[[]*Table] // of other lengths

	mu  sync.Mutex // of those who change it
	len int

	hostsMu sync.RWMutex
	hosts   map[uint32]int // how many subnets each host has
}

// block holds the addresses of some hosts in a row. 0 is none.
type block [1 << blockBits]atomic.Uint32

const blockBits = 10

// NewTable makes a table for the subnets of an IPv4 network that are mostly of one
// length.
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
	if err := t.check(subnet, peer); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.enter(subnet, addrToUint(peer))
}

// Delete takes a subnet out, if it is there.
func (t *Table) Delete(subnet netip.Prefix) error {
	if err := t.accepts(subnet); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.enter(subnet, 0)
}

// Replace makes the table hold just what is given, entry by entry: a subnet that
// keeps its host is never without it. If an entry is bad nothing changes.
func (t *Table) Replace(all map[netip.Prefix]netip.Addr) error {
	for subnet, peer := range all {
		if err := t.check(subnet, peer); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for subnet := range t.All() {
		if _, ok := all[subnet]; !ok {
			if err := t.enter(subnet, 0); err != nil {
				return err
			}
		}
	}
	for subnet, peer := range all {
		if err := t.enter(subnet, addrToUint(peer)); err != nil {
			return err
		}
	}
	return nil
}

// enter sets or, where peer is 0, takes out an entry that is accepted, with the lock
// held.
func (t *Table) enter(subnet netip.Prefix, peer uint32) error {
	of := t.ofLength(subnet.Bits())
	if of == nil {
		if peer == 0 {
			return nil
		}
		var err error
		if of, err = NewTable(t.network, subnet.Bits()); err != nil {
			return err
		}
		others := append(slices.Clone(t.allOthers()), of)
		t.others.Store(&others)
	}
	of.set((addrToUint(subnet.Addr())-of.base)>>of.shift, peer)
	return nil
}

func (t *Table) allOthers() []*Table {
	if others := t.others.Load(); others != nil {
		return *others
	}
	return nil
}

// ofLength returns the table for subnets of a length, or nil.
func (t *Table) ofLength(bits int) *Table {
	if bits == t.bits {
		return t
	}
	for _, o := range t.allOthers() {
		if o.bits == bits {
			return o
		}
	}
	return nil
}

// Len is how many subnets the table holds.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.len
	for _, o := range t.allOthers() {
		n += o.len
	}
	return n
}

// All yields what the table holds, in the order of the subnets of each length.
func (t *Table) All() iter.Seq2[netip.Prefix, netip.Addr] {
	return func(yield func(netip.Prefix, netip.Addr) bool) {
		for i, peer := range t.entries() {
			if !yield(netip.PrefixFrom(uintToAddr(t.base+i<<t.shift), t.bits), uintToAddr(peer)) {
				return
			}
		}
		for _, o := range t.allOthers() {
			for subnet, peer := range o.All() {
				if !yield(subnet, peer) {
					return
				}
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
	if b := t.blocks[i>>blockBits].Load(); b != nil {
		if peer := b[i&(1<<blockBits-1)].Load(); peer != 0 {
			return peer
		}
	}
	for _, o := range t.allOthers() {
		if peer := o.lookup(addr); peer != 0 {
			return peer
		}
	}
	return 0
}

// inNetwork tells whether an address is one of the network's.
func (t *Table) inNetwork(addr uint32) bool { return (addr-t.base)>>t.shift < t.size }

// hasPeer reports whether a host has a subnet.
func (t *Table) hasPeer(peer uint32) bool {
	t.hostsMu.RLock()
	has := t.hosts[peer] > 0
	t.hostsMu.RUnlock()
	return has || slices.ContainsFunc(t.allOthers(), func(o *Table) bool { return o.hasPeer(peer) })
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

// accepts returns why a subnet can't be in the table.
func (t *Table) accepts(subnet netip.Prefix) error {
	if !subnet.IsValid() || !subnet.Addr().Is4() || subnet != subnet.Masked() || subnet.Bits() <= t.network.Bits() && subnet.Bits() != t.bits ||
		!t.network.Contains(subnet.Addr()) {
		return fmt.Errorf("%s is not a subnet of %s", subnet, t.network)
	}
	return nil
}

func (t *Table) check(subnet netip.Prefix, peer netip.Addr) error {
	if err := t.accepts(subnet); err != nil {
		return err
	}
	if !peer.Is4() || peer.IsUnspecified() {
		return fmt.Errorf("the host of %s: %s is no IPv4 address of a host", subnet, peer)
	}
	return nil
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
