package kernel

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/pkg/state"
)

// FuzzDecodeRoute feeds the decoder with anything, and with what was encoded.
func FuzzDecodeRoute(f *testing.F) {
	var b batch
	b.must(state.Op{Verb: state.Create, Want: state.Route{
		Dst: netip.MustParsePrefix("10.1.2.0/24"), Via: netip.MustParseAddr("192.168.0.9"), Dev: "eth0",
	}}, 3)
	f.Add(b.buf[unix.SizeofNlMsghdr:], []byte{10, 1, 2, 0}, []byte{192, 168, 0, 9}, uint8(24))
	f.Add([]byte{}, []byte{}, []byte{}, uint8(0))
	f.Add(make([]byte, 40), make([]byte, 16), make([]byte, 16), uint8(64))
	f.Fuzz(func(t *testing.T, payload, dst, via []byte, bits uint8) {
		links := &links{byIndex: map[int]string{3: "eth0"}}
		if r, ok := decodeRoute(payload); ok {
			r.entry(links)
		}

		d, _ := netip.AddrFromSlice(dst)
		v, _ := netip.AddrFromSlice(via)
		p, err := d.Prefix(int(bits))
		if err != nil || !p.IsValid() || !v.IsValid() {
			return
		}
		want := state.Route{Dst: p, Via: v, Dev: "eth0", Onlink: bits%2 == 1}
		var b batch
		b.must(state.Op{Verb: state.Replace, Want: want, Have: want}, 3)
		if n := native.Uint32(b.buf); int(n) != len(b.buf) {
			t.Fatalf("a message of %d bytes says it has %d", len(b.buf), n)
		}
		r, ok := decodeRoute(b.buf[unix.SizeofNlMsghdr:])
		if !ok || !r.keyed() {
			t.Fatalf("%s is decoded to %+v, %v", want, r, ok)
		}
		if e := r.entry(links); e.Object != want || e.Owner != state.Ours {
			t.Fatalf("%s is decoded to %+v", want, e)
		}
		// One by its device alone may have no carrier, which is no matter.
		want = state.Route{Dst: p, Dev: "eth0"}
		b = batch{}
		b.must(create(want), 3)
		payload = b.sizes(t)
		payload[8] |= unix.RTNH_F_LINKDOWN | unix.RTNH_F_DEAD
		r, _ = decodeRoute(payload)
		if e := r.entry(links); e.Object != want || e.Owner != state.Ours {
			t.Fatalf("%s is decoded to %+v", want, e)
		}
		payload[6] = unix.RT_SCOPE_LINK
		r, _ = decodeRoute(payload)
		if e := r.entry(links); e.Object == state.Object(want) || e.Owner != state.Ours {
			t.Fatalf("one with the scope of the link is decoded to %+v", e)
		}
	})
}

func TestBatchAlignment(t *testing.T) {
	var b batch
	var ends []int
	for i, dst := range []string{"10.1.2.0/24", "fc00::/64"} {
		r := state.Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParsePrefix(dst).Addr().Next(), Dev: "eth0"}
		if err := b.step(state.Op{Verb: state.Create, Want: r}, uint32(i), 3); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, len(b.buf))
	}
	b.acknowledge()
	for i, start := range []int{0, ends[0]} {
		m := b.buf[start:ends[i]]
		flags := native.Uint16(m[6:])
		if int(native.Uint32(m)) != len(m) || len(m)%unix.NLMSG_ALIGNTO != 0 || native.Uint32(m[8:]) != uint32(i) {
			t.Errorf("message %d: % x", i, m)
		}
		if (flags&unix.NLM_F_ACK != 0) != (i == 1) {
			t.Errorf("message %d has flags %#x; only the last asks for an answer", i, flags)
		}
	}
}

// FuzzDecodeNexthop feeds the decoder with anything, and with what was encoded.
func FuzzDecodeNexthop(f *testing.F) {
	var b batch
	b.must(state.Op{Verb: state.Create, Want: state.Nexthop{
		ID: 7, Via: netip.MustParseAddr("192.168.0.9"), Dev: "eth0",
	}}, 3)
	f.Add(b.buf[unix.SizeofNlMsghdr:], []byte{192, 168, 0, 9}, uint32(7))
	f.Add([]byte{}, []byte{}, uint32(0))
	f.Add(make([]byte, 20), make([]byte, 16), uint32(1<<31))
	f.Fuzz(func(t *testing.T, payload, via []byte, id uint32) {
		links := &links{byIndex: map[int]string{3: "eth0"}}
		if e, ok := decodeNexthop(payload, links); ok {
			_ = e.Object.String()
		}

		v, ok := netip.AddrFromSlice(via)
		if !ok || id == 0 {
			return
		}
		want := state.Nexthop{ID: id, Via: v, Dev: "eth0", Onlink: id%2 == 1}
		var b batch
		b.must(state.Op{Verb: state.Replace, Want: want, Have: want}, 3)
		if n := native.Uint32(b.buf); int(n) != len(b.buf) {
			t.Fatalf("a message of %d bytes says it has %d", len(b.buf), n)
		}
		if e, ok := decodeNexthop(b.buf[unix.SizeofNlMsghdr:], links); !ok || e.Object != want || e.Owner != state.Ours {
			t.Fatalf("%s is decoded to %+v, %v", want, e, ok)
		}
	})
}
