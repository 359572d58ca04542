package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/backend"
	"flanneld/backend/udp"
	"flanneld/backend/vxlan"
	"flanneld/network"
	"flanneld/network/doctor"
	"flanneld/pkg/cni"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/firewall"
	"flanneld/pkg/ip"
	"flanneld/pkg/once"
	"flanneld/pkg/state"
	"flanneld/pkg/status"
	"flanneld/pkg/tun"
	"flanneld/subnet"
)

// gathering finds out the facts that -doctor judges. It changes nothing on this host.
type gathering struct {
	options *options
	machine host
	facts   *doctor.Facts
	// host and desired are what the daemon goes by, or would.
	host    backend.Host
	desired network.Desired
}

// gather returns the facts of this host.
func gather(ctx context.Context, o *options, machine host) *doctor.Facts {
	name, _ := os.Hostname()
	g := &gathering{options: o, machine: machine, facts: &doctor.Facts{
		Version: version, Host: name, Now: time.Now(), Margin: o.renewMargin, SubnetFile: o.subnetFile, CNIFile: o.cniFile, CNIBridge: o.cniFile != "",
		Underlays: make(map[ip.Family]doctor.Underlay), Foreign: make(map[ip.Family][]kernel.TableRoute),
	}}
	f := g.facts
	g.askDaemon(ctx)
	f.Env, f.NoEnv = network.ReadEnv(o.subnetFile)
	f.Interfaces, f.NoInterfaces = machine.Interfaces(ctx)
	snapshot := g.askStore(ctx)
	f.Now = time.Now()
	f.Boot = bootOrder(ctx)
	if v, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(v))); err == nil {
			f.Bridged = &n
		}
	}
	g.findUnderlays(ctx)
	if f.Config == nil {
		return f
	}
	g.findOwn(snapshot)
	g.lookAtHost(ctx)
	return f
}

// settling is how long objects may be missing for no fault: what others do to rules for packets
// has to come to an end before these are put right.
const settling = 10 * time.Second

func askStatus(ctx context.Context, subnetFile string) (*status.Status, error) {
	content, err := ask(ctx, subnetFile, "/status.json")
	if err != nil {
		return nil, err
	}
	s := new(status.Status)
	return s, json.Unmarshal(content, s)
}

// askDaemon asks the daemon that runs here.
func (g *gathering) askDaemon(ctx context.Context) {
	f := g.facts
	s, err := askStatus(ctx, g.options.subnetFile)
	for end := time.Now().Add(settling); err == nil && s.Unsettled() && time.Now().Before(end); {
		if err = once.Sleep(ctx, settling/20); err == nil {
			s, err = askStatus(ctx, g.options.subnetFile)
		}
	}
	if err != nil {
		f.NoDaemon, f.Stopped = err, errors.Is(err, errNotRunning)
		return
	}
	f.Daemon = s
	content, err := ask(ctx, g.options.subnetFile, "/peers.json")
	if err == nil {
		err = json.Unmarshal(content, &f.Peers)
	}
	if err != nil {
		f.Peers = s.Peers.Troubled
	}
}

// askStore asks the store, and the file in which this host keeps what it had, if the store
// does not answer.
func (g *gathering) askStore(ctx context.Context) subnet.Snapshot {
	f, o := g.facts, *g.options
	o.iface.MachineID = machineID()
	g.options.iface.MachineID = o.iface.MachineID
	f.Store = doctor.Store{Name: o.source().name, Kubernetes: o.kube != nil}
	if slices.Equal(o.etcd.Endpoints, defaultEndpoints) && o.kube == nil {
		f.Store.Guessed = true
		if d := f.Daemon; d != nil && d.Store.Name == f.Store.Name && len(d.Store.Endpoints) > 0 {
			o.etcd.Endpoints = d.Store.Endpoints
		}
	}
	f.Store.Servers, f.Store.Err = o.source().examine(ctx, &o)
	snapshot, err := g.read(ctx, &o)
	f.Machine = o.source().host(&o)
	if f.NoConfig == nil && err == nil {
		return snapshot
	}
	if s, err := g.options.saved(); err == nil && f.NoConfig != nil && !errors.Is(f.NoConfig, subnet.ErrNoConfig) {
		if b, err := backends.New(s.Config); err == nil { // else another version has saved it
			f.Config, f.Backend, f.Saved, f.Own, snapshot = s.Config, b, true, s.Own, s.Snapshot
		}
	}
	return snapshot
}

// read reads what the store has of the network.
func (g *gathering) read(ctx context.Context, o *options) (snapshot subnet.Snapshot, err error) {
	f := g.facts
	down := !slices.ContainsFunc(f.Store.Servers, func(h subnet.ServerHealth) bool { return h.Err == nil })
	if f.Store.Err != nil || down {
		f.NoLeases = fmt.Errorf("%s does not answer", f.Store.Name)
		if f.NoConfig = f.NoLeases; o.kube == nil {
			return snapshot, f.NoLeases
		}
	}
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	o.stateDir = "" // nothing is to be noted there
	store, err := o.source().open(ctx, o, func(string) {})
	if err != nil {
		f.NoConfig, f.NoLeases = err, err
		return snapshot, err
	}
	defer store.Close()
	parse := subnet.ParseConfig
	if o.kube != nil {
		parse = subnet.ParseConfigAssigned
	}
	text, err := store.Config(ctx)
	if err == nil {
		f.Config, err = parse(text)
	}
	if err == nil {
		f.Backend, err = backends.New(f.Config)
	}
	if f.NoConfig = err; err != nil {
		f.Config = nil
	}
	if f.NoLeases == nil {
		snapshot, f.NoLeases = store.List(ctx)
	}
	f.Leases = snapshot.Leases
	return snapshot, f.NoLeases
}

// storePatience is how long the store has to tell what it has of the network.
const storePatience = 10 * time.Second

// findUnderlays finds the external interfaces: those that the daemon uses, and the best ones.
func (g *gathering) findUnderlays(ctx context.Context) {
	f := g.facts
	families := []ip.Family{ip.V4}
	if f.Config != nil {
		families = f.Config.Families()
	}
	for _, family := range families {
		best, err := g.options.iface.Choose(ctx, g.machine, family, g.host)
		if err != nil {
			for l := range ownLeases(g.options, f.Env.Subnet, f.Leases) {
				if u, again := g.options.iface.Choose(ctx, g.machine, family, g.host, l.PublicIP.Of(family)); again == nil {
					best, err = u, nil
				}
			}
		}
		u := doctor.Underlay{Used: best, Best: best, Err: err}
		if used, ok := g.usedByDaemon(family); ok {
			u.Used, u.Err = used, nil
			if used.Iface == best.Iface && used.Addr == best.Addr {
				u.Used = best
			}
		}
		f.Underlays[family] = u
		g.host.Set(family, u.Used)
	}
}

// usedByDaemon returns the underlay that the daemon says it uses, if it still is there.
func (g *gathering) usedByDaemon(family ip.Family) (u backend.Underlay, ok bool) {
	if g.facts.Daemon == nil {
		return u, false
	}
	for _, n := range g.facts.Daemon.Network {
		for _, i := range g.facts.Interfaces {
			for _, a := range i.Addrs {
				if n.Name == family.String() && i.Name == n.Iface && a.Prefix.Addr() == n.Addr {
					return backend.Underlay{Iface: i.Name, MTU: i.MTU, Up: i.Up, Addr: n.Addr, Net: a.Prefix.Masked(), PublicIP: n.PublicIP, OwnsPublicIP: n.PublicIP == n.Addr}, true
				}
			}
		}
	}
	return u, false
}

// findOwn finds this host's lease, and which of the others can be used.
func (g *gathering) findOwn(s subnet.Snapshot) {
	f := g.facts
	ours := func(l *subnet.Lease) bool {
		if l.Machine != "" && f.Machine != "" && !subnet.SameMachine(l.Machine, f.Machine) {
			return false
		}
		return l.Machine != "" || l.PublicIP.Matches(g.host.PublicIP())
	}
	had := func(l *subnet.Lease) bool {
		if d := f.Daemon; d != nil && d.Lease != nil {
			return l.Subnet.String() == d.Lease.Subnet
		}
		return l.Subnet == f.Env.Subnet || !f.Env.Subnet.IsValid() && l.PublicIP.Matches(g.host.PublicIP())
	}
	for _, l := range s.Leases {
		if ours(l) && had(l) {
			f.Own = l
		}
	}
	g.desired = network.Desired{Backend: f.Backend, Config: f.Config, Own: f.Own, Networks: f.Config.Network().Prefixes()}
	if f.Own == nil { // the host has any part of the network
		g.desired.Own = &subnet.Lease{Subnet: f.Config.Network(), Attrs: subnet.Attrs{PublicIP: g.host.PublicIP()}}
		f.Others = slices.Clone(s.Leases)
		return
	}
	addresses := network.NewAddresses(g.machine, func() {})
	addresses.Take(f.Interfaces)
	self := subnet.Self{Addr: g.host.Addrs(), Link: g.host.Net(), All: addresses.All()}
	view := new(subnet.Peers).Update(subnet.Holding{Config: f.Config, Own: f.Own, Snapshot: s}, self, f.Now)
	f.Others, f.Unfit = view.Peers, view.Unfit
	g.desired.Peers, g.desired.Unreadable = view.Peers, view.Unreadable
}

// lookAtHost looks at the kernel and at files.
func (g *gathering) lookAtHost(ctx context.Context) {
	f := g.facts
	g.findDevices(ctx)
	g.desired.Host = g.host
	passages := network.NewPassages(g.machine, nil)
	passages.OwnBridge = g.options.cniFile != ""
	f.Passages, f.NoPassages = passages.Look(ctx, &g.desired)
	f.Filters, f.NoFilters = network.NewFirewalls(g.machine, nil).Look(ctx, &g.desired)
	if f.NoFilters == nil {
		f.NoFilters = firewall.Read(ctx, func(rs *firewall.Ruleset) {
			f.Managers = nil
			for _, o := range rs.Owners() {
				f.Managers = append(f.Managers, string(o))
			}
		})
	}
	view, ok := g.machine.(network.PathView)
	if !ok {
		f.NoPaths = errors.New("this host does not tell which way packets take")
		f.NoForeign = f.NoPaths
		return
	}
	if f.Own != nil {
		f.Paths, f.NoPaths = network.LookAtPaths(ctx, view, g.desired)
	}
	for family, u := range f.Underlays {
		if wrong, err := network.WrongInterface(ctx, view, family, u.Used, f.Interfaces, f.Others); err == nil {
			u.Wrong = wrong
			f.Underlays[family] = u
		} else {
			f.NoInterfaces = err
		}
	}
	for _, family := range f.Config.Families() {
		f.Foreign[family], f.NoForeign = view.ForeignRoutes(ctx, family, f.Config.Of(family).Network.Overlaps)
		if f.NoForeign != nil {
			break
		}
	}
	if f.CNIFile != "" && f.Own != nil {
		problems, err := cni.New(f.CNIFile, g.options.cniTemplate).Look(cni.Values{
			Network: f.Config.Network(), Subnet: f.Own.Subnet, MTU: f.Backend.MTU(g.host), IPMasq: g.options.ipMasq, Iface: g.host.First().Iface,
		})
		f.NoCNI, f.LookedAtCNI = err, true
		for _, p := range problems {
			f.CNI = append(f.CNI, network.Obstacle{Subject: p.Subject, Problem: p.Problem, Remedy: p.Remedy})
		}
	}
}

// findDevices finds which devices are the backend's, and what it needs of the kernel.
func (g *gathering) findDevices(ctx context.Context) {
	f := g.facts
	if _, ok := f.Backend.(backend.Preparer); ok {
		if all, err := tun.List(ctx); err == nil {
			for _, d := range all {
				if d.Alias == state.TUNAlias(f.Config.V4.Network) {
					g.host.Prepared = d.Name
				}
			}
		}
	}
	if feature := features[f.Config.BackendType]; feature != nil {
		f.Features = append(f.Features, feature(f.Interfaces))
	}
	for _, family := range f.Config.Families() {
		if d := f.Backend.Device(g.host, family); d != "" {
			f.Devices = append(f.Devices, d)
		}
	}
	if f.Config.V6.Network.IsValid() {
		_, err := os.Stat("/proc/sys/net/ipv6")
		f.Features = append(f.Features, doctor.Feature{Name: "IPv6", Has: err == nil, Remedy: "start the host without ipv6.disable=1"})
	}
}

// features are what backends need of the kernel.
var features = map[string]func([]kernel.Interface) doctor.Feature{
	udp.Type.Name: tunFeature,
	vxlan.Type.Name: func(ifaces []kernel.Interface) doctor.Feature {
		return moduleFeature("VXLAN", "vxlan", slices.ContainsFunc(ifaces, func(i kernel.Interface) bool { return i.VXLAN }))
	},
}

// tunFeature is whether the kernel has TUN devices.
func tunFeature([]kernel.Interface) doctor.Feature {
	const device = "/dev/net/tun"
	k := doctor.Feature{Name: "TUN devices", Remedy: "modprobe tun; in a container, let it have " + device}
	_, err := os.Stat(device)
	if k.Has = err == nil; err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.Err = err
	}
	return k
}

// moduleFeature is whether the kernel has a module, or could load it. Nobody asks it to.
func moduleFeature(name, module string, used bool) doctor.Feature {
	k := doctor.Feature{Name: name, Has: used, Remedy: "modprobe " + module + "; where it is not found, install the kernel's further modules, such as linux-modules-extra, or use the backend udp"}
	if used {
		return k
	}
	if _, err := os.Stat("/sys/module/" + module); err == nil {
		k.Has = true
		return k
	}
	var u unix.Utsname
	if k.Err = unix.Uname(&u); k.Err != nil {
		return k
	}
	folder := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		content, err := os.ReadFile(filepath.Join(folder, list))
		if err != nil {
			k.Err = fmt.Errorf("no device shows it, and which modules there are cannot be seen: %w", err)
			return k
		}
		if strings.Contains(string(content), "/"+module+".ko") {
			k.Has = true
			return k
		}
	}
	return k
}

// bootOrder is in which order systemd starts what needs this host's subnet.
func bootOrder(ctx context.Context) (b doctor.Boot) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return b // another one starts what is started here
	}
	const ours, docker = "flanneld.service", "docker.service"
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=Id,LoadState,ActiveState,UnitFileState,After", ours, docker).Output()
	if err != nil {
		b.Err = fmt.Errorf("asking systemd: %w", err)
		return b
	}
	used := make(map[string]bool)
	after := make(map[string]string)
	for unit := range strings.SplitSeq(string(out), "\n\n") {
		values := make(map[string]string)
		for line := range strings.Lines(unit) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			values[name] = value
		}
		used[values["Id"]] = values["LoadState"] == "loaded" && (values["ActiveState"] == "active" || values["UnitFileState"] == "enabled")
		after[values["Id"]] = values["After"]
	}
	if used[ours] && used[docker] {
		b.Units = []string{docker}
		if !slices.Contains(strings.Fields(after[docker]), ours) {
			b.Before = b.Units
		}
	}
	return b
}
