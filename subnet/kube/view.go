package kube

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
	"flanneld/subnet"
)

// view is what is known of all Nodes, as leases. It is not safe for concurrent use.
type view struct {
	names *names
	self  string // the name of our Node
	said  *subnet.Attrs
	// cluster returns of which cluster the Nodes are that are entered.
	cluster func() string

	entries  map[string]*entry // by name
	claims   map[ip.Subnet][]*entry
	leases   []*subnet.Lease // by subnet; shared with snapshots: replaced, never changed
	problems map[string]subnet.Problem
	own      *subnet.Assignment
	// warnings say what is wrong beside what leases say: by address, which Nodes share it, and what
	// our Node asks for that cannot be, which has no address.
	warnings map[netip.Addr]string
	warned   map[netip.Addr]string // what was logged of that
	public   map[netip.Addr][]*entry

	revision uint64 // all up to here is in the view
	written  uint64 // the revision of our own last write
	listed   bool   // false: all is to be listed before it is followed
	listedAt time.Time
	follows  bool  // a watch keeps it up to date
	refused  error // why the API lets it not be followed, or nil
}

// entry is a Node.
type entry struct {
	node
	has    ip.Subnet     // its podCIDRs
	subnet ip.Subnet     // that it claims: in the families of which it says anything; not valid for none
	bad    ip.Subnet     // the part of that which cannot be read now
	lease  *subnet.Lease // as it was last readable
	why    string        // it cannot be read now
}

func newView(names *names, self string) *view {
	v := &view{
		names: names, self: self,
		entries: make(map[string]*entry), claims: make(map[ip.Subnet][]*entry),
		problems: make(map[string]subnet.Problem), warnings: make(map[netip.Addr]string), public: make(map[netip.Addr][]*entry),
		cluster: func() string { return "" },
	}
	v.assign()
	return v
}

// snapshot returns what the view shows.
func (v *view) snapshot() subnet.Snapshot {
	s := subnet.Snapshot{Leases: v.leases, Revision: max(v.revision, v.written), Own: v.own}
	for _, p := range v.problems {
		s.Problems = append(s.Problems, p)
	}
	slices.SortFunc(s.Problems, func(a, b subnet.Problem) int { return strings.Compare(a.Key, b.Key) })
	return s
}

// reset takes all Nodes that there are.
func (v *view) reset(nodes []node) {
	there := make(map[string]bool, len(nodes))
	touched := make(map[ip.Subnet]bool)
	for i := range nodes {
		there[nodes[i].name] = true
		v.enter(nodes[i], touched)
	}
	for name, e := range v.entries {
		if !there[name] {
			v.leave(e, touched)
		}
	}
	v.settle(touched)
	v.assign() // they may be of another cluster
}

// put takes a Node as it is now, and reports whether anything changed that matters. What
// is older than what is known is left out.
func (v *view) put(n node) (changed bool) {
	if e := v.entries[n.name]; e != nil && n.revision < e.revision {
		return false
	}
	own, problem, touched := v.own, v.problems[n.name], make(map[ip.Subnet]bool)
	v.enter(n, touched)
	return v.settle(touched) || v.own != own || v.problems[n.name] != problem
}

// remove takes a Node away, and reports whether there was one.
func (v *view) remove(n node) (changed bool) {
	e := v.entries[n.name]
	if e == nil || n.revision < e.revision {
		return false
	}
	own, problem, touched := v.own, v.problems[n.name], make(map[ip.Subnet]bool)
	v.leave(e, touched)
	return v.settle(touched) || v.own != own || v.problems[n.name] != problem
}

// enter takes a Node, and notes which subnets it has to do with.
func (v *view) enter(n node, touched map[ip.Subnet]bool) {
	e := v.entries[n.name]
	if e != nil && e.same(n) {
		e.revision = n.revision
		return
	}
	if e == nil {
		e = &entry{}
		v.entries[n.name] = e
	}
	was, public := e.subnet, e.addresses()
	e.node = n
	v.read(e)
	if is := e.addresses(); is != public {
		v.unshare(e, public)
		v.share(e, is)
	}
	if was != e.subnet {
		v.unclaim(e, was)
		if e.subnet.IsValid() {
			v.claims[e.subnet] = append(v.claims[e.subnet], e)
		}
	}
	if !e.subnet.IsValid() { // else it is up to decide
		delete(v.problems, e.name)
		if e.why != "" && e.name != v.self {
			v.problems[e.name] = subnet.Problem{Key: "nodes/" + e.name, Revision: e.revision, Reason: fmt.Sprintf("the Node %s cannot be used: %s", printable.Name(e.name), e.why)}
		}
	}
	touched[was], touched[e.subnet] = true, true
	if n.name == v.self {
		v.assign()
	}
}

func (v *view) leave(e *entry, touched map[ip.Subnet]bool) {
	delete(v.entries, e.name)
	delete(v.problems, e.name)
	v.unshare(e, e.addresses())
	v.unclaim(e, e.subnet)
	touched[e.subnet] = true
	if e.name == v.self {
		v.assign()
	}
}

func (v *view) unclaim(e *entry, s ip.Subnet) {
	others := slices.DeleteFunc(v.claims[s], func(o *entry) bool { return o == e })
	if len(others) == 0 {
		delete(v.claims, s)
	} else {
		v.claims[s] = others
	}
}

// addresses are the public addresses of a Node's lease; none if it has no lease.
func (e *entry) addresses() ip.Addrs {
	if e.lease == nil {
		return ip.Addrs{}
	}
	return e.lease.PublicIP
}

// share takes the public addresses of a Node. Two with one address may be one host, registered
// anew by another name, so both are used; but one of them gets packets for both.
func (v *view) share(e *entry, addrs ip.Addrs) {
	for _, f := range ip.Families {
		if a := addrs.Of(f); a.IsValid() {
			v.public[a] = append(v.public[a], e)
			v.judge(a)
		}
	}
}

func (v *view) unshare(e *entry, addrs ip.Addrs) {
	for _, f := range ip.Families {
		if a := addrs.Of(f); a.IsValid() {
			v.public[a] = slices.DeleteFunc(v.public[a], func(o *entry) bool { return o == e })
			v.judge(a)
		}
	}
}

// judge says what is wrong with a public address.
func (v *view) judge(a netip.Addr) {
	all := v.public[a]
	switch len(all) {
	case 0:
		delete(v.public, a)
		fallthrough
	case 1:
		delete(v.warnings, a)
		return
	}
	const few = 5
	var them []string
	for _, e := range all[:min(few, len(all))] {
		them = append(them, printable.Name(e.name))
	}
	slices.Sort(them)
	if more := len(all) - few; more > 0 {
		them = append(them, fmt.Sprintf("and %d more", more))
	}
	v.warnings[a] = fmt.Sprintf("the Nodes %s have one public address, %s: one host gets the packets for the pods of all; delete the Nodes that are no more, or give each host an address of its own", strings.Join(them, ", "), a)
}

// warningsNow returns what is wrong beside what leases say.
func (v *view) warningsNow() map[netip.Addr]string {
	if len(v.warnings) == 0 {
		return nil
	}
	return maps.Clone(v.warnings)
}

// read reads what a Node says.
func (v *view) read(e *entry) {
	before := e.lease
	e.has, e.subnet, e.bad, e.lease, e.why = ip.Subnet{}, ip.Subnet{}, ip.Subnet{}, nil, ""
	if !e.peer() && e.name != v.self {
		return
	}
	s, err := e.node.subnet()
	if err != nil {
		e.why = printable.Line(err.Error())
		return
	}
	e.has, e.subnet = s, s
	if !s.IsValid() || !e.peer() {
		return
	}
	s = e.published(s)
	e.subnet = s
	a, bad, err := e.attrs(v.names, s)
	if err != nil {
		e.why, e.bad = printable.Line(err.Error()), bad
		if e.name == v.self { // it is mended
			return
		}
		if bad == s && (before == nil || before.Subnet != s) {
			return
		}
		if bad == s {
			e.lease = before
			return
		}
		a = a.FilledFrom(before, s)
	}
	if e.name == v.self {
		a = v.inOurWords(a)
	}
	if before != nil && before.Subnet == s && before.Attrs == a && before.Created == e.created {
		e.lease = before
		return
	}
	e.lease = &subnet.Lease{Subnet: s, Attrs: a, Revision: e.revision, Created: e.created}
}

// inOurWords is what our Node says, as it was published, if it says the same.
func (v *view) inOurWords(a subnet.Attrs) subnet.Attrs {
	if v.said == nil {
		return a
	}
	a.Machine = v.said.Machine
	if sameData(a.BackendData, v.said.BackendData) {
		a.BackendData = v.said.BackendData
	}
	if sameData(a.BackendV6Data, v.said.BackendV6Data) {
		a.BackendV6Data = v.said.BackendV6Data
	}
	return a
}

// say takes what was published.
func (v *view) say(a *subnet.Attrs) {
	v.said = a
	if e := v.entries[v.self]; e != nil {
		v.read(e)
		v.settle(map[ip.Subnet]bool{e.subnet: true})
	}
}

// settle finds out which leases there are of subnets that something happened to, and reports
// whether there are others than before.
func (v *view) settle(touched map[ip.Subnet]bool) (changed bool) {
	delete(touched, ip.Subnet{})
	const few = 16
	if len(touched) > few {
		v.leases = make([]*subnet.Lease, 0, len(v.claims))
		for s := range v.claims {
			if l, _ := v.decide(s); l != nil {
				v.leases = append(v.leases, l)
			}
		}
		slices.SortFunc(v.leases, func(a, b *subnet.Lease) int { return a.Subnet.Compare(b.Subnet) })
		return true
	}
	for s := range touched {
		l, others := v.decide(s)
		i, found := slices.BinarySearchFunc(v.leases, s, func(l *subnet.Lease, s ip.Subnet) int { return l.Subnet.Compare(s) })
		switch {
		case found && l == v.leases[i], !found && l == nil:
			changed = changed || others
			continue
		case !found:
			v.leases = slices.Insert(slices.Clone(v.leases), i, l)
		case l == nil:
			v.leases = slices.Delete(slices.Clone(v.leases), i, i+1)
		default:
			v.leases = slices.Clone(v.leases)
			v.leases[i] = l
		}
		changed = true
	}
	return changed
}

// decide returns the lease of a subnet: that of the oldest Node which has it. The others
// have a problem; changed says whether another one than before.
func (v *view) decide(s ip.Subnet) (l *subnet.Lease, changed bool) {
	all := v.claims[s]
	if len(all) == 0 {
		return nil, false
	}
	first := all[0]
	for _, e := range all[1:] {
		if e.older(&first.node) {
			first = e
		}
	}
	for _, e := range all {
		before := v.problems[e.name]
		switch {
		case e != first:
			v.problems[e.name] = subnet.Problem{
				Key: s.Key() + "/" + e.name, Withdraw: true, Revision: e.revision,
				Reason: fmt.Sprintf("the Node %s has the podCIDR %s, which is also that of the Node %s: this is older, and counts; delete the other one, so that it is registered anew", printable.Name(e.name), s, printable.Name(first.name)),
			}
		case e.why != "" && e.name != v.self:
			v.problems[e.name] = subnet.Problem{Key: s.Key() + "/" + e.name, Subnet: e.bad, Part: e.bad != s, Revision: e.revision, Reason: fmt.Sprintf("the Node %s cannot be read: %s", printable.Name(e.name), e.why)}
		default:
			delete(v.problems, e.name)
		}
		changed = changed || v.problems[e.name] != before
	}
	return first.lease, changed
}

// assign finds out what this host is given.
func (v *view) assign() {
	a := &subnet.Assignment{Host: v.self, Cluster: v.cluster()}
	name := printable.Name(v.self)
	e := v.entries[v.self]
	switch {
	case e == nil:
		a.Missing = fmt.Sprintf("there is no Node %s: kubelet has yet to register it, or NODE_NAME is not the name of this host's Node", name)
	case e.why != "" && !e.has.IsValid():
		a.Missing = fmt.Sprintf("the Node %s cannot be used: %s", name, e.why)
	case !e.has.IsValid():
		a.Missing = fmt.Sprintf("the Node %s has no podCIDR: kube-controller-manager gives it one if it runs with --allocate-node-cidrs and --cluster-cidr (kubeadm init --pod-network-cidr)", name)
	}
	var failed []error
	if e == nil && v.own != nil {
		a.Requested, a.Overwrite = v.own.Requested, v.own.Overwrite // nobody took them back
	}
	if e != nil {
		var err error
		a.Subnet, a.Created, a.Available = e.has, e.created, e.available
		a.Requested, err = e.asked(v.names, func(f ip.Family) key { return familyKeys[f].requested })
		failed = append(failed, err)
		a.Overwrite, err = e.asked(v.names, func(f ip.Family) key { return familyKeys[f].overwrite })
		failed = append(failed, err)
		if e.peer() {
			a.Published, _, _ = e.attrs(v.names, e.subnet)
		}
	}
	said := v.warnings[netip.Addr{}]
	delete(v.warnings, netip.Addr{})
	if err := errors.Join(failed...); err != nil {
		v.warnings[netip.Addr{}] = fmt.Sprintf("the Node %s: %s", name, printable.Line(err.Error()))
	}
	if v.own == nil || *v.own != *a || v.warnings[netip.Addr{}] != said {
		v.own = a
	}
}
