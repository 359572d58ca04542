package nfdump

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

// What getsockopt can be asked about a table of ip_tables, and the layout of its answers.
const (
	soGetInfo    = 64
	soGetEntries = 65

	tableNameSize  = 32
	infoValidHooks = 32
	infoHooks      = 36
	infoPolicies   = 56 // where those of the hooks are
	infoCount      = 76 // of entries, and then their size
	infoSize       = 84

	// An entry begins with what packets it is about; behind that come where its target is and
	// where the next entry is, what is of use to the kernel itself, counters, and its matches.
	entryTarget = 4
	entryNext   = 6
	entryFrom   = 8
)

// xFamily is what differs between ip_tables and ip6_tables.
type xFamily struct {
	domain, level int
	names         string // the file that lists the tables
	header        int    // how long is what says which packets an entry is about
	// matches is where the matches of an entry may begin: counters are aligned as 64-bit
	// numbers are.
	matches []int
}

var xFamilies = map[ip.Family]xFamily{
	ip.V4: {unix.AF_INET, unix.SOL_IP, "ip_tables_names", 84, []int{112}},
	ip.V6: {unix.AF_INET6, unix.SOL_IPV6, "ip6_tables_names", 136, []int{168, 164}},
}

// xName is what the kernel calls the tables of a family.
func xName(f ip.Family) string {
	if f == ip.V6 {
		return "ip6_tables"
	}
	return "ip_tables"
}

// The layout of a match or a target, which both begin with their size.
const (
	PartName = 2
	PartRev  = 31
	PartHead = 32
)

// TableNames are those of the tables of iptables, in either variant.
var TableNames = []string{"raw", "mangle", "nat", "filter", "security"}

// HookChains are the names of the chains at hooks.
var HookChains = [unix.NF_INET_NUMHOOKS]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// entriesAt is where the entries may begin, behind a name and a size: they are
// aligned as 64-bit numbers are, which is less for a 386 program, if the kernel is
// one for both.
var entriesAt = [...]int{tableNameSize + 8, tableNameSize + 4}

// XTable is a table of ip_tables, or of ip6_tables. The kernel keeps it as one block, and hands
// out copies.
type XTable struct {
	Chains []*XChain
	starts map[int]*XChain // by where their rules begin
}

// XChain is a chain of ip_tables.
type XChain struct {
	Name    string
	Hook    int // -1 if packets come to it by jumps alone
	Entries []XEntry
	Policy  XEntry // what becomes of packets behind its rules
}

// XEntry is a rule or a policy.
type XEntry struct {
	Data    []byte
	Matches int // where they begin
	at      int
	header  int
}

// Header says which packets it is about.
func (e XEntry) Header() []byte { return e.Data[:e.header] }

// Target is where its target begins.
func (e XEntry) Target() int { return int(binary.NativeEndian.Uint16(e.Data[e.header+entryTarget:])) }

// TargetName is the name of its target; empty for a verdict.
func (e XEntry) TargetName() string { return PartNameOf(e.Data[e.Target():]) }

// PartNameOf returns the name of a match or a target.
func PartNameOf(b []byte) string { return unix.ByteSliceToString(b[PartName:PartRev]) }

// Verdict is what an entry without a named target says: where it goes on if that is in the
// table, else the negative number of a verdict.
func (e XEntry) Verdict() (v int, ok bool) {
	data := e.Data[e.Target()+PartHead:]
	if e.TargetName() != "" || len(data) < 4 {
		return 0, false
	}
	return int(int32(binary.NativeEndian.Uint32(data))), true
}

// GoesOn reports whether a rule has no target.
func (e XEntry) GoesOn() bool {
	v, ok := e.Verdict()
	return ok && v == e.at+len(e.Data)
}

// To returns the chain that a rule leads to; nil if to none.
func (t *XTable) To(e XEntry) *XChain {
	if v, ok := e.Verdict(); ok && v >= 0 && !e.GoesOn() {
		return t.starts[v]
	}
	return nil
}

// Shape returns the parts of an entry that say what it does: all but counters, and where in
// the table other chains are.
func (t *XTable) Shape(e XEntry) [][]byte {
	from := e.header + entryFrom
	if to := t.To(e); to != nil {
		return [][]byte{e.Data[:from], e.Data[e.Matches : e.Target()+PartHead], []byte(to.Name)}
	}
	if e.GoesOn() {
		return [][]byte{e.Data[:from], e.Data[e.Matches : e.Target()+PartHead]}
	}
	return [][]byte{e.Data[:from], e.Data[e.Matches:]}
}

// XTables returns the names of a family's tables that there are. The kernel would make one that
// it is asked about.
func XTables(f ip.Family) ([]string, error) {
	text, err := os.ReadFile("/proc/thread-self/net/" + xFamilies[f].names)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // the kernel lacks them
	}
	if err != nil {
		return nil, fmt.Errorf("listing the tables of %s: %w", xName(f), err)
	}
	return strings.Fields(string(text)), nil
}

// XInfo is what the kernel says about a table but for what it holds: it has other sizes after
// most changes.
func XInfo(f ip.Family, table string) ([]byte, error) {
	info := make([]byte, infoSize)
	copy(info, table)
	return info, xFamilies[f].ask(soGetInfo, info)
}

// ReadXTable reads a table.
func ReadXTable(f ip.Family, table string) (*XTable, error) {
	info, entries, err := readXTable(f, table)
	if err != nil {
		return nil, fmt.Errorf("reading table %s of %s: %w", table, xName(f), err)
	}
	t, err := xFamilies[f].decode(info, entries)
	if err != nil {
		return nil, fmt.Errorf("decoding table %s of %s: %w", table, xName(f), err)
	}
	return t, nil
}

func readXTable(f ip.Family, table string) (info, entries []byte, err error) {
	for range 10 {
		if info, err = XInfo(f, table); err != nil {
			return nil, nil, err
		}
		size := binary.NativeEndian.Uint32(info[infoCount+4:])
		for _, at := range entriesAt {
			b := make([]byte, at+int(size))
			copy(b, table)
			binary.NativeEndian.PutUint32(b[tableNameSize:], size)
			err = xFamilies[f].ask(soGetEntries, b)
			entries = b[at:]
			if !errors.Is(err, unix.EINVAL) {
				break
			}
		}
		if !errors.Is(err, unix.EAGAIN) { // another size by now
			break
		}
	}
	return info, entries, err
}

// ask has getsockopt fill b.
func (x xFamily) ask(option int, b []byte) error {
	fd, err := unix.Socket(x.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(x.level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (x xFamily) decode(info, b []byte) (*XTable, error) {
	if len(info) < infoSize {
		return nil, ErrCutOff
	}
	number := func(at int) int { return int(binary.NativeEndian.Uint32(info[at:])) }
	t := &XTable{starts: make(map[int]*XChain)}
	matches := x.matches[0]
	for hook, name := range HookChains {
		if number(infoValidHooks)&(1<<hook) == 0 {
			continue
		}
		t.starts[number(infoHooks+4*hook)] = &XChain{Name: name, Hook: hook}
		// A policy has no matches.
		if at := number(infoPolicies + 4*hook); at >= 0 && at+x.header+entryNext <= len(b) {
			policy := XEntry{Data: b[at:], header: x.header}
			if slices.Contains(x.matches, policy.Target()) {
				matches = policy.Target()
			}
		}
	}
	for at := 0; at < len(b); {
		if at+matches > len(b) {
			return nil, ErrCutOff
		}
		e := XEntry{Data: b[at:], Matches: matches, at: at, header: x.header}
		size := int(binary.NativeEndian.Uint16(e.Data[x.header+entryNext:]))
		if target := e.Target(); target < matches || target+PartHead > size || size > len(e.Data) {
			return nil, ErrCutOff
		}
		e.Data = e.Data[:size]
		if c := t.starts[at]; c != nil {
			t.Chains = append(t.Chains, c)
		}
		at += size
		switch n := len(t.Chains); {
		case e.TargetName() == "ERROR": // the head of a chain, or the end of the table
			t.starts[at] = &XChain{Name: unix.ByteSliceToString(e.Data[e.Target()+PartHead:]), Hook: -1}
		case n > 0:
			t.Chains[n-1].Entries = append(t.Chains[n-1].Entries, e)
		}
	}
	for _, c := range t.Chains {
		n := len(c.Entries)
		if n == 0 {
			return nil, ErrCutOff
		}
		c.Entries, c.Policy = c.Entries[:n-1], c.Entries[n-1]
	}
	return t, nil
}
