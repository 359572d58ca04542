package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/tun"
)

func TestSum(t *testing.T) {
	g := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 3000)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	for n := range b {
		if got, want := ^fold(sum(b[:n], 0)), slowSum(b[:n]); got != want>>8|want<<8 {
			t.Fatalf("%d bytes: %04x, want %04x", n, got, want)
		}
	}
	ones := bytes.Repeat([]byte{0xff}, 2000)
	if got := fold(sum(ones, ^uint64(0))); got != 0xffff {
		t.Errorf("the sum of nothing but ones is %04x", got)
	}
}

func TestTable(t *testing.T) {
	for _, test := range []struct {
		network string
		bits    int
	}{{"10.0.0.0/8", 24}, {"10.60.0.0/16", 24}, {"10.0.0.0/8", 30}, {"0.0.0.0/1", 30}, {"10.1.2.0/24", 24}, {"255.255.0.0/16", 32}} {
		network := netip.MustParsePrefix(test.network)
		table, err := NewTable(network, test.bits)
		check(t, err)
		want := map[netip.Prefix]netip.Addr{}
		g := rand.New(rand.NewPCG(3, 4))
		for range 300 {
			a := addrToUint(network.Addr()) + g.Uint32()>>network.Bits()
			subnet := netip.PrefixFrom(uintToAddr(a), test.bits).Masked()
			if g.IntN(4) == 0 {
				delete(want, subnet)
				check(t, table.Delete(subnet))
				continue
			}
			want[subnet] = uintToAddr(1 + g.Uint32()>>1)
			check(t, table.Set(subnet, want[subnet]))
			if got := table.lookup(a); got != addrToUint(want[subnet]) {
				t.Fatalf("%s of %s is at %s", uintToAddr(a), subnet, uintToAddr(got))
			}
		}
		if got := maps.Collect(table.All()); !maps.Equal(got, want) || table.Len() != len(want) {
			t.Errorf("%+v: %d entries, want %d", test, len(got), len(want))
		}
		for _, a := range []string{"9.255.255.255", "200.1.2.3", "255.254.255.255"} {
			if table.lookup(addrToUint(netip.MustParseAddr(a))) != 0 {
				t.Errorf("%+v has %s", test, a)
			}
		}
		check(t, table.Replace(nil))
		if table.Len() != 0 {
			t.Errorf("%d entries of an empty table", table.Len())
		}
	}
}

// Subnets of any length are found, beside those of the usual one.
func TestTableOfSeveralLengths(t *testing.T) {
	table, err := NewTable(network, 24)
	check(t, err)
	want := map[netip.Prefix]netip.Addr{}
	for i, subnet := range []string{"10.60.1.0/24", "10.60.8.0/21", "10.60.2.0/26", "10.60.2.64/26", "10.60.128.0/17", "10.60.3.4/30"} {
		p := netip.MustParsePrefix(subnet)
		want[p] = uintToAddr(0xc0000201 + uint32(i))
		check(t, table.Set(p, want[p]))
	}
	lookUp := func(a string, subnet string) {
		t.Helper()
		var host uint32
		if subnet != "" {
			host = addrToUint(want[netip.MustParsePrefix(subnet)])
		}
		if got := table.lookup(addrToUint(netip.MustParseAddr(a))); got != host {
			t.Errorf("%s is at %s, want that of %q", a, uintToAddr(got), subnet)
		}
	}
	all := func() {
		t.Helper()
		if got := maps.Collect(table.All()); !maps.Equal(got, want) || table.Len() != len(want) {
			t.Errorf("it holds %v (%d), want %v", got, table.Len(), want)
		}
		for _, host := range want {
			if !table.hasPeer(addrToUint(host)) {
				t.Errorf("%s has nothing", host)
			}
		}
	}
	all()
	lookUp("10.60.1.9", "10.60.1.0/24")
	lookUp("10.60.15.255", "10.60.8.0/21")
	lookUp("10.60.16.0", "")
	lookUp("10.60.2.63", "10.60.2.0/26")
	lookUp("10.60.2.64", "10.60.2.64/26")
	lookUp("10.60.2.128", "")
	lookUp("10.60.200.1", "10.60.128.0/17")
	lookUp("10.60.3.7", "10.60.3.4/30")
	lookUp("10.61.3.7", "")
	gone := netip.MustParsePrefix("10.60.8.0/21")
	check(t, table.Delete(gone))
	check(t, table.Delete(netip.MustParsePrefix("10.60.64.0/19"))) // was not there
	if table.hasPeer(addrToUint(want[gone])) {
		t.Errorf("%s still has something", want[gone])
	}
	delete(want, gone)
	all()
	lookUp("10.60.8.1", "")
	delete(want, netip.MustParsePrefix("10.60.2.0/26"))
	want[netip.MustParsePrefix("10.60.16.0/20")] = netip.MustParseAddr("192.0.2.99")
	check(t, table.Replace(want))
	all()
	lookUp("10.60.2.1", "")
	lookUp("10.60.31.1", "10.60.16.0/20")
}

func TestTableRefuses(t *testing.T) {
	table, err := NewTable(network, 24)
	check(t, err)
	peer := netip.MustParseAddr("192.0.2.1")
	for _, subnet := range []string{"10.61.0.0/24", "10.61.1.0/25", "10.60.1.1/24", "10.0.0.0/8", "10.60.0.0/16", "fd00::/24"} {
		if table.Set(netip.MustParsePrefix(subnet), peer) == nil || table.Delete(netip.MustParsePrefix(subnet)) == nil {
			t.Errorf("%s was taken", subnet)
		}
		if table.Replace(map[netip.Prefix]netip.Addr{netip.MustParsePrefix(subnet): peer}) == nil {
			t.Errorf("%s was taken", subnet)
		}
	}
	for _, a := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.MustParseAddr("fd00::1")} {
		if table.Set(subnets[0], a) == nil {
			t.Errorf("%s was taken", a)
		}
	}
	for _, bad := range []struct {
		p    netip.Prefix
		bits int
	}{{network, 8}, {network, 33}, {netip.MustParsePrefix("fd00::/16"), 24}, {netip.Prefix{}, 24}, {netip.MustParsePrefix("0.0.0.0/0"), 32}} {
		if _, err := NewTable(bad.p, bad.bits); err == nil {
			t.Errorf("a table was made for %+v", bad)
		}
	}
}

// TestTableWhileRead changes a large table under its readers, who must find a
// subnet that stays at all times.
func TestTableWhileRead(t *testing.T) {
	table, err := NewTable(netip.MustParsePrefix("10.0.0.0/8"), 24)
	check(t, err)
	all := map[netip.Prefix]netip.Addr{}
	for i := range uint32(50000) {
		all[netip.PrefixFrom(uintToAddr(10<<24|i<<8), 24)] = uintToAddr(192<<24 | i + 1)
	}
	check(t, table.Replace(all))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if table.lookup(10<<24|777<<8|5) != 192<<24|778 {
				t.Error("a subnet that stays is gone")
				return
			}
		}
	})
	for i := range uint32(3) {
		delete(all, netip.PrefixFrom(uintToAddr(10<<24|i<<8), 24))
		check(t, table.Replace(all))
	}
	close(stop)
	wg.Wait()
	if table.Len() != 49997 || !table.hasPeer(192<<24|778) || table.hasPeer(5) {
		t.Errorf("%d entries", table.Len())
	}
}

func TestICMPError(t *testing.T) {
	packet := func(change func([]byte)) []byte {
		p := make([]byte, 900)
		p[0], p[8], p[9] = 0x45, 64, protoUDP
		copy(p[12:], []byte{10, 60, 1, 9, 10, 60, 2, 9})
		if change != nil {
			change(p)
		}
		return seal(p, true, false)
	}
	var buf [icmpMost]byte
	from := netip.MustParseAddr("10.60.1.0")
	p := packet(nil)
	b := icmpError(buf[:], refusal{kind: tooBig, mtu: 1400}, addrToUint(from), p)
	if len(b) != 576 || slowSum(b[:20]) != 0 || slowSum(b[20:]) != 0 || !bytes.Equal(b[12:20], []byte{10, 60, 1, 0, 10, 60, 1, 9}) ||
		b[20] != 3 || b[21] != 4 || binary.BigEndian.Uint16(b[26:]) != 1400 || !bytes.Equal(b[28:], p[:548]) || b[9] != protoICMP {
		t.Errorf("the error is %x", b)
	}
	for name, change := range map[string]func([]byte){
		"later fragment": func(p []byte) { p[7] = 5 },
		"from multicast": func(p []byte) { p[12] = 224 },
		"from nobody":    func(p []byte) { p[12] = 0 },
		"from itself":    func(p []byte) { p[12] = 127 },
		"to multicast":   func(p []byte) { p[16] = 239 },
		"to all":         func(p []byte) { copy(p[16:], []byte{255, 255, 255, 255}) },
		"unreachable":    func(p []byte) { p[9], p[20] = protoICMP, 3 },
		"expired":        func(p []byte) { p[9], p[20] = protoICMP, 11 },
	} {
		if b := icmpError(buf[:], refusal{}, 1, packet(change)); b != nil {
			t.Errorf("%s was answered with %x", name, b)
		}
	}
	for name, change := range map[string]func([]byte){
		"first fragment": func(p []byte) { p[6] = 0x20 },
		"ping":           func(p []byte) { p[9], p[20] = protoICMP, 8 },
	} {
		if icmpError(buf[:], refusal{}, 1, packet(change)) == nil {
			t.Errorf("%s was not answered", name)
		}
	}
}

func TestICMPLimit(t *testing.T) {
	sent := 0
	a := &answerer{from: 1, send: func([]byte) error { sent++; return nil }}
	p := make([]byte, 40)
	p[0], p[12], p[16] = 0x45, 10, 10
	var c tally
	start := time.Now()
	for range 5000 {
		a.refuse(&c, refusal{}, p)
	}
	most := icmpBurst + int(time.Since(start).Seconds()*icmpRate) + 1
	if sent < icmpBurst || sent > most || c.now[ICMPSent] != uint64(sent) || c.now[ICMPLimited] != uint64(5000-sent) {
		t.Errorf("%d errors were sent, %v; want %d to %d", sent, c.now, icmpBurst, most)
	}
}

// TestTooBig refuses what must not be fragmented, joined or not.
func TestTooBig(t *testing.T) {
	c := newCore(t)
	for _, b := range joinedKinds(gen{rand.New(rand.NewPCG(5, 6))}, host(coreOwn, 5), host(theirs[0], 5)) {
		c.mtu = 1000
		c.enc.live.mtu.Store(1000)
		errs, dropped := c.errs, c.tally.now[OutTooBig]
		segments, _ := slowSegments(b) // before they are changed
		c.checkSend(t, [][]byte{b})
		want := uint64(len(segments) * (c.errs - errs)) // one answer, however many packets
		if got := c.tally.now[OutTooBig] - dropped; got != want {
			t.Errorf("%d packets were too big, want %d", got, want)
		}
	}
	if c.errs == 0 {
		t.Error("none was refused")
	}
}

// TestWriteApart loses no packet where the kernel refuses to take joined ones.
func TestWriteApart(t *testing.T) {
	c := newCore(t)
	said := 0
	c.dec.say = func(string) { said++ }
	c.dec.write = func(v []unix.Iovec) error {
		b := tun.Gather(v)
		if b[1] != tun.GSONone {
			return unix.EINVAL
		}
		c.wrote = append(c.wrote, b)
		return nil
	}
	g := gen{rand.New(rand.NewPCG(7, 8))}
	for range 100 {
		flow := g.flow(host(theirs[0], 9), host(coreOwn, 9), 9, 1472, false)
		c.checkReceive(t, corePeers[0], flow, 1472)
	}
	if said != 1 || c.tally.now[InWriteErrors] != 0 {
		t.Errorf("said it %d times; %s", said, c.tally.now)
	}
}

// TestWriteFails goes on to join packets after a time in which the device took
// none at all, as while it is down, and counts none of these as passed on.
func TestWriteFails(t *testing.T) {
	c := newCore(t)
	c.dec.say = func(s string) { t.Error(s) }
	c.dec.write = func([]unix.Iovec) error { return unix.EIO }
	g := gen{rand.New(rand.NewPCG(7, 8))}
	pass := func() {
		for _, b := range g.flow(host(theirs[0], 9), host(coreOwn, 9), 9, 1472, false) {
			c.dec.train(addrToUint(corePeers[0]), b, len(b))
		}
		c.dec.finish()
	}
	for range 100 {
		pass()
	}
	if c.tally.now[InPackets] != 0 || c.tally.now[InWriteErrors] < 500 {
		t.Errorf("while it is down: %s", c.tally.now)
	}
	c.dec.write = func([]unix.Iovec) error { return nil }
	calls := c.tally.now[InCalls]
	for range 100 {
		pass()
	}
	if packets := c.tally.now[InPackets]; (c.tally.now[InCalls]-calls)*2 > packets {
		t.Errorf("afterwards %d calls took %d packets", c.tally.now[InCalls]-calls, packets)
	}
}

func TestCountersString(t *testing.T) {
	var c Counters
	if c.String() != "nothing" {
		t.Error(c.String())
	}
	for i := range counters {
		c[i] = uint64(i) + 1
	}
	s := c.String()
	if strings.Contains(s, " =") || len(strings.Fields(s)) != int(counters) || !strings.HasPrefix(s, "out_packets=1 ") {
		t.Error(s)
	}
}

func TestConfigChecked(t *testing.T) {
	good := Config{
		Local: netip.MustParseAddrPort("192.0.2.1:8285"), Own: subnets[0], Network: network,
		Addr: subnets[0].Addr(), MTU: 1472,
	}
	if _, err := good.checked(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"port":    func(c *Config) { c.Local = netip.MustParseAddrPort("192.0.2.1:0") },
		"local":   func(c *Config) { c.Local = netip.MustParseAddrPort("[fd00::1]:8285") },
		"address": func(c *Config) { c.Addr = netip.Addr{} },
		"own":     func(c *Config) { c.Own = netip.MustParsePrefix("10.61.0.0/24") },
		"no own":  func(c *Config) { c.Own = netip.Prefix{} },
		"MTU":     func(c *Config) { c.MTU = 67 },
	} {
		c := good
		change(&c)
		if _, err := c.checked(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Open(good); err == nil || errors.Is(err, tun.ErrHeld) {
		t.Errorf("opening no device gives %v", err)
	}
}
