package fakeaws

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"flanneld/pkg/ip"
)

const (
	accountID         = "123456789012"
	defaultRegion     = "eu-central-1"
	defaultRouteLimit = 50
)

// Options are what a cloud is made with.
type Options struct {
	// Region is its name; empty means eu-central-1.
	Region string
	// Clock tells the time to the buckets, the credentials, the signatures and
	// the lag of answers; nil means time.Now. Only the waiting for slow answers
	// is done with real timers.
	Clock func() time.Time
}

// Cloud is one account in one region. Its methods may be called at any time.
type Cloud struct {
	// Region is where it is, such as eu-central-1.
	Region string

	clock func() time.Time

	mu         sync.Mutex
	serial     int // last number given to a thing
	vpcs       []*VPC
	subnets    []*Subnet
	tables     []*RouteTable
	instances  versioned[[]*Instance] // those that have ended included
	interfaces versioned[[]*Interface]
	keys       map[string]*key // by access key ID
	buckets    map[Class]*bucket
	denials    map[denial]bool
	calls      []Call
	lags       []time.Duration
	described  int            // Describe actions so far
	delay      time.Duration  // of all answers
	lost       map[string]int // answers that will be lost, by action
	routeLimit int
	lifetime   time.Duration // of a role's credentials
	watchers   []func()
}

// New makes an empty cloud.
func New(opts Options) *Cloud {
	if opts.Region == "" {
		opts.Region = defaultRegion
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	c := &Cloud{
		Region:     opts.Region,
		clock:      opts.Clock,
		keys:       map[string]*key{},
		buckets:    map[Class]*bucket{},
		denials:    map[denial]bool{},
		lost:       map[string]int{},
		routeLimit: defaultRouteLimit,
		lifetime:   defaultLifetime,
	}
	c.instances.set(c.clock(), nil)
	c.interfaces.set(c.clock(), nil)
	for class, limit := range documentedLimits {
		c.buckets[class] = newBucket(limit, c.clock())
	}
	return c
}

// SetLag has every Describe action show how routes, associations, instances and
// interfaces were a while ago. Several lags take turns, as if each action reached
// another copy of the data: then what was shown once may be gone again.
func (c *Cloud) SetLag(lags ...time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lags = lags
}

// SetDelay has every answer take so long, once the action is done.
func (c *Cloud) SetDelay(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.delay = d
}

// LoseAnswers has the next actions of a name done, but answered with an internal
// error: a client that tries again finds what it has done itself.
func (c *Cloud) LoseAnswers(action string, times int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost[action] = times
}

// SetRouteLimit changes how many routes a table may have in each family, with its local one.
func (c *Cloud) SetRouteLimit(limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.routeLimit = limit
}

// visible is the time of the state that a Describe action shows.
func (c *Cloud) visible() time.Time {
	if len(c.lags) == 0 {
		return c.clock()
	}
	return c.clock().Add(-c.lags[c.described%len(c.lags)])
}

// newID makes an identifier such as rtb-00000000000000007.
func (c *Cloud) newID(kind string) string {
	c.serial++
	return fmt.Sprintf("%s-%017x", kind, c.serial)
}

// arn is the name of a thing in messages.
func (c *Cloud) arn(kind, id string) string {
	return fmt.Sprintf("arn:aws:ec2:%s:%s:%s/%s", c.Region, accountID, kind, id)
}

// change makes a change and tells the watchers, which have seen it when change
// returns.
func (c *Cloud) change(fn func() error) error {
	c.mu.Lock()
	err := fn()
	watchers := c.watchers
	c.mu.Unlock()
	if err == nil {
		for _, watch := range watchers {
			watch()
		}
	}
	return err
}

// watch has fn called after every change, without the lock.
func (c *Cloud) watch(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers = append(c.watchers, fn)
}

// Transport carries the requests of a client that runs on the instance, or
// somewhere else if that is nil, without sockets: those to 169.254.169.254
// reach the instance's metadata, all others the EC2 endpoint.
func (c *Cloud) Transport(on *Instance) http.RoundTripper {
	t := transport{endpoint: c.Endpoint()}
	if on != nil {
		t.metadata = on.Metadata()
	}
	return t
}

// versioned is a value with its past.
type versioned[T any] struct {
	past []version[T]
}

type version[T any] struct {
	since time.Time
	value T
}

func (v *versioned[T]) set(now time.Time, value T) {
	v.past = append(v.past, version[T]{since: now, value: value})
}

func (v *versioned[T]) now() T { return v.past[len(v.past)-1].value }

// at is the value that there was at a time, or the first one.
func (v *versioned[T]) at(t time.Time) T {
	i := len(v.past) - 1
	for i > 0 && v.past[i].since.After(t) {
		i--
	}
	return v.past[i].value
}

// thing is what has an ID.
type thing interface {
	comparable
	id() string
}

// find is the element with an ID, or nil.
func find[T thing](list []T, id string) (none T) {
	for _, x := range list {
		if x.id() == id {
			return x
		}
	}
	return none
}

// parsePrefix reads a network of a family without bits behind its prefix.
func parsePrefix(f ip.Family, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	if ip.FamilyOf(p.Addr()) != f || p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s is not an %s network", text, f)
	}
	return p, nil
}
