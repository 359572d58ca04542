package subnet

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// Config is the validated configuration of the network, the same for all
// hosts.
type Config struct {
	// V4 and V6 are where the subnets of each family come from. A family that
	// is off holds the zero Range.
	V4, V6 Range
	// BackendType in lower case.
	BackendType string
	// Backend is the whole Backend object, or nothing.
	Backend json.RawMessage
	// NFTables is whether nftables is to be used rather than iptables; nil if that
	// is not said.
	NFTables *bool
	// MasqExclude are the destinations for which what pods send keeps its source.
	MasqExclude []netip.Prefix
	// Remarks say which keys, those of Backend aside, do not do what they say.
	Remarks []string
	// Assigned is set where the store chooses subnets, of any length, anywhere in Network.
	Assigned bool

	raw string // all of it, as written
	// whole is what was written of which this is a part, and lacking the family that it is without;
	// empty if this is all.
	whole   string
	lacking ip.Family
}

// Range is where one address family's subnets come from.
type Range struct {
	Network netip.Prefix
	// SubnetLen is 0 where the store chooses subnets.
	SubnetLen int
	// Min and Max are the base addresses of the first and the last subnet that
	// may be given out. They are not valid where the store chooses subnets.
	Min, Max netip.Addr
}

// Of returns the Range of a family.
func (c *Config) Of(f ip.Family) Range {
	if f == ip.V4 {
		return c.V4
	}
	return c.V6
}

// Network returns the networks of both families.
func (c *Config) Network() ip.Subnet { return ip.Subnet{V4: c.V4.Network, V6: c.V6.Network} }

// Families returns those that are on, IPv4 first.
func (c *Config) Families() []ip.Family { return c.Network().Families() }

// Fits reports whether a lease of s could be given out under c.
func (c *Config) Fits(s ip.Subnet) bool {
	return !slices.ContainsFunc(ip.Families[:], func(f ip.Family) bool { return !c.Of(f).fits(s.Of(f)) })
}

func (r Range) fits(p netip.Prefix) bool {
	if !r.Network.IsValid() || !p.IsValid() {
		return r.Network.IsValid() == p.IsValid()
	}
	return p.Bits() == r.SubnetLen && !p.Addr().Less(r.Min) && !r.Max.Less(p.Addr())
}

// Keep returns what of s a host keeps under c that has a lease of s, whatever the
// length of s: subnets of another length are left from another SubnetLen, or from a
// program with another default. Only bounds that someone has set count.
func (c *Config) Keep(s ip.Subnet) (kept ip.Subnet) {
	if s.Placeholder() {
		return kept
	}
	for _, f := range c.Families() {
		r, p := c.Of(f), s.Of(f)
		if r.contains(p) && r.allows(p) || c.Assigned && r.covers(p) {
			kept = kept.With(f, p)
		}
	}
	return kept
}

// Keeps reports whether a host that has a lease of s keeps some of it under c.
func (c *Config) Keeps(s ip.Subnet) bool { return c.Keep(s).IsValid() }

// part returns what of s is in the families that are on.
func (c *Config) part(s ip.Subnet) (part ip.Subnet) {
	for _, f := range c.Families() {
		part = part.With(f, s.Of(f))
	}
	return part
}

// completes reports whether s has just the families that are on.
func (c *Config) completes(s ip.Subnet) bool { return slices.Equal(s.Families(), c.Families()) }

// without returns the configuration as it were if a family was off.
func (c *Config) without(f ip.Family) (*Config, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal([]byte(c.raw), &keys); err != nil {
		return nil, err
	}
	off := "Enable" + f.String()
	maps.DeleteFunc(keys, func(k string, _ json.RawMessage) bool { return strings.EqualFold(k, off) })
	keys[off] = json.RawMessage("false")
	raw, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	rest, err := parseConfig(raw, c.Assigned)
	if err != nil {
		return nil, err
	}
	rest.whole, rest.lacking = c.raw, f
	return rest, nil
}

// contains reports whether p lies in Network, and is not all of it.
func (r Range) contains(p netip.Prefix) bool {
	return p.Bits() > r.Network.Bits() && r.Network.Contains(p.Addr())
}

// covers reports whether p lies in Network, or is all of it.
func (r Range) covers(p netip.Prefix) bool { return r.contains(p) || p.IsValid() && p == r.Network }

// allows reports whether some of p lies between Min and Max, as far as they are not
// the defaults.
func (r Range) allows(p netip.Prefix) bool {
	if !r.Network.IsValid() || !p.IsValid() || !r.Min.IsValid() {
		return true
	}
	second, _ := ip.Next(ip.Base(r.Network, r.SubnetLen))
	below := r.Min != second.Addr() && ip.LastAddr(p).Less(r.Min)
	above := r.Max != ip.LastSubnet(r.Network, r.SubnetLen).Addr() &&
		ip.LastAddr(netip.PrefixFrom(r.Max, r.SubnetLen)).Less(p.Masked().Addr())
	return !below && !above
}

// ConfigError is a configuration that cannot be used.
type ConfigError struct {
	Key    string // as written in the configuration; empty for all of it
	Value  string // as written in the configuration, quoted where it is text
	Reason string
}

func (e *ConfigError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("network configuration %s %s", e.Value, e.Reason)
	}
	if e.Value == "" {
		return fmt.Sprintf("network configuration: %s %s", e.Key, e.Reason)
	}
	return fmt.Sprintf("network configuration: %s %s %s", e.Key, e.Value, e.Reason)
}

// configJSON is the configuration as written. Each key is decoded by itself, so
// that an error can name it.
type configJSON struct {
	EnableIPv4, EnableIPv6, EnableNFTables, MasqExclude, Backend json.RawMessage
	rangeJSON
	range6JSON
}

// rangeJSON is what is written of a family.
type rangeJSON struct {
	Network, SubnetLen, SubnetMin, SubnetMax json.RawMessage
}

type range6JSON struct {
	Network   json.RawMessage `json:"IPv6Network"`
	SubnetLen json.RawMessage `json:"IPv6SubnetLen"`
	SubnetMin json.RawMessage `json:"IPv6SubnetMin"`
	SubnetMax json.RawMessage `json:"IPv6SubnetMax"`
}

// limits are where the rules of the two families differ.
type limits struct {
	ip.Family
	prefix     string // of the keys
	defaultLen int    // SubnetLen where Network leaves room for it; else two bits more
	maxLen     int
	// halves is the Network length from which on SubnetLen may be one bit more than
	// that of Network; shorter Networks need two.
	halves int
}

// MaxLen is the most that SubnetLen can be for IPv4.
const MaxLen = 30

var (
	limits4 = limits{Family: ip.V4, defaultLen: 24, maxLen: MaxLen, halves: 24}
	limits6 = limits{Family: ip.V6, prefix: "IPv6", defaultLen: 64, maxLen: 126, halves: 129}
)

// ParseConfig reads and validates the configuration. Its errors are
// ConfigErrors.
func ParseConfig(raw []byte) (*Config, error) { return parseConfig(raw, false) }

// ParseConfigAssigned is ParseConfig for a network whose store assigns the subnets.
func ParseConfigAssigned(raw []byte) (*Config, error) { return parseConfig(raw, true) }

// parseConfig is ParseConfig, also for a network whose store assigns the subnets: there
// nothing is asked of their length, or where in Network they are.
func parseConfig(raw []byte, assigned bool) (*Config, error) {
	var j configJSON
	if err := json.Unmarshal(raw, &j); err != nil {
		return nil, &ConfigError{Value: printable.Quote(string(raw)), Reason: jsonError(err).Error()}
	}
	c := &Config{raw: string(raw), Assigned: assigned}
	v4, err := boolKey("EnableIPv4", j.EnableIPv4, true)
	if err != nil {
		return nil, err
	}
	if v4 {
		if c.V4, err = limits4.parse(assigned, j.rangeJSON); err != nil {
			return nil, err
		}
	}
	v6, err := boolKey("EnableIPv6", j.EnableIPv6, false)
	if err != nil {
		return nil, err
	}
	if v6 {
		if c.V6, err = limits6.parse(assigned, rangeJSON(j.range6JSON)); err != nil {
			return nil, err
		}
	}
	if !v4 && !v6 {
		return nil, &ConfigError{Key: "EnableIPv4", Value: "false", Reason: "with EnableIPv6 false leaves no address family"}
	}
	if c.BackendType, err = backendType(j.Backend); err != nil {
		return nil, err
	}
	if len(j.Backend) > 0 && string(j.Backend) != "null" {
		c.Backend = j.Backend
	}
	if len(j.EnableNFTables) > 0 && string(j.EnableNFTables) != "null" {
		nftables, err := boolKey("EnableNFTables", j.EnableNFTables, false)
		if err != nil {
			return nil, err
		}
		c.NFTables = &nftables
	}
	if c.MasqExclude, err = networksKey("MasqExclude", j.MasqExclude); err != nil {
		return nil, err
	}
	c.Remarks = c.remarks()
	return c, nil
}

// backendType returns "udp" where there is no Backend object at all, and ""
// where there is one that does not name its type.
func backendType(raw json.RawMessage) (string, error) {
	if raw == nil {
		return "udp", nil
	}
	var b struct{ Type json.RawMessage }
	if err := json.Unmarshal(raw, &b); err != nil {
		return "", &ConfigError{"Backend", printable.Quote(string(raw)), `is not an object such as {"Type": "vxlan"}`}
	}
	if b.Type == nil {
		return "", nil
	}
	t, err := stringKey("Backend.Type", b.Type)
	return strings.ToLower(t), err
}

func (l limits) parse(assigned bool, j rangeJSON) (Range, error) {
	var r Range
	key := l.prefix + "Network"
	if len(j.Network) == 0 {
		return r, &ConfigError{Key: key, Reason: "is missing"}
	}
	text, err := stringKey(key, j.Network)
	if err != nil {
		return r, err
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || !l.has(p.Addr()) {
		return r, &ConfigError{key, printable.Quote(text), fmt.Sprintf("is not an %s network in CIDR notation", l)}
	}
	r.Network = p.Masked()
	if assigned {
		return r, l.carriedAll(r.Network)
	}
	if r.SubnetLen, err = l.subnetLen(r.Network, j.SubnetLen); err != nil {
		return r, err
	}

	// By default the first subnet is left out: its base is the Network's own
	// address, which old tools take for a broadcast.
	second, _ := ip.Next(ip.Base(r.Network, r.SubnetLen))
	if r.Min, err = l.bound(r, "SubnetMin", j.SubnetMin, second.Addr()); err != nil {
		return r, err
	}
	if r.Max, err = l.bound(r, "SubnetMax", j.SubnetMax, ip.LastSubnet(r.Network, r.SubnetLen).Addr()); err != nil {
		return r, err
	}
	if r.Max.Less(r.Min) {
		return r, &ConfigError{l.prefix + "SubnetMin", r.Min.String(), fmt.Sprintf("is above %sSubnetMax %s", l.prefix, r.Max)}
	}
	return r, l.carried(r)
}

// has reports whether an address is of the family.
func (l limits) has(a netip.Addr) bool {
	return ip.FamilyOf(a) == l.Family && !a.Is4In6() && a.Zone() == ""
}

// notCarried are addresses that the kernel forwards to no host, of both families.
var notCarried = []struct {
	netip.Prefix
	are string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback addresses"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast addresses"},
	{netip.MustParsePrefix("::1/128"), "the loopback address"},
	{netip.MustParsePrefix("fe80::/10"), "link-local addresses"},
	{netip.MustParsePrefix("ff00::/8"), "multicast addresses"},
}

// carried returns why the subnets from Min to Max are not all such that packets between
// hosts can be for them.
func (l limits) carried(r Range) error {
	last := ip.LastAddr(netip.PrefixFrom(r.Max, r.SubnetLen))
	for _, p := range notCarried {
		switch {
		case p.Addr().Is4() != r.Min.Is4() || last.Less(p.Addr()) || ip.LastAddr(p.Prefix).Less(r.Min):
		case p.Bits() <= r.Network.Bits():
			return &ConfigError{l.prefix + "Network", r.Network.String(), fmt.Sprintf("lies in %s: these are %s, which lead to no other host", p.Prefix, p.are)}
		default:
			return &ConfigError{l.prefix + "Network", r.Network.String(), fmt.Sprintf("holds %s: these are %s, which lead to no other host; %sSubnetMin and %sSubnetMax, here %s and %s, have to leave them out",
				p.Prefix, p.are, l.prefix, l.prefix, r.Min, r.Max)}
		}
	}
	return nil
}

// carriedAll returns why a network cannot be one of hosts that are given any part of it.
func (l limits) carriedAll(network netip.Prefix) error {
	for _, p := range notCarried {
		if p.Overlaps(network) {
			return &ConfigError{l.prefix + "Network", network.String(), fmt.Sprintf("overlaps %s: these are %s, which lead to no other host; Enable%s false turns the family off", p.Prefix, p.are, l)}
		}
	}
	return nil
}

func (l limits) subnetLen(network netip.Prefix, raw json.RawMessage) (int, error) {
	key := l.prefix + "SubnetLen"
	shortest := network.Bits() + 2
	if network.Bits() >= l.halves {
		shortest = network.Bits() + 1
	}
	var n uint32
	if raw != nil {
		if err := json.Unmarshal(raw, &n); err != nil {
			return 0, &ConfigError{key, printable.Quote(string(raw)), "is not a prefix length"}
		}
	}
	if n == 0 { // absent, null and 0 mean the default
		n := min(max(l.defaultLen, network.Bits()+2), l.maxLen)
		if n >= shortest {
			return n, nil
		}
		return 0, &ConfigError{l.prefix + "Network", network.String(), fmt.Sprintf("is too small: subnets are at most /%d", l.maxLen)}
	}
	switch {
	case int(n) > l.maxLen:
		return 0, &ConfigError{key, fmt.Sprint(n), fmt.Sprintf("is above %d, the longest subnet there is", l.maxLen)}
	case int(n) < shortest:
		return 0, &ConfigError{key, fmt.Sprint(n), fmt.Sprintf("is below %d, the shortest that %sNetwork %s can be divided into", shortest, l.prefix, network)}
	}
	return int(n), nil
}

func (l limits) bound(r Range, key string, raw json.RawMessage, otherwise netip.Addr) (netip.Addr, error) {
	if raw == nil {
		return otherwise, nil
	}
	key = l.prefix + key
	text, err := stringKey(key, raw)
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !l.has(a) {
		return netip.Addr{}, &ConfigError{key, printable.Quote(string(raw)), fmt.Sprintf("is not an %s address", l)}
	}
	if !r.Network.Contains(a) {
		return netip.Addr{}, &ConfigError{key, printable.Quote(text), fmt.Sprintf("does not lie in %sNetwork %s", l.prefix, r.Network)}
	}
	if base := netip.PrefixFrom(a, r.SubnetLen).Masked().Addr(); base != a {
		return netip.Addr{}, &ConfigError{key, printable.Quote(text), fmt.Sprintf("is not the base of a /%d subnet; the nearest below is %s", r.SubnetLen, base)}
	}
	return a, nil
}

func stringKey(key string, raw json.RawMessage) (string, error) {
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", &ConfigError{key, printable.Quote(string(raw)), "is not a string"}
	}
	return *s, nil
}

func boolKey(key string, raw json.RawMessage, otherwise bool) (bool, error) {
	if raw == nil {
		return otherwise, nil
	}
	if err := json.Unmarshal(raw, &otherwise); err != nil {
		return false, &ConfigError{key, printable.Quote(string(raw)), "is not true or false"}
	}
	return otherwise, nil
}

// networksKey reads a list of networks, of both families; the bits of hosts in them
// are masked.
func networksKey(key string, raw json.RawMessage) ([]netip.Prefix, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var texts []json.RawMessage
	if err := json.Unmarshal(raw, &texts); err != nil {
		return nil, &ConfigError{key, printable.Quote(string(raw)), `is not a list of networks such as ["10.0.0.0/8"]`}
	}
	var networks []netip.Prefix
	for i, raw := range texts {
		text, err := stringKey(fmt.Sprintf("%s[%d]", key, i), raw)
		if err != nil {
			return nil, err
		}
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return nil, &ConfigError{fmt.Sprintf("%s[%d]", key, i), printable.Quote(string(raw)), "is not a network in CIDR notation such as 10.0.0.0/8; an address is one with /32"}
		}
		if p = p.Masked(); !slices.Contains(networks, p) {
			networks = append(networks, p)
		}
	}
	return networks, nil
}

// configKeys are those that ParseConfig reads.
var configKeys = []string{
	"EnableIPv4", "EnableIPv6", "EnableNFTables", "MasqExclude", "Backend",
	"Network", "SubnetLen", "SubnetMin", "SubnetMax",
	"IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax",
}

// networkKey names the Network of a family.
func networkKey(f ip.Family) string {
	if f == ip.V6 {
		return limits6.prefix + "Network"
	}
	return "Network"
}

// familyOfKey returns the family that a key is for which is there for each; 0 for another key.
func familyOfKey(k string) ip.Family {
	switch {
	case strings.HasPrefix(k, limits6.prefix):
		return ip.V6
	case k == "Network", strings.HasPrefix(k, "Subnet"):
		return ip.V4
	}
	return 0
}

// remarks returns which keys of the configuration itself do not do what they say.
func (c *Config) remarks() []string {
	off := func(k string) bool { f := familyOfKey(k); return f != 0 && !c.Of(f).Network.IsValid() }
	known := slices.DeleteFunc(slices.Clone(configKeys), func(k string) bool {
		return off(k) || c.Assigned && strings.Contains(k, "Subnet")
	})
	why := map[ip.Family]string{ip.V4: "is for EnableIPv4, which is false", ip.V6: "is for EnableIPv6, which is not true"}
	return KeyRemarks("", []byte(c.raw), known, func(key string) string {
		i := slices.IndexFunc(configKeys, func(k string) bool { return strings.EqualFold(k, key) })
		switch {
		case i < 0:
			return ""
		case off(configKeys[i]):
			return why[familyOfKey(configKeys[i])]
		}
		return "is for networks whose hosts choose their subnets"
	})
}

// LongestLen is the most that SubnetLen can be for a family.
func LongestLen(f ip.Family) int {
	if f == ip.V4 {
		return limits4.maxLen
	}
	return limits6.maxLen
}
