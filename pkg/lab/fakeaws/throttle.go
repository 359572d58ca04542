package fakeaws

import "time"

// Class is a kind of action with a bucket of its own.
type Class string

// The classes, after the limits that EC2 documents.
const (
	// NonMutating are the Describe actions.
	NonMutating Class = "non-mutating"
	// Unfiltered are those of DescribeInstances and DescribeNetworkInterfaces
	// that ask for everything at once.
	Unfiltered Class = "unfiltered and unpaginated"
	// Mutating are the actions that change something.
	Mutating Class = "mutating"
)

// Limit is the size of a bucket, in requests, and how many come back in a
// second.
type Limit struct {
	Burst  int
	Refill float64
}

var documentedLimits = map[Class]Limit{
	NonMutating: {Burst: 100, Refill: 20},
	Unfiltered:  {Burst: 50, Refill: 10},
	Mutating:    {Burst: 50, Refill: 5},
}

// SetLimit changes the bucket of a class, and fills it.
func (c *Cloud) SetLimit(class Class, limit Limit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buckets[class] = newBucket(limit, c.clock())
}

// bucket holds the tokens that requests cost.
type bucket struct {
	limit  Limit
	tokens float64
	filled time.Time
}

func newBucket(limit Limit, now time.Time) *bucket {
	return &bucket{limit: limit, tokens: float64(limit.Burst), filled: now}
}

// take tells whether there was a token left.
func (b *bucket) take(now time.Time) bool {
	if d := now.Sub(b.filled); d > 0 {
		b.tokens = min(float64(b.limit.Burst), b.tokens+d.Seconds()*b.limit.Refill)
		b.filled = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
