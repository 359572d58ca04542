package netfilter

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"flanneld/pkg/nfdump"
)

// ipTables is the kernel's ip_tables, or ip6_tables: the side of iptables-legacy.
type ipTables struct {
	*family
	seed maphash.Seed
}

func newIPTablesKernel(f *family) ipTables { return ipTables{f, maphash.MakeSeed()} }

// present returns the tables there are, of those that matter.
func (f *family) present() (tables []string, err error) {
	all, err := nfdump.XTables(f.Family)
	return slices.DeleteFunc(all, func(name string) bool {
		return !slices.ContainsFunc(places[:], func(p place) bool { return p.table == name })
	}), err
}

// digest implements iptKernel.
func (k ipTables) digest() (digest iptDigest, err error) {
	tables, err := k.present()
	if err != nil || len(tables) == 0 {
		return digest, err
	}
	var all maphash.Hash
	all.SetSeed(k.seed)
	for i, p := range places {
		if !slices.Contains(tables, p.table) {
			continue
		}
		t, err := nfdump.ReadXTable(k.Family, p.table)
		if err != nil {
			return iptDigest{}, err
		}
		var shared maphash.Hash
		shared.SetSeed(k.seed)
		digest.bare[i] = true
		_, _ = all.WriteString(p.table)
		for _, c := range t.Chains {
			if p.matters(c.Name) {
				addXChain(&all, t, c)
			}
			if slices.Contains(p.chains(), c.Name) {
				addXChain(&shared, t, c)
				digest.bare[i] = digest.bare[i] && len(c.Entries) == 0
			}
		}
		digest.shared[i] = fmt.Sprintf("%x", shared.Sum64())
	}
	digest.all = fmt.Sprintf("%x", all.Sum64())
	return digest, nil
}

// addXChain adds to a digest what a chain has.
func addXChain(h *maphash.Hash, t *nfdump.XTable, c *nfdump.XChain) {
	_, _ = fmt.Fprintln(h, c.Name, len(c.Entries))
	for _, e := range append(slices.Clone(c.Entries), c.Policy) {
		for _, part := range t.Shape(e) {
			_, _ = h.Write(part)
		}
	}
}

// traces reports whether ip_tables has something that only flannel, or this program,
// writes.
func (f *family) traces() bool {
	tables, _ := f.present()
	return slices.ContainsFunc(tables, func(table string) bool {
		t, err := nfdump.ReadXTable(f.Family, table)
		return err == nil && slices.ContainsFunc(t.Chains, func(c *nfdump.XChain) bool {
			return slices.Contains([]string{postrtgChain, fwdChain, oldChain}, c.Name) ||
				slices.ContainsFunc(c.Entries, func(e nfdump.XEntry) bool {
					return bytes.Contains(e.Data, []byte(masqComment+"\x00")) || bytes.Contains(e.Data, []byte(forwardComment+"\x00"))
				})
		})
	})
}

// sizes is what the kernel says about the tables but for what they hold; empty if
// it says nothing.
func (f *family) sizes() string {
	var all strings.Builder
	tables, _ := f.present()
	for _, t := range tables {
		info, err := nfdump.XInfo(f.Family, t)
		if err == nil {
			all.Write(info)
		}
	}
	return all.String()
}
