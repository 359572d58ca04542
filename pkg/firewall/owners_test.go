package firewall

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// Who keeps rules is known by the names of its chains, in nf_tables and in ip_tables.
func TestOwners(t *testing.T) {
	rs := newRuleset(nil)
	if got := rs.Owners(); len(got) > 0 {
		t.Errorf("without chains: %v", got)
	}
	for _, k := range []chainKey{
		{unix.NFPROTO_INET, "firewalld", "filter_INPUT"},
		{unix.NFPROTO_INET, "mine", "input"},
		{unix.NFPROTO_IPV4, "filter", "DOCKER-USER"},
		{unix.NFPROTO_IPV4, "nat", "DOCKER"},
	} {
		rs.chains[k] = &chain{family: k.family, table: k.table, name: k.name}
	}
	rs.legacy[&chain{family: unix.NFPROTO_IPV4, table: "filter", name: "ufw-before-input"}] = legacyChain{}
	if got := rs.Owners(); !slices.Equal(got, []Owner{Docker, Firewalld, UFW}) {
		t.Errorf("got %v", got)
	}
}
