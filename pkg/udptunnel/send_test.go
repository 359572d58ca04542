package udptunnel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSendFaults has the kernel refuse one of several trains in different ways:
// the others are not affected, and its datagrams are sent by themselves if that
// may help.
func TestSendFaults(t *testing.T) {
	for _, test := range []struct {
		errno unix.Errno
		times int   // how often the middle train is refused
		sent  []int // datagrams in each message that was taken
		limit int   // of trains from then on
		lost  int   // datagrams
		said  string
	}{
		{unix.EIO, 1, []int{3, 1, 1, 1, 3}, 1, 0, "sending joined datagrams: input/output error; each is sent by itself from now on"},
		{unix.EINVAL, 1, []int{3, 1, 1, 1, 3}, maxSegments, 0, ""},
		{unix.EMSGSIZE, 1, []int{3, 1, 1, 1, 3}, maxSegments, 0, ""},
		{unix.EMSGSIZE, 2, []int{3, 1, 1, 3}, maxSegments, 1, ""}, // one of them can't be sent at all
		{unix.EHOSTUNREACH, 1, []int{3, 3}, maxSegments, 3, ""},
		{unix.EPERM, 1, []int{3, 3}, maxSegments, 3, ""},
		{unix.EAGAIN, 1, []int{3, 3, 3}, maxSegments, 0, ""}, // there is room after a while
		{unix.EAGAIN, 2, []int{3, 3}, maxSegments, 3, ""},    // it is not waited for twice
		{unix.EINTR, 5, []int{3, 3, 3}, maxSegments, 0, ""},
	} {
		t.Run(strings.ReplaceAll(test.errno.Error(), " ", "_"), func(t *testing.T) {
			var said []string
			all, err := listen(netip.MustParseAddrPort("127.0.0.1:0"), 1, true, func(s string) { said = append(said, s) })
			check(t, err)
			s := all[0]
			defer s.Close()
			out := &outbox{limit: maxSegments}
			for peer := range uint32(3) {
				for range 3 {
					out.add(0x7f000001+peer, []byte{1, 2}, []byte{3})
				}
			}
			var sent []int
			left := test.times
			s.send = func(msgs []mmsghdr) (int, unix.Errno) {
				for i := range msgs {
					if (*unix.RawSockaddrInet4)(ptr(msgs[i].hdr.Name)).Addr[3] == 2 && left > 0 {
						if i > 0 {
							return i, 0 // the next call tells why
						}
						left--
						return 0, test.errno
					}
					sent = append(sent, max(1, int(msgs[i].hdr.Iovlen)/2))
				}
				return len(msgs), 0
			}
			var tally tally
			s.Send(out, &tally)
			if !slices.Equal(sent, test.sent) {
				t.Errorf("messages of %v datagrams were sent, want %v", sent, test.sent)
			}
			n, bytes, errors := tally.now[OutPackets], tally.now[OutBytes], tally.now[OutSendErrors]
			if n != uint64(9-test.lost) || bytes != 3*n || errors != uint64(test.lost) {
				t.Errorf("%s", tally.now)
			}
			if out.limit != test.limit {
				t.Errorf("the limit is %d, want %d", out.limit, test.limit)
			}
			if got := strings.Join(said, "; "); got != test.said {
				t.Errorf("it said %q, want %q", got, test.said)
			}
		})
	}
}
