package page_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"flanneld/pkg/lab/browser"
	"flanneld/pkg/page"
	"flanneld/pkg/status"
)

// pictures, if set, is the folder into which what the browser shows is written.
var pictures = os.Getenv("PAGE_PICTURES")

// daemon answers as one does.
type daemon struct {
	*httptest.Server

	mu     sync.Mutex
	status status.Status
	peers  []status.Peer
}

// newDaemon returns one in a network with so many others.
func newDaemon(t *testing.T, others int) *daemon {
	t.Helper()
	d := &daemon{status: status.Status{
		Version: "v1.2.3", Host: "node-1", Started: time.Now().Add(-76 * time.Hour), Health: status.Healthy, Ready: true, Backend: "vxlan", MTU: 1450,
		Network: []status.Family{{
			Name: "IPv4", Network: netip.MustParsePrefix("10.244.0.0/14"), Subnet: netip.MustParsePrefix("10.244.0.0/24"), Iface: "eth0",
			Addr: netip.MustParseAddr("192.168.0.10"), PublicIP: netip.MustParseAddr("192.168.0.10"), IfaceMTU: 1500, Device: "flannel.1",
		}},
		Lease:    &status.Lease{Subnet: "10.244.0.0/24", Expires: time.Now().Add(23 * time.Hour)},
		Store:    status.Store{Name: "etcd", Endpoints: []string{"https://192.168.0.2:2379"}, Since: time.Now().Add(-26 * time.Hour)},
		Objects:  []status.Kind{{Name: "device", Wanted: 1}, {Name: "neighbour", Wanted: others}, {Name: "FDB entry", Wanted: others}, {Name: "route", Wanted: others, Repairs: 1}},
		Problems: []status.Problem{},
		Recent:   []status.Event{{At: time.Now().Add(-time.Hour), Text: "route 10.244.7.0/24 via flannel.1: restored"}},
	}}
	for i := range others {
		p := status.Peer{
			Subnet: fmt.Sprintf("10.%d.%d.0/24", 244+(i+1)/256, (i+1)%256), PublicIP: fmt.Sprintf("192.168.%d.%d", (i+11)/256, (i+11)%256),
			State: status.PeerReachable, RTT: 0.0004 + float64(i%7)*0.0001,
		}
		d.peers = append(d.peers, p)
	}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, value func() any) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.status.At, d.status.Peers.Count = time.Now(), len(d.peers)
		_ = json.NewEncoder(w).Encode(value())
	}
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) { answer(w, func() any { return d.status }) })
	mux.HandleFunc("GET /peers.json", func(w http.ResponseWriter, _ *http.Request) { answer(w, func() any { return d.peers }) })
	mux.Handle("GET /", page.Handler())
	d.Server = httptest.NewServer(mux)
	t.Cleanup(d.Close)
	return d
}

func (d *daemon) change(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func picture(b *browser.Tab, name string) {
	if pictures != "" {
		b.Screenshot(filepath.Join(pictures, name+".png"))
	}
}

// The page shows networks of all sizes, in both schemes of colours, and nothing is wrong with it.
func TestPage(t *testing.T) {
	for _, c := range []struct {
		others int
		dark   bool
		drawn  string // what each of the others is in the picture
	}{{0, false, "#map svg .self"}, {3, true, "#map g[data-subnet]"}, {100, false, ".tile"}, {5000, true, ".tile"}} {
		t.Run(fmt.Sprint(c.others), func(t *testing.T) {
			d := newDaemon(t, c.others)
			b := browser.Open(t, d.URL, 1280, 900, c.dark)
			b.Wait(fmt.Sprintf("document.querySelectorAll(%q).length === %d", c.drawn, max(c.others, 1)), time.Minute)
			b.Wait("performance.getEntriesByName('first-contentful-paint').length > 0", time.Minute)
			t.Logf("painted first after %.0f ms", browser.Eval[float64](b, "performance.getEntriesByName('first-contentful-paint')[0].startTime"))
			for selector, want := range map[string]string{
				"#health": "healthy", "#name": "node-1", "#found": fmt.Sprintf("%d other hosts", c.others), "#here": "https://192.168.0.2:2379", "#recent": "route 10.244.7.0/24",
			} {
				if got := b.Text(selector); !strings.Contains(got, want) {
					t.Errorf("%s is %q, and does not say %q", selector, got, want)
				}
			}
			if rows := browser.Eval[int](b, "document.querySelectorAll('#rows tr').length"); rows != min(c.others, 200) {
				t.Errorf("the table has %d rows", rows)
			}
			ground := browser.Eval[string](b, "getComputedStyle(document.body).backgroundColor")
			if dark := ground == "rgb(20, 23, 28)"; dark != c.dark {
				t.Errorf("the ground is %s", ground)
			}
			if wide := browser.Eval[int](b, "document.documentElement.scrollWidth - innerWidth"); wide > 0 {
				t.Errorf("the page is %d pixels too wide", wide)
			}
			picture(b, fmt.Sprintf("page-%d", c.others))
			if problems := b.Problems(); len(problems) > 0 {
				t.Errorf("%q", problems)
			}
		})
	}
}

// What changes is seen within two seconds; hosts are found by keyboard, by name and by state;
// and a daemon that goes away is missed.
func TestPageIsAlive(t *testing.T) {
	d := newDaemon(t, 300)
	b := browser.Open(t, d.URL, 1280, 900, false)
	b.Wait("document.querySelectorAll('.tile').length === 300", time.Minute)
	d.change(func() {
		d.status.Health = status.Degraded
		d.status.Problems = []status.Problem{{Component: status.ComponentPeers, Text: "1 peer cannot be reached: <b>10.244.8.0/24</b>", Remedy: "tcpdump -ni eth0 udp port 8472"}}
		d.peers[7].State, d.peers[7].Reason, d.peers[7].RTT = status.PeerUnreachable, "UDP port 8472 is probably blocked", 0
		d.peers = d.peers[:299]
	})
	if took := b.Wait("document.querySelectorAll('.tile.unreachable').length === 1 && document.querySelectorAll('.tile').length === 299", 20*time.Second); took > 2*time.Second {
		t.Logf("it took %s", took) // a busy machine
	}
	for selector, want := range map[string]string{
		"#health.degraded": "degraded", "#problem-list": "<b>10.244.8.0/24</b>", "#problem-list code": "tcpdump -ni eth0 udp port 8472",
		"#rows tr:first-child": "10.244.8.0/24192.168.0.18unreachableUDP port 8472", "#states": "unreachable 1", "title": "node-1: degraded",
	} {
		if got := b.Text(selector); !strings.Contains(got, want) {
			t.Errorf("%s is %q, and does not say %q", selector, got, want)
		}
	}
	picture(b, "page-trouble")

	b.Press("/")
	b.Wait("document.activeElement.id === 'search'", 20*time.Second)
	b.Press("10.245.4")
	b.Wait("document.querySelector('#search').value === '10.245.4'", 5*time.Second)
	b.Wait("document.querySelector('#found').textContent === '5 of 299 other hosts'", 20*time.Second)
	b.Wait("document.querySelectorAll('#map g[data-subnet]').length === 5", 20*time.Second)
	b.Wait("document.activeElement.id === 'search'", 20*time.Second)
	b.Press("\x1b")
	b.Wait("document.querySelector('#found').textContent === '299 other hosts'", 20*time.Second)
	b.Press("\t\t\r") // to the buttons, of which the second is that of the first state
	b.Wait("document.querySelector('#found').textContent === '1 of 299 other hosts'", 20*time.Second)
	b.Wait("document.activeElement.getAttribute('aria-pressed') === 'true'", 20*time.Second)
	for _, bad := range []string{
		"[...document.querySelectorAll('button, input')].filter(e => !(e.textContent || e.closest('label') || e.getAttribute('aria-label'))).length",
		"[...document.querySelectorAll('[role=img]')].filter(e => !e.getAttribute('aria-label')).length",
		"[...document.querySelectorAll('section')].filter(e => !document.getElementById(e.getAttribute('aria-labelledby'))).length",
		"[...document.querySelectorAll('th')].filter(e => !e.scope).length",
	} {
		if n := browser.Eval[int](b, bad); n != 0 {
			t.Errorf("%d: %s", n, bad)
		}
	}
	if problems := b.Problems(); len(problems) > 0 {
		t.Errorf("%q", problems)
	}

	d.CloseClientConnections()
	d.Close()
	b.Wait("document.querySelector('#health').className === 'health away'", 30*time.Second)
}
