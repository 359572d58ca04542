package udptunnel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stream sends over TCP from one pod to the other for some time and returns the
// bytes a second that arrived.
func (p *pair) stream(t testing.TB, streams int, d time.Duration) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d+10*time.Second)
	defer cancel()
	var listener net.Listener
	check(t, p.pods[1].Do(func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(p.pods[1].Addr, 0).String())
		return err
	}))
	var got atomic.Int64
	var wg sync.WaitGroup
	for range streams {
		conn, err := p.pods[0].DialContext(ctx, "tcp4", listener.Addr().String())
		check(t, err)
		peer, err := listener.Accept()
		check(t, err)
		wg.Go(func() {
			defer peer.Close()
			buf := make([]byte, 256<<10)
			for {
				n, err := peer.Read(buf)
				got.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			defer conn.Close()
			buf := make([]byte, 256<<10)
			end := time.Now().Add(d + d/2)
			_ = conn.SetDeadline(end)
			for time.Now().Before(end) {
				if _, err := conn.Write(buf); err != nil {
					return
				}
			}
		})
	}
	time.Sleep(d / 3) // to get going
	start, before := time.Now(), got.Load()
	time.Sleep(d)
	rate := float64(got.Load()-before) / time.Since(start).Seconds()
	_ = listener.Close()
	wg.Wait()
	return rate
}

// flood sends UDP datagrams from one pod to the other, as fast as it can, and
// returns how many a second arrived.
func (p *pair) flood(t testing.TB, size int, d time.Duration) float64 {
	t.Helper()
	var in, out *net.UDPConn
	check(t, p.pods[1].Do(func() (err error) {
		in, err = net.ListenUDP("udp4", &net.UDPAddr{IP: p.pods[1].Addr.AsSlice()})
		return err
	}))
	check(t, p.pods[0].Do(func() (err error) {
		out, err = net.DialUDP("udp4", nil, in.LocalAddr().(*net.UDPAddr))
		return err
	}))
	withFD(t, in, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	})
	var got atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		defer in.Close()
		box := newInbox(64)
		raw, err := in.SyscallConn()
		check(t, err)
		for !stop.Load() {
			_ = in.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_ = raw.Read(func(fd uintptr) bool {
				n, errno := box.fill(int(fd))
				got.Add(int64(n))
				return errno != unix.EAGAIN
			})
		}
	})
	wg.Go(func() {
		defer out.Close()
		b := make([]byte, size)
		msgs := make([]mmsghdr, 32)
		for i := range msgs {
			v := piece(b)
			msgs[i].hdr.Iov = &v
			msgs[i].hdr.SetIovlen(1)
		}
		raw, err := out.SyscallConn()
		check(t, err)
		for !stop.Load() {
			_ = raw.Write(func(fd uintptr) bool {
				_, errno := mmsg(unix.SYS_SENDMMSG, int(fd), msgs)
				return errno != unix.EAGAIN
			})
		}
	})
	time.Sleep(d / 3)
	start, before := time.Now(), got.Load()
	time.Sleep(d)
	rate := float64(got.Load()-before) / time.Since(start).Seconds()
	stop.Store(true)
	wg.Wait()
	return rate
}

func withFD(t testing.TB, c syscall.Conn, fn func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	check(t, err)
	check(t, raw.Control(func(fd uintptr) { err = fn(int(fd)) }))
	check(t, err)
}

// roundTrips pings one after the other and returns how long each took, sorted.
// The program that pings adds as little as it can: the socket is a blocking one
// and the scheduler knows nothing of its calls.
func (p *pair) roundTrips(t testing.TB, n int) []time.Duration {
	t.Helper()
	fd := -1
	check(t, p.pods[0].Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Addr: p.pods[1].Addr.As4()})
		}
		return err
	}))
	defer unix.Close(fd)
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}))
	times := make([]time.Duration, 0, n)
	buf := make([]byte, 2048)
	gap := unix.Timespec{Nsec: 200_000}
	for i := range n {
		m := make([]byte, 64)
		m[0], m[4], m[6], m[7] = 8, 77, byte(i>>8), byte(i)
		order.PutUint16(m[2:], ^fold(sum(m, 0)))
		start := time.Now()
		if _, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(ptr(&m[0])), uintptr(len(m))); errno != 0 {
			t.Fatalf("ping %d: %v", i, errno)
		}
		for {
			got, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(ptr(&buf[0])), uintptr(len(buf)))
			if errno == unix.EINTR {
				continue
			}
			if errno != 0 {
				t.Fatalf("ping %d: %v", i, errno)
			}
			if r := buf[ipLen:got]; r[0] == 0 && r[4] == 77 && r[6] == m[6] && r[7] == m[7] {
				break
			}
		}
		times = append(times, time.Since(start))
		_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(ptr(&gap)), 0, 0)
	}
	slices.Sort(times)
	return times
}

// cpu is how much processor time the hosts' engines and this process have taken.
func (p *pair) cpu(t testing.TB) time.Duration {
	t.Helper()
	var all time.Duration
	var self unix.Rusage
	check(t, unix.Getrusage(unix.RUSAGE_SELF, &self))
	all = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	for _, proc := range p.procs {
		if proc == nil {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", proc.Pid()))
		check(t, err)
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest)
		for _, v := range f[11:13] {
			ticks, err := strconv.Atoi(v)
			check(t, err)
			all += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return all
}

// figures are what is measured of one way between the pods.
type figures struct {
	one, four   float64 // bytes a second of TCP streams
	cost        float64 // processor seconds a gigabyte
	small, full float64 // datagrams a second
	p50, p99    float64 // seconds
}

func (p *pair) measure(t testing.TB, d time.Duration) (f figures) {
	t.Helper()
	time.Sleep(time.Second) // until what was measured before has come to rest
	times := p.roundTrips(t, 1000)
	f.p50, f.p99 = times[len(times)/2].Seconds(), times[len(times)*99/100].Seconds()
	before, start := p.cpu(t), time.Now()
	f.one = p.stream(t, 1, d)
	used := p.cpu(t) - before
	f.cost = used.Seconds() / (f.one * time.Since(start).Seconds() / 1e9)
	f.four = p.stream(t, 4, d)
	f.small = p.flood(t, 64, d)
	f.full = p.flood(t, 1400, d)
	return f
}

// BenchmarkWays compares the ways between pods: what matters are the ratios, and
// that all are measured in turn under whatever else the machine does.
func BenchmarkWays(b *testing.B) {
	ways := []string{byTunnel, byPackets, byVXLAN, byRoute}
	pairs := map[string]*pair{}
	for _, way := range ways {
		pairs[way] = newPair(b, way, nil)
	}
	const rounds = 3
	for b.Loop() {
		all := map[string][]figures{}
		for range rounds {
			for _, way := range ways {
				all[way] = append(all[way], pairs[way].measure(b, time.Second))
			}
		}
		base := median(all[byVXLAN])
		for _, way := range ways {
			m := median(all[way])
			b.Logf("%-8s TCP %5.2f Gbit/s (%.2f of vxlan), four %5.2f (%.2f); %.2f CPU s/GB (%.1f×); "+
				"64 B %4.0f k/s (%.2f), 1400 B %4.0f k/s (%.2f); RTT %3.0f µs (%.1f×), p99 %3.0f µs (%.1f×)",
				way, m.one*8e-9, m.one/base.one, m.four*8e-9, m.four/base.four, m.cost, m.cost/base.cost,
				m.small/1e3, m.small/base.small, m.full/1e3, m.full/base.full,
				m.p50*1e6, m.p50/base.p50, m.p99*1e6, m.p99/base.p99)
		}
		tunnel, packets := median(all[byTunnel]), median(all[byPackets])
		b.ReportMetric(tunnel.one/base.one, "TCP/vxlan")
		b.ReportMetric(tunnel.one/packets.one, "TCP/packets")
		b.ReportMetric(tunnel.small/packets.small, "64B/packets")
		b.ReportMetric(tunnel.p50/base.p50, "RTT/vxlan")
	}
}

// median takes the middle of each figure.
func median(all []figures) figures {
	mid := func(of func(figures) float64) float64 {
		var v []float64
		for _, f := range all {
			v = append(v, of(f))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return figures{
		one:   mid(func(f figures) float64 { return f.one }),
		four:  mid(func(f figures) float64 { return f.four }),
		cost:  mid(func(f figures) float64 { return f.cost }),
		small: mid(func(f figures) float64 { return f.small }),
		full:  mid(func(f figures) float64 { return f.full }),
		p50:   mid(func(f figures) float64 { return f.p50 }),
		p99:   mid(func(f figures) float64 { return f.p99 }),
	}
}
