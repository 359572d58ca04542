package masq

// What follows lets pkg/firewall read the rules of others as this package reads ours.

// IsOurs reports whether a table of nf_tables is this program's.
func IsOurs(family byte, table string) bool {
	for _, f := range nfFamilies {
		if f.number == family && f.table == table {
			return true
		}
	}
	return false
}

// IPTablesEntries returns what ip_tables says about a table, and its entries.
func IPTablesEntries(table string) (info, entries []byte, err error) { return readEntries(table) }
