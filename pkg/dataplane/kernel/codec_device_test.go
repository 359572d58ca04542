package kernel

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

var devices = &links{byIndex: map[int]string{3: "eth0", 4: "flannel.1"}}

// sizes checks that the batch is whole messages, and returns the last payload.
func (b *batch) sizes(t *testing.T) (payload []byte) {
	n := 0
	for m := range messages(b.buf) {
		n += unix.SizeofNlMsghdr + len(m.data)
		payload = m.data
	}
	if n != len(b.buf) {
		t.Fatalf("%d bytes of messages in %d bytes", n, len(b.buf))
	}
	return payload
}

// must adds the messages for a step that the kernel knows.
func (b *batch) must(op state.Op, index int) {
	if err := b.step(op, 1, index); err != nil {
		panic(err)
	}
}

// FuzzDecodeNeigh feeds the decoder with anything, and with what was encoded.
func FuzzDecodeNeigh(f *testing.F) {
	var b batch
	b.must(create(state.FDB{Dev: "flannel.1", MAC: state.MAC{2}, Dst: netip.MustParseAddr("192.168.0.9")}), 4)
	f.Add(b.buf[unix.SizeofNlMsghdr:], []byte{192, 168, 0, 9}, []byte{2, 1, 2, 3, 4, 5})
	f.Add([]byte{}, []byte{}, []byte{})
	f.Add(make([]byte, 30), netip.MustParseAddr("fd00:1::").AsSlice(), []byte{2, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, payload, addr, mac []byte) {
		if r, ok := decodeNeigh(payload); ok {
			for _, decode := range []func(string) (state.Entry, bool){r.neigh, r.fdb} {
				if e, ok := decode("flannel.1"); ok {
					_ = e.Object.String()
				}
			}
		}

		a, ok := netip.AddrFromSlice(addr)
		m, is := macOf(mac)
		if !ok || !is || !m.IsUnicast() {
			return
		}
		var b batch
		fdb := state.FDB{Dev: "flannel.1", MAC: m, Dst: a}
		b.must(change(unmanaged{Object: fdb, remake: true}, fdb), 4)
		r, ok := decodeNeigh(b.sizes(t))
		if e, is := r.fdb("flannel.1"); !ok || !is || e.Object != fdb || e.Owner != state.Ours || r.ifindex != 4 {
			t.Fatalf("%s is decoded to %+v, %+v", fdb, r, e)
		}
		if a.Is6() && !a.IsGlobalUnicast() {
			return
		}
		b = batch{}
		neigh := state.Neigh{Dev: "flannel.1", MAC: m, Addr: a}
		b.must(create(neigh), 4)
		r, ok = decodeNeigh(b.sizes(t))
		if e, is := r.neigh("flannel.1"); !ok || !is || e.Object != neigh || e.Owner != state.Ours || r.ifindex != 4 {
			t.Fatalf("%s is decoded to %+v, %+v", neigh, r, e)
		}
	})
}

// FuzzDecodeAddr feeds the decoder with anything, and with what was encoded but
// for the flag that the kernel sets.
func FuzzDecodeAddr(f *testing.F) {
	var b batch
	b.must(create(state.Addr{Dev: "flannel.1", Prefix: netip.MustParsePrefix("10.1.0.0/32")}), 4)
	f.Add(b.buf[unix.SizeofNlMsghdr:], []byte{10, 1, 0, 0}, uint8(32))
	f.Add([]byte{}, netip.MustParseAddr("fd00:1::").AsSlice(), uint8(128))
	f.Fuzz(func(t *testing.T, payload, addr []byte, bits uint8) {
		if r, ok := decodeAddr(payload); ok {
			if e, ok := r.entry(devices); ok {
				_ = e.Object.String()
			}
			_ = r.address()
		}

		a, _ := netip.AddrFromSlice(addr)
		if !a.IsValid() || int(bits) > a.BitLen() || a.Is6() && (a.IsLinkLocalUnicast() || int(bits) != a.BitLen()) {
			return
		}
		want := state.Addr{Dev: "flannel.1", Prefix: netip.PrefixFrom(a, int(bits))}
		var b batch
		b.must(change(unmanaged{Object: want, remake: true, peer: a}, want), 4)
		b.attr32(unix.IFA_FLAGS, unix.IFA_F_PERMANENT)
		b.end()
		r, ok := decodeAddr(b.sizes(t))
		if e, is := r.entry(devices); !ok || !is || e.Object != want || e.Owner != state.Ours {
			t.Fatalf("%s is decoded to %+v, %+v", want, r, e)
		}
	})
}

// FuzzDecodeLink feeds the decoder with anything, and with what was encoded but
// for what the kernel adds.
func FuzzDecodeLink(f *testing.F) {
	v := vxlan()
	var b batch
	b.appendVXLAN(v, 3)
	f.Add(b.buf[unix.SizeofNlMsghdr:], v.VNI, v.Port, v.MTU, v.Local.AsSlice(), v.MAC[:], false, false)
	f.Add([]byte{}, uint32(0), uint16(0), 0, []byte{}, []byte{}, true, true)
	f.Fuzz(func(t *testing.T, payload []byte, vni uint32, port uint16, mtu int, local, mac []byte, gbp, learning bool) {
		if r, ok := decodeLink(payload); ok {
			_ = r.entry(devices, true).Object.String()
			_ = r.iface()
		}

		a, ok := netip.AddrFromSlice(local)
		m, is := macOf(mac)
		if !ok || !is || mtu < 0 || mtu > 1<<30 {
			return
		}
		want := state.VXLAN{
			Name: "flannel.1", VNI: vni, Port: port, Lower: "eth0", Local: a,
			GBP: gbp, Learning: learning, MAC: m, MTU: mtu, TxChecksumOff: true,
		}
		var b batch
		b.appendVXLAN(want, 3)
		p := b.sizes(t)
		native.PutUint32(p[4:], 4)
		native.PutUint32(p[8:], unix.IFF_UP)
		r, ok := decodeLink(p)
		r.noIPv6 = false
		if e := r.entry(devices, true); !ok || e.Object != want || e.Owner != state.Ours {
			t.Fatalf("%s is decoded to %+v, %+v", want, r, e)
		}
	})
}

// FuzzDecodeTUN feeds the decoder with what a kernel may say of a TUN device.
func FuzzDecodeTUN(f *testing.F) {
	f.Add(1472, uint16(unix.ARPHRD_NONE), uint32(unix.IFF_UP), byte(unix.IFF_TUN), byte(1), uint8(2), "flanneld 10.0.0.0/8", uint8(2), uint8(2), []byte{})
	f.Add(1500, uint16(unix.ARPHRD_ETHER), uint32(0), byte(unix.IFF_TAP), byte(0), uint8(0), "flanneld", uint8(1), uint8(0), []byte{1, 2, 3})
	f.Add(0, uint16(0), uint32(0), byte(0), byte(0), uint8(1), "", uint8(0), uint8(0), []byte{8, 0, 3, 0, 2, 0, 0, 0})
	f.Add(1472, uint16(unix.ARPHRD_NONE), uint32(unix.IFF_UP|unix.IFF_LOWER_UP), byte(unix.IFF_TUN), byte(1), uint8(0), "", uint8(0), uint8(1), []byte{})
	f.Fuzz(func(t *testing.T, mtu int, hardware uint16, flags uint32, typ, persist byte, said uint8, alias string, queues, own uint8, rest []byte) {
		if mtu < 0 || mtu > 1<<30 || len(alias) > 255 || strings.Contains(alias, "\x00") {
			return
		}
		header := make([]byte, unix.SizeofIfInfomsg)
		native.PutUint16(header[2:], hardware)
		native.PutUint32(header[4:], 4)
		native.PutUint32(header[8:], flags)
		var b batch
		b.begin(unix.RTM_NEWLINK, 0, 0, header)
		b.attr(unix.IFLA_IFNAME, []byte("flannel7\x00"))
		b.attr32(unix.IFLA_MTU, uint32(mtu))
		b.attr(unix.IFLA_IFALIAS, append([]byte(alias), 0))
		info := b.nest(unix.IFLA_LINKINFO)
		b.attr(unix.IFLA_INFO_KIND, []byte("tun\x00"))
		tells := said > 0 // an old kernel does not
		attached := flags & unix.IFF_LOWER_UP / unix.IFF_LOWER_UP
		if tells {
			data := b.nest(unix.IFLA_INFO_DATA)
			b.attr(unix.IFLA_TUN_TYPE, []byte{typ})
			b.attr(unix.IFLA_TUN_PERSIST, []byte{persist})
			if said > 1 { // of a device for several queues
				attached = uint32(queues)
				b.attr(unix.IFLA_TUN_MULTI_QUEUE, []byte{1})
				b.attr32(unix.IFLA_TUN_NUM_QUEUES, attached/3)
				b.attr32(unix.IFLA_TUN_NUM_DISABLED_QUEUES, attached-attached/3)
			}
			b.endNest(data)
		}
		b.endNest(info)
		b.end()
		p := b.sizes(t)
		r, ok := decodeLink(p)
		r.tun.own = int(own)
		e := r.entry(devices, false)
		tun := tells && typ == unix.IFF_TUN && persist != 0 || !tells && hardware != unix.ARPHRD_ETHER
		tun = tun && attached <= uint32(own) && (own > 0 || state.IsTUNAlias(alias))
		carries := flags&unix.IFF_UP != 0 && (own == 0 || said < 2 || attached == 0 || flags&unix.IFF_LOWER_UP != 0)
		if !ok || (e.Owner == state.Ours) != tun || (e.Object == state.TUN{Name: "flannel7", MTU: mtu, Alias: alias}) != (tun && carries) {
			t.Fatalf("%+v, %+v", r, e)
		}
		if len(rest) > 0 { // whatever it may mean
			b.buf = append(b.buf, rest...)
			if r, ok := decodeLink(b.buf[unix.SizeofNlMsghdr:]); ok {
				_ = r.entry(devices, false).Object.String()
			}
			var raw rawTUN
			raw.decode(rest)
		}
	})
}

func TestMessagesStopAtTheMalformed(t *testing.T) {
	var b batch
	b.begin(1, 0, 7, []byte{1, 2, 3, 4})
	b.end()
	for n := range len(b.buf) {
		for m := range messages(b.buf[:n]) {
			t.Errorf("of %d bytes there is a message %+v", n, m)
		}
	}
	for m := range messages(b.buf) {
		if m.seq != 7 || len(m.data) != 4 {
			t.Errorf("%+v", m)
		}
	}
}
