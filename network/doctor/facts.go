package doctor

import (
	"time"

	"flanneld/backend"
	"flanneld/network"
	"flanneld/pkg/dataplane/kernel"
	"flanneld/pkg/ip"
	"flanneld/pkg/status"
	"flanneld/subnet"
)

// Facts are what is known of a host. What could not be found out has an error beside it, and
// is never taken for nothing.
type Facts struct {
	Version, Host string
	Now           time.Time

	// Daemon is the status of the one that runs on this host; nil if none answers, for the
	// reason NoDaemon. It does not run if Stopped is set.
	Daemon   *status.Status
	NoDaemon error
	Stopped  bool
	Peers    []status.Peer // by the daemon

	Store Store

	// Config is the configuration of the network, Saved if it is what this host knew of it once,
	// as the store cannot be asked.
	Config   *subnet.Config
	NoConfig error // also where Saved is set
	Saved    bool
	Backend  backend.Backend

	Leases   []*subnet.Lease // of all hosts
	NoLeases error
	Own      *subnet.Lease   // of this host; nil if it has none in the store
	Others   []*subnet.Lease // that can be used
	Unfit    []subnet.Problem
	Machine  string // what leases call this host
	Margin   time.Duration

	Env        network.Env // subnet.env
	NoEnv      error
	SubnetFile string

	Interfaces   []kernel.Interface
	NoInterfaces error
	Underlays    map[ip.Family]Underlay
	Features     []Feature
	Devices      []string // of the backend

	// Passages, Filters and Paths are what keeps packets from their way.
	Passages, Filters, Paths       []network.Obstacle
	NoPassages, NoFilters, NoPaths error
	Managers                       []string                          // programs that keep packet filters, and run
	Foreign                        map[ip.Family][]kernel.TableRoute // inside Network, of others
	NoForeign                      error
	Bridged                        *int // net.bridge.bridge-nf-call-iptables; nil if there is none

	CNI   []network.Obstacle
	NoCNI error
	// LookedAtCNI is set if both are of a look.
	LookedAtCNI bool
	CNIFile     string // empty if the daemon is to write none
	CNIBridge   bool   // cni0 is for this network alone

	Boot Boot
}

// Store is where leases come from, and what its servers say.
type Store struct {
	Name       string
	Kubernetes bool
	Servers    []subnet.ServerHealth
	Err        error // why none could be asked
	Guessed    bool  // no option names them
}

// down returns whether no server answers.
func (s Store) down() bool {
	for _, h := range s.Servers {
		if h.Err == nil {
			return false
		}
	}
	return true
}

// Underlay is an external interface.
type Underlay struct {
	// Used is the one that the daemon uses, or would; Err is why there is none.
	Used backend.Underlay
	Err  error
	// Best is what would be chosen now.
	Best backend.Underlay
	// Wrong is what speaks against the one in use.
	Wrong []network.Obstacle
}

// Feature is what a backend needs of the kernel.
type Feature struct {
	Name   string
	Has    bool
	Remedy string
	Err    error // why it is not known
}

// Boot is in which order units are started.
type Boot struct {
	Units  []string // that are used and need this host's subnet
	Before []string // those of them that may be started before it is known
	Err    error
}
