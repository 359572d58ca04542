package netfilter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ipTables is the kernel's ip_tables, the side of iptables-legacy. It keeps a table
// as one block, and hands out copies.
type ipTables struct {
	seed maphash.Seed
}

func newIPTablesKernel() ipTables { return ipTables{seed: maphash.MakeSeed()} }

// What getsockopt can be asked, and the layout of its answers.
const (
	soGetInfo    = 64
	soGetEntries = 65

	tableNameSize = 32
	infoSize      = 84
	infoHooks     = 36 // after the name and which hooks there are
	infoPolicies  = 56
	infoCount     = 76 // of entries, and then their size
	// An entry begins with what packets it is about; then comes where its target
	// is, and where the next entry, and its counters, which are left out here.
	entryTarget = 88
	entryNext   = 90
	entryFrom   = 92 // of use to the kernel itself
	entrySize   = 112
	// A target begins with its size and its name; then comes what it is about.
	targetName = 2
	targetData = 32
)

// entriesAt is where the entries may begin, behind a name and a size: they are
// aligned as 64-bit numbers are, which is less for a 386 program, if the kernel is
// one for both.
var entriesAt = [...]int{tableNameSize + 8, tableNameSize + 4}

// present returns the tables there are, of those that matter. The kernel would make
// one that it is asked about.
func present() (tables []string, err error) {
	text, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if err != nil && !errors.Is(err, os.ErrNotExist) { // it lacks ip_tables
		return nil, fmt.Errorf("listing the tables of ip_tables: %w", err)
	}
	for _, p := range places {
		if slices.Contains(strings.Fields(string(text)), p.table) {
			tables = append(tables, p.table)
		}
	}
	return tables, nil
}

// sum implements iptKernel.
func (k ipTables) sum() (sum iptSum, err error) {
	tables, err := present()
	if err != nil || len(tables) == 0 {
		return sum, err
	}
	var all maphash.Hash
	all.SetSeed(k.seed)
	for i, p := range places {
		if !slices.Contains(tables, p.table) {
			continue
		}
		info, entries, err := readEntries(p.table)
		if err != nil {
			return iptSum{}, fmt.Errorf("reading table %s of ip_tables: %w", p.table, err)
		}
		var shared maphash.Hash
		shared.SetSeed(k.seed)
		for _, part := range shape(info, entries, false, p.chain, oldChain) {
			_, _ = shared.Write(part)
		}
		sum.shared[i] = fmt.Sprintf("%x", shared.Sum64())
		// Where the chains begin, and where their policies are.
		sum.bare[i] = bytes.Equal(info[infoHooks:infoPolicies], info[infoPolicies:infoCount])
		_, _ = all.WriteString(p.table)
		for _, part := range shape(info, entries, p.whole, p.chain, oldChain) {
			_, _ = all.Write(part)
		}
	}
	sum.all = fmt.Sprintf("%x", all.Sum64())
	return sum, nil
}

// traces reports whether ip_tables has something that only flannel, or this program,
// writes.
func traces() bool {
	tables, _ := present()
	return slices.ContainsFunc(tables, func(table string) bool {
		_, entries, err := readEntries(table)
		if err != nil {
			return false
		}
		return slices.ContainsFunc([]string{postrtgChain, fwdChain, oldChain, masqComment, forwardComment}, func(name string) bool {
			return bytes.Contains(entries, []byte(name+"\x00"))
		})
	})
}

// sizes is what the kernel says about the tables but for what they hold; empty if
// it says nothing.
func sizes() string {
	var all strings.Builder
	tables, _ := present()
	for _, t := range tables {
		info, err := readInfo(t)
		if err == nil {
			all.Write(info)
		}
	}
	return all.String()
}

func readInfo(table string) ([]byte, error) {
	info := make([]byte, infoSize)
	copy(info, table)
	return info, ask(soGetInfo, info)
}

// readEntries returns what the kernel says about a table, and its entries.
func readEntries(table string) (info, entries []byte, err error) {
	for range 10 {
		if info, err = readInfo(table); err != nil {
			return nil, nil, err
		}
		size := binary.NativeEndian.Uint32(info[infoCount+4:])
		for _, at := range entriesAt {
			b := make([]byte, at+int(size))
			copy(b, table)
			binary.NativeEndian.PutUint32(b[tableNameSize:], size)
			err = ask(soGetEntries, b)
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
func ask(option int, b []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// shape returns the parts of a table's entries that say what the rules are of the chains
// that packets come to by themselves, and of those with a name, or of all: all but counters,
// and where in the table other chains are.
func shape(info, entries []byte, whole bool, names ...string) (parts [][]byte) {
	starts := make(map[int]bool) // of the chains at hooks
	for i := range unix.NF_INET_NUMHOOKS {
		starts[int(binary.NativeEndian.Uint32(info[infoHooks+4*i:]))] = true
	}
	called := make(map[int]string) // chains by where their rules begin
	for at, e := range entriesOf(entries) {
		if name := e.chain(); name != "" {
			called[at+len(e)] = name
		}
	}
	inside := false
	for at, e := range entriesOf(entries) {
		if name := e.chain(); name != "" {
			inside = slices.Contains(names, name)
		} else if starts[at] {
			inside = true
		}
		if !inside && !whole {
			continue
		}
		end := len(e)
		if to, ok := called[e.jump()]; ok {
			end = e.target() + targetData
			parts = append(parts, []byte(to))
		}
		parts = append(parts, e[:entryFrom], e[entrySize:end])
	}
	return parts
}

// entry is a rule, or the head of a chain.
type entry []byte

// entriesOf yields the entries of a table, and where they are.
func entriesOf(b []byte) iter.Seq2[int, entry] {
	return func(yield func(int, entry) bool) {
		for at := 0; at+entrySize <= len(b); {
			next := int(binary.NativeEndian.Uint16(b[at+entryNext:]))
			if next < entrySize || at+next > len(b) {
				return
			}
			e := entry(b[at : at+next])
			if t := e.target(); t < entrySize || t+targetData > next || !yield(at, e) {
				return
			}
			at += next
		}
	}
}

func (e entry) target() int { return int(binary.NativeEndian.Uint16(e[entryTarget:])) }

func (e entry) targetIs(name string) bool {
	return unix.ByteSliceToString(e[e.target()+targetName:e.target()+targetData]) == name
}

// chain returns the name of the chain that the entry is the head of, if it is one.
func (e entry) chain() string {
	if !e.targetIs("ERROR") {
		return ""
	}
	return unix.ByteSliceToString(e[e.target()+targetData:])
}

// jump returns where a rule leads to, in the table; -1 if nowhere there.
func (e entry) jump() int {
	if data := e[e.target()+targetData:]; e.targetIs("") && len(data) >= 4 {
		return int(int32(binary.NativeEndian.Uint32(data)))
	}
	return -1
}
