package fakeaws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/lab"
)

// EndpointAddr is where the hosts of a Router reach the EC2 API, at port 80.
const EndpointAddr = "192.0.2.1"

// instanceMTU is that of interfaces in a VPC.
const instanceMTU = 9001

// Router is the network of a cloud in a lab: a namespace that each instance
// has a cable to for each of its interfaces, and that forwards packets as the
// route tables and the source/destination checks have it. When a call that
// changed the cloud has returned, the kernel has the change.
type Router struct {
	*lab.Host

	lab   *lab.Lab
	cloud *Cloud

	endpoint *http.Server

	mu      sync.Mutex
	closed  bool
	err     error // the first one, for Close
	links   map[*Interface]*link
	plugged int // links so far
	hosts   map[*Instance]*lab.Host
	tables  map[*RouteTable]int
}

// link is the cable of an interface.
type link struct {
	name     string // of the router's end
	number   int
	host     *lab.Host
	dev      string     // the host's end
	six      netip.Addr // that the host has
	metadata *http.Server
}

// NewRouter adds the network of a cloud to a lab. Its VPCs must not overlap.
func NewRouter(l *lab.Lab, c *Cloud) (*Router, error) {
	h, err := l.AddMachine("vpc")
	if err != nil {
		return nil, err
	}
	r := &Router{
		Host: h, lab: l, cloud: c,
		links: map[*Interface]*link{}, hosts: map[*Instance]*lab.Host{}, tables: map[*RouteTable]int{},
	}
	// The router answers for all hosts, and packets may come from anywhere: the
	// checks are made by rules.
	for _, s := range [][2]string{
		{"net.ipv4.conf.all.proxy_arp", "1"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
		{"net.ipv4.conf.all.send_redirects", "0"},
		{"net.ipv4.conf.default.send_redirects", "0"}, // either is enough to have them sent
	} {
		if err := h.Sysctl(s[0], s[1]); err != nil {
			return nil, err
		}
	}
	for _, addr := range []string{EndpointAddr, MetadataAddr} {
		if err := h.AddAddr("lo", netip.MustParsePrefix(addr+"/32")); err != nil {
			return nil, err
		}
	}
	if r.endpoint, err = serve(h.Namespace, EndpointAddr, "", c.Endpoint()); err != nil {
		return nil, err
	}
	c.watch(func() { _ = r.sync() })
	return r, nil
}

// AddHost adds the machine that the instance is: eth0 and so on are its
// interfaces, with their addresses, and the default route leads to the VPC.
// Interfaces that are attached later appear by themselves. When the instance
// is terminated its cables are taken away; closing the host is left to the caller. A
// host that is closed while its instance runs has crashed, without EC2 noticing.
func (r *Router) AddHost(name string, i *Instance) (*lab.Host, error) {
	h, err := r.lab.AddMachine(name)
	if err != nil {
		return nil, err
	}
	h.Addr = i.addr
	r.mu.Lock()
	r.hosts[i] = h
	r.mu.Unlock()
	if err := r.sync(); err != nil {
		return nil, fmt.Errorf("connecting %s: %w", name, err)
	}
	return h, nil
}

// Env has the variables that lead a client on a host to the EC2 API.
func (r *Router) Env() []string {
	url := "http://" + EndpointAddr
	return []string{"AWS_ENDPOINT_URL=" + url, "AWS_ENDPOINT_URL_EC2=" + url, "AWS_REGION=" + r.cloud.Region}
}

// Close ends the services, and tells what could not be done in the kernel. The
// namespaces are the lab's.
func (r *Router) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	errs := []error{r.err, r.endpoint.Close()}
	for _, l := range r.links {
		errs = append(errs, l.metadata.Close())
	}
	return errors.Join(errs...)
}

// sync makes the kernel's state that of the cloud.
func (r *Router) sync() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	err := r.update()
	for err != nil && r.dropCrashed() { // one at least has gone meanwhile
		err = r.update()
	}
	if r.err == nil {
		r.err = err
	}
	return err
}

func (r *Router) update() error {
	if err := r.connect(); err != nil {
		return err
	}
	return r.SetTables(r.forwarding())
}

// dropCrashed forgets the hosts that were closed, whose cables are gone, and tells
// whether there were any.
func (r *Router) dropCrashed() (found bool) {
	for n, l := range r.links {
		if _, err := r.MTU(l.name); err == nil {
			continue
		}
		found = true
		delete(r.links, n)
		_ = l.metadata.Close()
		maps.DeleteFunc(r.hosts, func(_ *Instance, h *lab.Host) bool { return h == l.host })
	}
	return found
}

// connect makes the cables that are missing, and takes away those of
// interfaces that are gone.
func (r *Router) connect() error {
	for i, h := range r.hosts {
		for _, n := range i.Interfaces() {
			if r.links[n] == nil {
				if err := r.plug(h, i, n); err != nil {
					return err
				}
			}
		}
	}
	for n, l := range r.links {
		if r.cloud.attachedTo(n) != nil {
			if err := r.address6(n, l); err != nil {
				return err
			}
			continue
		}
		delete(r.links, n)
		if err := errors.Join(l.metadata.Close(), r.RemoveLink(l.name)); err != nil {
			return err
		}
	}
	return nil
}

func (r *Router) plug(h *lab.Host, i *Instance, n *Interface) error {
	r.plugged++
	dev := fmt.Sprintf("eth%d", n.index)
	l := &link{name: "eni" + strings.TrimLeft(n.ID[len("eni-"):], "0"), number: r.plugged, host: h, dev: dev}
	err := r.lab.Cable(lab.Plug{On: r.Namespace, Name: l.name}, lab.Plug{On: h.Namespace, Name: dev, MAC: n.MAC}, instanceMTU)
	if err != nil {
		return err
	}
	if err := r.Sysctl("net.ipv4.neigh."+l.name+".proxy_delay", "0"); err != nil { // else up to 0.8 s
		return err
	}
	if err := h.AddAddr(dev, netip.PrefixFrom(n.Addr, n.Subnet.Prefix.Bits())); err != nil {
		return err
	}
	if err := r.haveGateway(n.Subnet); err != nil {
		return err
	}
	if n.index == 0 {
		if err := h.SetDefaultRoute(n.Subnet.gateway(), dev); err != nil {
			return err
		}
	}
	if err := r.AddRoute(lab.Route{Dst: netip.PrefixFrom(n.Addr, 32), Dev: l.name}); err != nil {
		return err
	}
	if err := r.AddAddr(l.name, netip.PrefixFrom(gateway6, 64)); err != nil {
		return err
	}
	if l.metadata, err = serve(r.Namespace, MetadataAddr, l.name, i.Metadata()); err != nil {
		return err
	}
	r.links[n] = l
	return nil
}

// gateway6 is the router's address on each link: IPv6 addresses are on no link with others.
var gateway6 = netip.MustParseAddr("fe80::1")

// address6 gives the host the interface's IPv6 address, as soon as there is one.
func (r *Router) address6(n *Interface, l *link) error {
	a := n.In(ip.V6)
	if a == l.six || !a.IsValid() {
		return nil
	}
	if err := l.host.AddAddr(l.dev, host(a)); err != nil {
		return err
	}
	if err := r.AddRoute(lab.Route{Dst: host(a), Dev: l.name}); err != nil {
		return err
	}
	if l.six = a; n.index > 0 {
		return nil
	}
	l.host.SetAddr(a)
	return l.host.SetDefaultRoute(gateway6, l.dev)
}

// haveGateway gives the router its address in a subnet.
func (r *Router) haveGateway(s *Subnet) error {
	gateway := netip.PrefixFrom(s.gateway(), 32)
	addrs, err := r.Addrs("lo")
	if err != nil || slices.Contains(addrs, gateway) {
		return err
	}
	return r.AddAddr("lo", gateway)
}

// serve has a handler serve port 80 of an address of the namespace, to those
// who come by the interface if one is named.
func serve(ns *lab.Namespace, addr, dev string, handler http.Handler) (*http.Server, error) {
	config := net.ListenConfig{Control: bindTo(dev)}
	var listener net.Listener
	err := ns.Do(func() (err error) {
		listener, err = config.Listen(context.Background(), "tcp4", net.JoinHostPort(addr, "80"))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening at %s on %s: %w", addr, ns.Name, err)
	}
	s := &http.Server{Handler: handler, ConnContext: keepConn, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(listener) }()
	return s, nil
}
