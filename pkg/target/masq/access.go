package masq

import (
	"errors"

	"github.com/mdlayher/netlink"
)

// What follows lets pkg/firewall read the rules of others as this package reads ours.

// AskNFTables calls ask with a connection to nf_tables. what is for the error.
func AskNFTables(what string, ask func(*netlink.Conn) error) error { return nfAsk(what, ask) }

// NFTGeneration returns the number of the last change of anything in nf_tables.
func NFTGeneration(c *netlink.Conn) (uint32, error) { return nfGeneration(c) }

// GetNFTables asks for what there is of a kind, by the names of its table and chain. It
// returns target.ErrIncomplete if the answer was interrupted by changes.
func GetNFTables(c *netlink.Conn, what uint16, family byte, names ...string) ([]netlink.Message, error) {
	return nfGet(c, what, family, names...)
}

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

// IsAbsent reports whether an error says that this host lacks what was asked.
func IsAbsent(err error) bool { return errors.Is(err, errAbsent) }
