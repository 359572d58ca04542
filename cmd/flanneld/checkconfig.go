package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"strings"

	"flanneld/backend"
	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
	"flanneld/subnet"
)

// The exit statuses of -check-config.
const (
	exitValid     = 0
	exitInvalid   = 1
	exitUnchecked = 2 // it could not be read
)

// checkConfig prints what a network configuration means, or why it cannot be used, and returns
// the exit status. It changes nothing.
func checkConfig(ctx context.Context, o *options, machine host, in io.Reader, out io.Writer) int {
	content, err := readConfig(o.checkConfig, in)
	if err != nil {
		fmt.Fprintln(os.Stderr, printable.Line(err.Error()))
		return exitUnchecked
	}
	m, err := understand(ctx, o, machine, content)
	code := exitValid
	if err != nil {
		code = exitInvalid
		m = meaning{Error: printable.Line(err.Error())}
	}
	m.Valid = err == nil
	switch {
	case o.json:
		err = json.NewEncoder(out).Encode(m)
	case err != nil:
		fmt.Fprintln(os.Stderr, m.Error)
		return code
	default:
		err = m.print(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, printable.Line(err.Error()))
	}
	return code
}

// readConfig reads the file that an option names, or in.
func readConfig(name string, in io.Reader) ([]byte, error) {
	const most = 1 << 20
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("reading -check-config: %w", err)
		}
		defer f.Close()
		in = f
	}
	content, err := io.ReadAll(io.LimitReader(in, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading -check-config %s: %w", name, err)
	case len(content) > most:
		return nil, fmt.Errorf("-check-config %s has more than %d bytes, which no configuration has", name, most)
	}
	return content, nil
}

// meaning is what a network configuration means.
type meaning struct {
	Valid    bool            `json:"valid"`
	Error    string          `json:"error,omitempty"`
	Networks []rangeMeaning  `json:"networks,omitempty"`
	Hosts    int             `json:"hosts,omitempty"` // at most; 0 where the store gives subnets out
	Backend  string          `json:"backend,omitempty"`
	Values   []backend.Value `json:"values,omitempty"`
	Devices  []string        `json:"devices,omitempty"`
	// MTU is that of pods where external interfaces have 1500, and HereMTU where they are as this
	// host's Here, in bytes.
	MTU     int    `json:"mtu,omitempty"`
	Here    string `json:"interface,omitempty"`
	HereMTU int    `json:"interfaceMTU,omitempty"`
	// NotHere is why this host could not follow the configuration.
	NotHere string   `json:"notOnThisHost,omitempty"`
	Remarks []string `json:"remarks,omitempty"`
}

// rangeMeaning is the same of an address family.
type rangeMeaning struct {
	Family  string       `json:"family"`
	Network netip.Prefix `json:"network"`
	First   netip.Prefix `json:"first,omitzero"` // subnet of a host
	Last    netip.Prefix `json:"last,omitzero"`
	Subnets int          `json:"subnets,omitempty"`
}

// firstPrepared is the device of a Preparer where it has no other ones beside it.
const firstPrepared = "flannel0"

// commonMTU is that of Ethernet.
const commonMTU = 1500

// understand says what a configuration means, or why no host could follow it.
func understand(ctx context.Context, o *options, machine host, content []byte) (meaning, error) {
	parse := subnet.ParseConfig
	if o.kube != nil {
		parse = subnet.ParseConfigAssigned
	}
	c, err := parse(content)
	if err != nil {
		return meaning{}, err
	}
	b, err := backends.New(c)
	if err != nil {
		return meaning{}, err
	}
	// What is wrong with the configuration is wrong whatever the hosts' interfaces carry.
	if err := servesOn(c, b, anyHost(c, math.MaxInt32)); err != nil {
		return meaning{}, err
	}
	m := meaning{Backend: c.BackendType, MTU: b.MTU(anyHost(c, commonMTU)), Remarks: backends.Remarks(c, anyHost(c, math.MaxInt32))}
	if m.Values, err = backends.Values(c, b); err != nil {
		return meaning{}, err
	}
	for _, f := range c.Families() {
		r := c.Of(f)
		is := rangeMeaning{Family: f.String(), Network: r.Network}
		if !c.Assigned {
			is.First, is.Last = netip.PrefixFrom(r.Min, r.SubnetLen), netip.PrefixFrom(r.Max, r.SubnetLen)
			is.Subnets = ip.CountSubnets(r.Min, r.Max, r.SubnetLen)
			if m.Hosts == 0 || is.Subnets < m.Hosts {
				m.Hosts = is.Subnets
			}
		}
		m.Networks = append(m.Networks, is)
		if d := b.Device(anyHost(c, commonMTU), f); d != "" {
			m.Devices = append(m.Devices, d)
		}
	}
	if _, ok := b.(backend.Preparer); ok {
		m.Devices = append(m.Devices, firstPrepared)
	}
	m.lookHere(ctx, o, machine, c, b)
	return m, nil
}

// anyHost is a host in the families of a configuration whose external interface has an MTU.
func anyHost(c *subnet.Config, mtu int) (h backend.Host) {
	for _, f := range c.Families() {
		a := netip.IPv4Unspecified()
		if f == ip.V6 {
			a = netip.IPv6Unspecified()
		}
		h.Set(f, backend.Underlay{Iface: "eth0", MTU: mtu, Up: true, Addr: a, PublicIP: a})
	}
	return h
}

// servesOn reports why a host could not follow a configuration.
func servesOn(c *subnet.Config, b backend.Backend, h backend.Host) error {
	if err := backend.CheckMTU(c, b, h); err != nil {
		return err
	}
	_, err := b.Attrs(h, backend.Past{})
	return err
}

// lookHere says what the configuration would mean on this host, if that has an external
// interface in each of its families.
func (m *meaning) lookHere(ctx context.Context, o *options, machine host, c *subnet.Config, b backend.Backend) {
	var h backend.Host
	for _, f := range c.Families() {
		u, err := o.iface.Choose(ctx, machine, f, h)
		if err != nil {
			return
		}
		h.Set(f, u)
	}
	if err := servesOn(c, b, h); err != nil {
		m.NotHere = printable.Line(err.Error())
		return
	}
	m.Here, m.HereMTU = h.Narrowest().Iface, b.MTU(h)
}

// print prints the meaning for people.
func (m *meaning) print(to io.Writer) error {
	var text strings.Builder
	row := func(name, format string, a ...any) {
		fmt.Fprintf(&text, "%-9s%s\n", name, printable.Line(fmt.Sprintf(format, a...)))
	}
	fmt.Fprintln(&text, "the network configuration can be used")
	for _, r := range m.Networks {
		if r.First.IsValid() {
			row("network", "%s, subnets %s to %s", r.Network, r.First, r.Last)
		} else {
			row("network", "%s, of which the Nodes of Kubernetes have their podCIDRs", r.Network)
		}
	}
	if m.Hosts == math.MaxInt {
		row("hosts", "as many as there can be")
	} else if m.Hosts > 0 {
		row("hosts", "up to %d", m.Hosts)
	}
	values := []string{m.Backend}
	for _, v := range m.Values {
		values = append(values, v.Key+" "+string(v.Value))
	}
	row("backend", "%s", strings.Join(values, ", "))
	if len(m.Devices) > 0 {
		row("device", "%s", strings.Join(m.Devices, ", "))
	}
	row("MTU", "%d for pods, where the interfaces of hosts have %d", m.MTU, commonMTU)
	switch {
	case m.NotHere != "":
		row("here", "this host could not follow it: %s", m.NotHere)
	case m.Here != "":
		row("here", "%d for pods, by %s", m.HereMTU, m.Here)
	}
	for _, r := range m.Remarks {
		row("but", "%s", r)
	}
	_, err := io.WriteString(to, text.String())
	return err
}
