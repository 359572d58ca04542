package firewall

import (
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"flanneld/pkg/nfdump"
	"flanneld/pkg/state"
)

// Owner is a program whose rules are known by the names of its chains; empty if none is.
type Owner string

// The owners.
const (
	Firewalld Owner = "firewalld"
	UFW       Owner = "ufw"
	Docker    Owner = "docker"
)

// describe tells where a packet is dropped.
func (rs *Ruleset) describe(p place, base *chain, s stage) Drop {
	d := Drop{
		Variant: state.NFTables, Table: quoted(base.table), Base: quoted(base.name), Chain: quoted(base.name), Hook: s.name(),
		Family: map[byte]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge"}[base.family],
		Number: p.rule, Reject: p.reject,
	}
	if p.chain != nil {
		d.Chain = quoted(p.chain.name)
	}
	var names []string
	_, isLegacy := rs.legacy[base]
	switch {
	case isLegacy:
		d.Variant = state.IPTablesLegacy
		for c := range rs.legacy {
			if c.family == base.family && c.table == base.table {
				names = append(names, c.name)
			}
		}
	default:
		native := rs.native[chainKey{base.family, base.table, ""}]
		if numbered(base.family) != nil && slices.Contains(nfdump.TableNames, base.table) && slices.Contains(nfdump.HookChains[:], base.name) && !native {
			d.Variant = state.IPTablesNFT
		}
		for k := range rs.chains {
			if k.family == base.family && k.table == base.table {
				names = append(names, k.name)
			}
		}
	}
	d.Owner = ownerOf(d, names)
	return d
}

// ownerOf finds the owner by the names of all chains in the table.
func ownerOf(d Drop, chains []string) Owner {
	begins := func(prefix string) bool {
		return slices.ContainsFunc(chains, func(c string) bool { return strings.HasPrefix(c, prefix) })
	}
	switch {
	case d.Variant == state.NFTables && d.Table == "firewalld":
		return Firewalld
	case d.Variant == state.NFTables:
		return ""
	case strings.HasPrefix(d.Chain, "ufw-"), strings.HasPrefix(d.Chain, "ufw6-"), d.Number == 0 && (begins("ufw-before-") || begins("ufw6-before-")):
		return UFW
	case strings.HasPrefix(d.Chain, "DOCKER"), d.Number == 0 && d.Base == "FORWARD" && begins("DOCKER"):
		return Docker
	case d.Number != 0 && begins("INPUT_ZONES") && (slices.Contains(nfdump.HookChains[:], d.Chain) || zoneOf(d.Chain) != "" || strings.Contains(d.Chain, "_ZONES")):
		return Firewalld
	}
	return ""
}

// zoneOf returns the zone of firewalld whose chain it is; empty if it is no zone's.
func zoneOf(chain string) string {
	name := strings.TrimPrefix(chain, "filter_")
	for _, prefix := range []string{"IN_", "FWD_", "FWDI_", "FWDO_"} {
		zone, is := strings.CutPrefix(name, prefix)
		if !is || strings.HasPrefix(zone, "policy_") {
			continue
		}
		for _, suffix := range []string{"_pre", "_log", "_deny", "_allow", "_post"} {
			zone = strings.TrimSuffix(zone, suffix)
		}
		return zone
	}
	return ""
}

// quoted is a name as it may be shown: anyone with the right to write rules chose it.
func quoted(name string) string {
	for _, r := range name {
		if r <= ' ' || r > '~' || strings.ContainsRune(`'"\;&|$<>(){}*?!~#`+"`", r) {
			return strconv.Quote(name)
		}
	}
	return name
}

// OpenPort returns the command that lets datagrams to a port through: those that come in,
// or those that leave; empty if there is none.
func (d Drop) OpenPort(port uint16, outbound bool) string {
	switch {
	case d.Owner == Firewalld && !outbound:
		zone := ""
		if z := zoneOf(d.Chain); z != "" {
			zone = " --zone=" + z
		}
		return fmt.Sprintf("firewall-cmd --permanent --add-port=%d/udp%s && firewall-cmd --reload", port, zone)
	case d.Owner == UFW && d.Base == "INPUT":
		return fmt.Sprintf("ufw allow proto udp to any port %d", port)
	case d.Owner == UFW && d.Base == "OUTPUT":
		return fmt.Sprintf("ufw allow out proto udp to any port %d", port)
	}
	if d.Variant == state.NFTables {
		return d.insert(fmt.Sprintf("udp dport %d", port))
	}
	return d.insert(fmt.Sprintf("-p udp --dport %d", port))
}

// OpenDiscovery returns the commands that let this host and others find each other by ICMPv6;
// empty if there are none.
func (d Drop) OpenDiscovery() string {
	if d.Variant == state.NFTables {
		return d.insert("meta l4proto ipv6-icmp")
	}
	return d.insert("-p ipv6-icmp")
}

// OpenNetwork returns the commands that let what pods of a network send to each other
// through; empty if there are none.
func (d Drop) OpenNetwork(network netip.Prefix) string {
	switch {
	case d.Owner == Firewalld:
		return fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-source=%s && firewall-cmd --reload", network)
	case d.Owner == UFW && d.Base == "FORWARD":
		return fmt.Sprintf("ufw route allow from %s to %s", network, network)
	}
	from, to := d.insert("-s "+network.String()), d.insert("-d "+network.String())
	if d.Variant == state.NFTables {
		f := familyOf(network).name
		from, to = d.insert(f+" saddr "+network.String()), d.insert(f+" daddr "+network.String())
	}
	if from == "" {
		return ""
	}
	return from + " && " + to
}

// nftNames are those that nft understands. Others can be in its place in a command, but
// that is another command then.
var nftNames = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9/_.-]*$`)

// insert returns the command that puts a rule which accepts before all others; empty if
// there is none.
func (d Drop) insert(match string) string {
	if d.Variant == state.NFTables && (!nftNames.MatchString(d.Table) || !nftNames.MatchString(d.Base)) {
		return ""
	}
	if d.Variant == state.NFTables {
		return fmt.Sprintf("nft insert rule %s %s %s %s accept", d.Family, d.Table, d.Base, match)
	}
	program, chain := d.program(), d.Base
	if _, err := exec.LookPath(program); err != nil {
		program, _, _ = strings.Cut(program, "-") // an older one
	}
	if d.Owner == Docker && chain == "FORWARD" && d.Table == "filter" {
		chain = "DOCKER-USER"
	}
	if d.Table != "filter" {
		program += " -t " + d.Table
	}
	return fmt.Sprintf("%s -I %s %s -j ACCEPT", program, chain, match)
}

// Owners are those whose chains there are.
func (rs *Ruleset) Owners() []Owner {
	var all []Owner
	add := func(o Owner) {
		if !slices.Contains(all, o) {
			all = append(all, o)
		}
	}
	note := func(table, chain string) {
		switch {
		case table == "firewalld", chain == "INPUT_ZONES":
			add(Firewalld)
		case strings.HasPrefix(chain, "ufw-before-"):
			add(UFW)
		case strings.HasPrefix(chain, "DOCKER"):
			add(Docker)
		}
	}
	for k := range rs.chains {
		note(k.table, k.name)
	}
	for c := range rs.legacy {
		note(c.table, c.name)
	}
	slices.Sort(all)
	return all
}
