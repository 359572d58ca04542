package netfilter

import "slices"

// What follows lets pkg/firewall read the rules of others as this package reads ours.

// IsOurs reports whether a chain of nf_tables is this program's. Others may hook some of
// their own into our tables.
func IsOurs(family byte, table, chain string) bool {
	return slices.ContainsFunc(nfFamilies, func(f nfFamily) bool { return f.number == family && f.table == table }) &&
		slices.ContainsFunc(nfOurChains, func(c nfOurChain) bool { return c.name == chain })
}

// IPTablesEntries returns what ip_tables says about a table, and its entries.
func IPTablesEntries(table string) (info, entries []byte, err error) { return readEntries(table) }
