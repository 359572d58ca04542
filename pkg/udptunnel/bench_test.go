package udptunnel

import (
	"context"
	"errors"
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
	"unsafe"

	"github.com/vishvananda/netlink"
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
				n, errno := box.fill(int(fd), 64)
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

// roundTrips pings one after the other, each a pause after the answer to the one before, and
// returns how long each took, sorted.
// The program that pings adds as little as it can: the socket is a blocking one
// and the scheduler knows nothing of its calls.
func (p *pair) roundTrips(t testing.TB, n int, pause time.Duration) []time.Duration {
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
	gap := unix.NsecToTimespec(int64(pause))
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
			if errno == unix.EAGAIN || errno == unix.EINTR && time.Since(start) > time.Second {
				break // it is lost, and counts as late by what was waited
			}
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
		if pause > 0 {
			_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(ptr(&gap)), 0, 0)
		}
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
	one, four    float64 // bytes a second of TCP streams
	cost         float64 // processor seconds a gigabyte
	small, full  float64 // datagrams a second
	flood, paced float64 // seconds of a round trip: one after the other; a millisecond apart; median
	late         float64 // that of the latest hundredth, a millisecond apart
	beside       float64 // that beside a TCP stream
}

func (p *pair) measure(t testing.TB, d time.Duration) (f figures) {
	t.Helper()
	time.Sleep(time.Second) // until what was measured before has come to rest
	at := func(times []time.Duration, percent int) float64 { return times[len(times)*percent/100].Seconds() }
	f.flood = at(p.roundTrips(t, 3000, 0), 50)
	times := p.roundTrips(t, 500, time.Millisecond)
	f.paced, f.late = at(times, 50), at(times, 99)
	before, start := p.cpu(t), time.Now()
	f.one = p.stream(t, 1, d)
	used := p.cpu(t) - before
	f.cost = used.Seconds() / (f.one * time.Since(start).Seconds() / 1e9)
	f.four = p.stream(t, 4, d)
	var beside sync.WaitGroup
	beside.Go(func() { p.stream(t, 1, d) })
	time.Sleep(d / 3)
	f.beside = at(p.roundTrips(t, int(d/time.Millisecond)/2, time.Millisecond), 99)
	beside.Wait()
	f.small = p.flood(t, 64, d)
	f.full = p.flood(t, 1400, d)
	return f
}

// BenchmarkWays compares the ways between pods, on a wire that takes joined packets and on one
// that does not: what matters are the ratios, and that all are measured in turn
// under whatever else the machine does. The yardstick is flannel's loop.
func BenchmarkWays(b *testing.B) {
	for _, wire := range []struct {
		name    string
		offload bool
		ways    []string
	}{
		{"wire=offload", true, []string{byTunnel, byPackets, byLoop, byVXLAN, byRoute}},
		{"wire=plain", false, []string{byTunnel, byLoop, byVXLAN}},
	} {
		b.Run(wire.name, func(b *testing.B) {
			pairs := map[string]*pair{}
			for _, way := range wire.ways {
				pairs[way] = newPair(b, way, nil)
				if !wire.offload {
					pairs[way].plainWire(b)
				}
			}
			const rounds = 3
			for b.Loop() {
				all := map[string][]figures{}
				for range rounds {
					for _, way := range wire.ways {
						all[way] = append(all[way], pairs[way].measure(b, time.Second))
					}
				}
				report(b, wire.ways, all)
			}
		})
	}
}

// plainWire has the hosts' interfaces send each packet by itself. What comes in may be joined.
func (p *pair) plainWire(t testing.TB) {
	t.Helper()
	for _, h := range p.hosts {
		check(t, h.Do(func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkSetGSOMaxSegs(link, 1), ethtool("eth0", unix.ETHTOOL_SGRO, 1))
		}))
	}
}

// ethtool sets one thing of an interface.
func ethtool(name string, command, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	v := [2]uint32{command, value}
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:], name)
	req.data = unsafe.Pointer(&v)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return fmt.Errorf("setting %d of %s: %w", command, name, errno)
	}
	return nil
}

// report prints the medians of all ways, and the ratios to vxlan and to the loop.
func report(b *testing.B, ways []string, all map[string][]figures) {
	b.Helper()
	vxlan, loop := median(all[byVXLAN]), median(all[byLoop])
	for _, way := range ways {
		m := median(all[way])
		b.Logf("%-8s TCP %5.2f Gbit/s (%.2f of vxlan), four %5.2f (%.2f); %.2f CPU s/GB (%.1f×); 64 B %4.0f k/s (%.2f), 1400 B %4.0f k/s (%.2f)",
			way, m.one*8e-9, m.one/vxlan.one, m.four*8e-9, m.four/vxlan.four, m.cost, m.cost/vxlan.cost,
			m.small/1e3, m.small/vxlan.small, m.full/1e3, m.full/vxlan.full)
		b.Logf("%-8s RTT: flood %3.0f µs (%.1f of vxlan, %.2f of loop), each ms %3.0f µs (%.1f, %.2f), p99 %4.0f µs (%.1f), p99 beside a stream %5.0f µs (%.1f)",
			way, m.flood*1e6, m.flood/vxlan.flood, m.flood/loop.flood, m.paced*1e6, m.paced/vxlan.paced, m.paced/loop.paced,
			m.late*1e6, m.late/vxlan.late, m.beside*1e6, m.beside/vxlan.beside)
	}
	tunnel := median(all[byTunnel])
	for unit, ratio := range map[string]float64{
		"TCP/vxlan": tunnel.one / vxlan.one, "four/vxlan": tunnel.four / vxlan.four, "64B/loop": tunnel.small / loop.small,
		"flood/loop": tunnel.flood / loop.flood, "ms/loop": tunnel.paced / loop.paced,
		"flood/vxlan": tunnel.flood / vxlan.flood, "ms/vxlan": tunnel.paced / vxlan.paced, "p99-beside/vxlan": tunnel.beside / vxlan.beside,
	} {
		b.ReportMetric(ratio, unit)
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
		one:    mid(func(f figures) float64 { return f.one }),
		four:   mid(func(f figures) float64 { return f.four }),
		cost:   mid(func(f figures) float64 { return f.cost }),
		small:  mid(func(f figures) float64 { return f.small }),
		full:   mid(func(f figures) float64 { return f.full }),
		flood:  mid(func(f figures) float64 { return f.flood }),
		paced:  mid(func(f figures) float64 { return f.paced }),
		late:   mid(func(f figures) float64 { return f.late }),
		beside: mid(func(f figures) float64 { return f.beside }),
	}
}
