package echo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

func TestMain(m *testing.M) {
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// loopback is what answers on a host that has nothing else.
var loopback = map[ip.Family]netip.Addr{ip.V4: netip.MustParseAddr("127.0.0.1"), ip.V6: netip.IPv6Loopback()}

// onHost runs a test with a socket of each kind and family on a host of its own.
func onHost(t *testing.T, f func(t *testing.T, s *Socket, h *lab.Host)) {
	l, err := lab.New(lab.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	h, err := l.AddMachine("host")
	check(t, err)
	check(t, h.Sysctl("net.ipv4.ping_group_range", "0 0"))
	for family := range loopback {
		for _, kind := range kinds {
			t.Run(fmt.Sprintf("%s,%d", family, kind), func(t *testing.T) {
				var s *Socket
				check(t, h.Do(func() (err error) {
					s, err = open(family, kind)
					return err
				}))
				t.Cleanup(func() { _ = s.Close() })
				f(t, s, h)
			})
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// receive returns the next answer.
func receive(t *testing.T, s *Socket) Answer {
	t.Helper()
	check(t, s.conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	a, err := s.Receive()
	check(t, err)
	return a
}

// A kernel answers requests of all sizes, and the answer tells which of them it is for.
func TestEcho(t *testing.T) {
	onHost(t, func(t *testing.T, s *Socket, _ *lab.Host) {
		to := loopback[s.family]
		for i, size := range []int{Least, 100, 1500, 20000} {
			want := Answer{From: to, Seq: uint16(65534 + i), Token: 1<<63 + uint64(i)}
			check(t, s.Send(to, want.Seq, want.Token, size))
			if got := receive(t, s); got != want {
				t.Errorf("of %d bytes: %+v, want %+v", size, got, want)
			}
		}
		check(t, s.Close())
		if _, err := s.Receive(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("when it is closed: %v", err)
		}
	})
}

// What others ask and are answered on the same host is nobody's business.
func TestOthers(t *testing.T) {
	onHost(t, func(t *testing.T, s *Socket, h *lab.Host) {
		var other *Socket
		check(t, h.Do(func() (err error) {
			other, err = Open(s.family)
			return err
		}))
		defer other.Close()
		to := loopback[s.family]
		for i := range 100 {
			check(t, other.Send(to, uint16(i), 7, 100))
		}
		check(t, s.Send(to, 1, 8, 100))
		if got := receive(t, s); got.Token != 8 {
			t.Errorf("received %+v", got)
		}
	})
}

// What is short, of another kind, or another's, is no answer.
func TestParse(t *testing.T) {
	s := Socket{family: ip.V4, raw: true, id: 0x1234}
	good := binary.BigEndian.AppendUint64([]byte{0, 0, 1, 2, 0x12, 0x34, 0, 9}, 77)
	if a, ok := s.parse(good); !ok || a != (Answer{Seq: 9, Token: 77}) {
		t.Errorf("%+v, %v", a, ok)
	}
	for i := range good {
		if _, ok := s.parse(good[:i]); ok {
			t.Errorf("%d bytes are an answer", i)
		}
	}
	for _, at := range []int{0, 1, 4, 5} {
		bad := append([]byte(nil), good...)
		bad[at] ^= 1
		if _, ok := s.parse(bad); ok {
			t.Errorf("it is an answer with another byte %d", at)
		}
	}
}

// Whoever may not open a socket of either kind is told what it takes.
func TestNotPermitted(t *testing.T) {
	l, err := lab.New(lab.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	h, err := l.AddMachine("host")
	check(t, err)
	kinds = kinds[1:] // as without CAP_NET_RAW
	defer func() { kinds = []int{unix.SOCK_RAW, unix.SOCK_DGRAM} }()
	err = h.Do(func() error {
		_, err := Open(ip.V4)
		return err
	})
	const want = "opening a socket for IPv4 pings: permission denied; it takes the capability CAP_NET_RAW, or a group of this process in net.ipv4.ping_group_range"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
