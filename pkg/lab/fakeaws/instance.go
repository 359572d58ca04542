package fakeaws

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"flanneld/pkg/ip"
)

// The states of an instance, with the codes that EC2 gives them.
const (
	running    = "running"
	stopped    = "stopped"
	terminated = "terminated"
)

var stateCodes = map[string]int{running: 16, terminated: 48, stopped: 80}

// InstanceOptions are the ways in which an instance may be special.
type InstanceOptions struct {
	// Addr is the private address; zero means the subnet's first free one.
	Addr netip.Addr
	// Role is the IAM role whose credentials its metadata has, if any.
	Role string
	// Metadata is how its metadata service answers.
	Metadata MetadataOptions
}

// Instance is a virtual machine.
type Instance struct {
	ID string

	cloud       *Cloud
	subnet      *Subnet
	addr        netip.Addr
	launched    time.Time
	reservation string

	// Under the cloud's lock.
	role        string
	state       versioned[string]
	interfaces  versioned[[]*Interface]
	metadata    MetadataOptions
	tokens      map[string]time.Time // of IMDSv2, with their ends
	credentials Credentials          // the role's last
}

// Interface is a network interface of an instance.
type Interface struct {
	ID     string
	MAC    net.HardwareAddr
	Addr   netip.Addr
	Subnet *Subnet

	attachment string
	attached   time.Time

	// Under the cloud's lock.
	six      netip.Addr           // zero without IPv6
	instance versioned[*Instance] // nil once it is detached
	index    int
	check    versioned[bool] // the source/destination check
}

func (i *Instance) id() string  { return i.ID }
func (n *Interface) id() string { return n.ID }

// RunInstance starts an instance with one interface in the subnet.
func (c *Cloud) RunInstance(s *Subnet, opts InstanceOptions) (*Instance, error) {
	var i *Instance
	err := c.change(func() (err error) {
		i, err = c.runInstance(s, opts)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("running an instance: %w", err)
	}
	return i, nil
}

func (c *Cloud) runInstance(s *Subnet, opts InstanceOptions) (*Instance, error) {
	i := &Instance{
		ID: c.newID("i"), cloud: c, subnet: s, role: opts.Role, launched: c.clock(),
		reservation: c.newID("r"), metadata: opts.Metadata, tokens: map[string]time.Time{},
	}
	i.state.set(c.clock(), running)
	i.interfaces.set(c.clock(), nil)
	n, err := i.attach(s, opts.Addr)
	if err != nil {
		return nil, err
	}
	i.addr = n.Addr
	c.instances.set(c.clock(), append(slices.Clone(c.instances.now()), i))
	return i, nil
}

// Attach gives the instance a further interface, in a subnet of its zone and
// with an address or, if that is zero, the first free one.
func (i *Instance) Attach(s *Subnet, addr netip.Addr) (*Interface, error) {
	var n *Interface
	err := i.cloud.change(func() (err error) {
		n, err = i.attach(s, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attaching an interface to %s: %w", i.ID, err)
	}
	return n, nil
}

func (i *Instance) attach(s *Subnet, addr netip.Addr) (*Interface, error) {
	c := i.cloud
	if s.Zone != i.subnet.Zone || s.VPC != i.subnet.VPC {
		return nil, fmt.Errorf("%s is not in the zone and VPC of the instance", s.ID)
	}
	if i.state.now() == terminated {
		return nil, fmt.Errorf("%s is terminated", i.ID)
	}
	if !addr.IsValid() {
		var err error
		if addr, err = c.freeAddr(s); err != nil {
			return nil, err
		}
	}
	if !s.Prefix.Contains(addr) {
		return nil, fmt.Errorf("%s is not in %s", addr, s.Prefix)
	}
	if taken := c.interfaceAt(s.VPC, addr); taken != nil {
		return nil, fmt.Errorf("%s is taken by %s", addr, taken.ID)
	}
	n := &Interface{
		ID: c.newID("eni"), Addr: addr, Subnet: s,
		attachment: c.newID("eni-attach"), attached: c.clock(),
	}
	n.MAC = net.HardwareAddr{0x02, 0x02, byte(c.serial >> 24), byte(c.serial >> 16), byte(c.serial >> 8), byte(c.serial)}
	for _, other := range i.interfaces.now() {
		n.index = max(n.index, other.index+1)
	}
	n.six = s.address6(addr)
	n.instance.set(c.clock(), i)
	n.check.set(c.clock(), true)
	i.interfaces.set(c.clock(), append(slices.Clone(i.interfaces.now()), n))
	c.interfaces.set(c.clock(), append(slices.Clone(c.interfaces.now()), n))
	return n, nil
}

// Interfaces lists the interfaces in the order of their device numbers.
func (i *Instance) Interfaces() []*Interface {
	i.cloud.mu.Lock()
	defer i.cloud.mu.Unlock()
	return slices.Clone(i.interfaces.now())
}

// Interface is the first interface, or nil of an instance that is terminated.
func (i *Instance) Interface() *Interface {
	if list := i.Interfaces(); len(list) > 0 {
		return list[0]
	}
	return nil
}

// Detach takes an interface, not the first, from its instance. It stays.
func (n *Interface) Detach() error {
	c := n.Subnet.VPC.cloud
	return c.change(func() error {
		i := n.instance.now()
		if i == nil || n.index == 0 {
			return fmt.Errorf("detaching %s: it is not attached, or the first interface", n.ID)
		}
		left := slices.DeleteFunc(slices.Clone(i.interfaces.now()), func(x *Interface) bool { return x == n })
		i.interfaces.set(c.clock(), left)
		n.instance.set(c.clock(), nil)
		return nil
	})
}

// Delete deletes an interface that is not attached; its address is free again.
func (n *Interface) Delete() error {
	c := n.Subnet.VPC.cloud
	return c.change(func() error {
		if n.instance.now() != nil {
			return fmt.Errorf("deleting %s: it is attached", n.ID)
		}
		c.interfaces.set(c.clock(), slices.DeleteFunc(slices.Clone(c.interfaces.now()), func(x *Interface) bool { return x == n }))
		return nil
	})
}

// address6 is the IPv6 address for the interface that has this IPv4 address, if the subnet has
// IPv6.
func (s *Subnet) address6(four netip.Addr) netip.Addr {
	if !s.six.IsValid() {
		return netip.Addr{}
	}
	a, b := s.six.Addr().As16(), four.As4()
	copy(a[12:], b[:])
	return netip.AddrFrom16(a)
}

// AssignIPv6 gives the interface an address of its subnet's IPv6 network.
func (n *Interface) AssignIPv6() error {
	return n.Subnet.VPC.cloud.change(func() error {
		if n.six = n.Subnet.address6(n.Addr); !n.six.IsValid() {
			return fmt.Errorf("assigning %s an address: %s has no IPv6", n.ID, n.Subnet.ID)
		}
		return nil
	})
}

// UnassignIPv6 takes the interface's IPv6 address away. A host does not notice that: in real life
// it has the address until its lease of it ends.
func (n *Interface) UnassignIPv6() {
	_ = n.Subnet.VPC.cloud.change(func() error {
		n.six = netip.Addr{}
		return nil
	})
}

// In is the interface's address in a family; zero if it has none.
func (n *Interface) In(f ip.Family) netip.Addr {
	n.Subnet.VPC.cloud.mu.Lock()
	defer n.Subnet.VPC.cloud.mu.Unlock()
	return n.in(f)
}

func (n *Interface) in(f ip.Family) netip.Addr {
	if f == ip.V4 {
		return n.Addr
	}
	return n.six
}

// SourceDestCheck tells whether EC2 drops what is not from or for the
// interface's own address.
func (n *Interface) SourceDestCheck() bool {
	n.Subnet.VPC.cloud.mu.Lock()
	defer n.Subnet.VPC.cloud.mu.Unlock()
	return n.check.now()
}

// SetSourceDestCheck turns the check on or off, as an operator may.
func (n *Interface) SetSourceDestCheck(on bool) {
	c := n.Subnet.VPC.cloud
	_ = c.change(func() error {
		n.check.set(c.clock(), on)
		return nil
	})
}

// SetRole gives the instance another IAM role, or takes it away if that is empty.
func (i *Instance) SetRole(role string) {
	i.cloud.mu.Lock()
	defer i.cloud.mu.Unlock()
	i.role, i.credentials = role, Credentials{}
}

// Stop stops the instance; it keeps its interfaces. One that does not run is
// left as it is.
func (i *Instance) Stop() { i.become(running, stopped) }

// Start starts a stopped instance.
func (i *Instance) Start() { i.become(stopped, running) }

func (i *Instance) become(from, to string) {
	_ = i.cloud.change(func() error {
		if i.state.now() == from {
			i.state.set(i.cloud.clock(), to)
		}
		return nil
	})
}

// Terminate ends the instance. Its interfaces are deleted.
func (i *Instance) Terminate() {
	_ = i.cloud.change(func() error {
		i.terminate()
		return nil
	})
}

func (i *Instance) terminate() {
	c := i.cloud
	left := slices.DeleteFunc(slices.Clone(c.interfaces.now()), func(n *Interface) bool { return n.instance.now() == i })
	i.state.set(c.clock(), terminated)
	i.interfaces.set(c.clock(), nil)
	c.interfaces.set(c.clock(), left)
}

// Replace terminates the instance and runs another one with the same subnet,
// private address, role and metadata options.
func (i *Instance) Replace() (*Instance, error) {
	var next *Instance
	err := i.cloud.change(func() (err error) {
		i.terminate()
		next, err = i.cloud.runInstance(i.subnet, InstanceOptions{Addr: i.addr, Role: i.role, Metadata: i.metadata})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("replacing %s: %w", i.ID, err)
	}
	return next, nil
}
