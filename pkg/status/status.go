// Package status says how a daemon is. All that is shown of it is made of one Status: the line
// for the service manager, the screen of -status, JSON, the answers to health checks, the
// metrics and the page. So they cannot disagree.
package status

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Status is how a daemon is at one moment.
type Status struct {
	Version string    `json:"version"`
	Host    string    `json:"host"`
	At      time.Time `json:"at"`
	Started time.Time `json:"started"`
	// Health sums up the rest.
	Health Health `json:"health"`
	// Waiting says for what the daemon waits as long as it has no subnet.
	Waiting string `json:"waiting,omitempty"`
	// Ready is set while the host carries packets as it should, and subnet.env says so.
	Ready   bool     `json:"ready"`
	Backend string   `json:"backend,omitempty"`
	MTU     int      `json:"mtu,omitempty"` // of pods; 0 until it is known
	Network []Family `json:"network,omitempty"`
	Lease   *Lease   `json:"lease,omitempty"`
	Store   Store    `json:"store"`
	Peers   Peers    `json:"peers"`
	Objects []Kind   `json:"objects,omitempty"`
	Passes  []Passes `json:"passes,omitempty"`
	Tunnels []Tunnel `json:"tunnels,omitempty"`
	// Configurations counts the network configurations that came into force since the start.
	Configurations int `json:"configurations"`
	// Problems are all that is not as it should be, of this host or of others.
	Problems []Problem `json:"problems"`
	// Recent are the last lines of the log, the latest last.
	Recent []Event `json:"recent,omitempty"`
}

// Health is how a daemon is, in a word.
type Health string

// The values of Health.
const (
	Healthy  Health = "healthy"
	Degraded Health = "degraded" // there are problems, or the host has no network yet
)

// Family is this host in the network of one address family.
type Family struct {
	Name     string       `json:"family"` // IPv4 or IPv6
	Network  netip.Prefix `json:"network"`
	Subnet   netip.Prefix `json:"subnet"`
	Iface    string       `json:"interface"`
	Addr     netip.Addr   `json:"address"`
	PublicIP netip.Addr   `json:"publicIP"` // by which others reach this host
	IfaceMTU int          `json:"interfaceMTU"`
	Device   string       `json:"device,omitempty"` // the backend's own; empty if it has none
}

// Lease is this host's own.
type Lease struct {
	Subnet  string    `json:"subnet"`
	Expires time.Time `json:"expires,omitzero"` // zero for one that never does
	// RenewMargin is how many seconds before that it is renewed.
	RenewMargin float64 `json:"renewMargin"`
}

// Store is where leases come from.
type Store struct {
	Name      string    `json:"name"`
	Endpoints []string  `json:"endpoints,omitempty"`
	Since     time.Time `json:"since,omitzero"` // it can be used, or cannot; zero before it was asked
	Down      bool      `json:"down,omitempty"`
	Reason    string    `json:"reason,omitempty"` // why it is down
	Outages   int       `json:"outages"`          // since the daemon was started
}

// Peers are the other hosts.
type Peers struct {
	Count    int `json:"count"`    // of the leases that are used
	Unusable int `json:"unusable"` // leases that cannot be used
	// Reachable is how many answered the last probe.
	Reachable int `json:"reachable"`
	// Troubled are those with trouble, at most NamedMost of them, and TroubledCount is how many
	// there are.
	Troubled      []Peer `json:"troubled,omitempty"`
	TroubledCount int    `json:"troubledCount"`
	// States counts those with trouble by their state.
	States map[PeerState]int `json:"states,omitempty"`
}

// Unsettled reports whether something is missing that may be about to be made.
func (s *Status) Unsettled() bool {
	return slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Component == ComponentDataplane })
}

// NamedMost bounds how many of many things a Status names.
const NamedMost = 100

// Peer is another host.
type Peer struct {
	Subnet   string    `json:"subnet"`
	PublicIP string    `json:"publicIP,omitempty"`
	State    PeerState `json:"state"`
	// Reason says, of one with trouble, what it is, and Remedy how to find out more.
	Reason string    `json:"reason,omitempty"`
	Remedy string    `json:"remedy,omitempty"`
	Since  time.Time `json:"since,omitzero"` // the state
	// RTT is how many seconds the last probe took that was answered; 0 if there was none.
	RTT float64 `json:"rtt,omitempty"`
}

// PeerState is how another host is, in a word.
type PeerState string

// The values of PeerState.
const (
	PeerUsed        PeerState = "used"        // packets are sent to it; whether they arrive was not probed
	PeerReachable   PeerState = "reachable"   // they arrive
	PeerUnreachable PeerState = "unreachable" // they do not
	PeerSmallOnly   PeerState = "small-only"  // small ones do, those of full size do not
	PeerGone        PeerState = "gone"        // it does not answer on the underlay either
	PeerMissing     PeerState = "missing"     // what leads to it is not in place on this host
	PeerUnusable    PeerState = "unusable"    // its lease cannot be used
	PeerLeaving     PeerState = "leaving"     // its lease is gone, a moment ago: packets are sent to it still
)

// TroubledStates are those in which packets do not get to a peer as they should.
var TroubledStates = []PeerState{PeerUnreachable, PeerSmallOnly, PeerGone, PeerMissing, PeerUnusable}

// Troubled reports whether packets do not get to a peer as they should.
func (s PeerState) Troubled() bool { return slices.Contains(TroubledStates, s) }

// Kind is how many objects of one kind there are.
type Kind struct {
	Name    string `json:"kind"`
	Wanted  int    `json:"wanted"`
	Missing int    `json:"missing"`
	Repairs int    `json:"repairs"` // of what others changed, since the daemon was started
}

// Passes counts how often a dataplane was compared with what is desired, since the daemon was
// started.
type Passes struct {
	Dataplane string  `json:"dataplane"`
	Full      int     `json:"full"`
	Quick     int     `json:"quick"`
	Seconds   float64 `json:"seconds"` // that all full passes took
	// Conflict is set while someone keeps undoing what is repaired.
	Conflict bool `json:"conflict,omitempty"`
}

// Tunnel is a tunnel of this process: what it counted since the device was made, by the names
// of package udptunnel.
type Tunnel struct {
	Device   string            `json:"device"`
	Counters map[string]uint64 `json:"counters"`
}

// Component is a part of the daemon.
type Component string

// The components that have problems.
const (
	ComponentLease         Component = "lease"
	ComponentConfiguration Component = "configuration"
	ComponentDataplane     Component = "dataplane"
	ComponentPeers         Component = "peers"
	ComponentInterface     Component = "interface"
	ComponentPackets       Component = "packets"
	ComponentStore         Component = "store"
)

// Components are all of them.
var Components = []Component{ComponentLease, ComponentConfiguration, ComponentDataplane, ComponentPeers, ComponentInterface, ComponentPackets, ComponentStore}

// Problem is something that is not as it should be.
type Problem struct {
	Component Component `json:"component"`
	Subject   string    `json:"subject,omitempty"` // what does not work: "10.5.3.0/24", "flannel.1"
	Text      string    `json:"problem"`
	Remedy    string    `json:"remedy,omitempty"` // a command, or what else to do
}

func (p Problem) String() string {
	text := p.Text
	if p.Subject != "" {
		text = p.Subject + ": " + text
	}
	if p.Remedy != "" {
		text += "; mend it by: " + p.Remedy
	}
	return text
}

// Event is a line of the log.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// obstaclesMost bounds how many obstacles a line names.
const obstaclesMost = 5

// Line tells the problems in one line, each after a comma.
func Line(problems []Problem) string {
	var texts, obstacles []string
	at := 0 // where the obstacles belong
	for _, p := range problems {
		if p.Component != ComponentPackets {
			texts = append(texts, p.String())
		} else if obstacles = append(obstacles, p.String()); len(obstacles) == 1 {
			at = len(texts)
		}
	}
	if more := len(obstacles) - obstaclesMost; more > 0 {
		obstacles = append(obstacles[:obstaclesMost], fmt.Sprintf("%d more obstacles", more))
	}
	if len(obstacles) > 0 {
		texts = slices.Insert(texts, at, "packets are kept from their way: "+strings.Join(obstacles, ", "))
	}
	var line strings.Builder
	for _, text := range texts {
		line.WriteString(", " + text)
	}
	return line.String()
}
