package fakeaws

import (
	"fmt"
	"time"
)

const (
	// defaultLifetime is that of a role's credentials in EC2.
	defaultLifetime = 6 * time.Hour
	// overlap is how long before their end new ones are there, at least: EC2
	// promises five minutes.
	overlap = 15 * time.Minute
)

// Credentials are a way to sign requests.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string    // empty for a user's
	Expires         time.Time // zero for a user's

	issued time.Time
}

// Secrets lists what is to be told to nobody: the secret keys and the session tokens
// of all credentials so far.
func (c *Cloud) Secrets() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, k := range c.keys {
		all = append(all, k.SecretAccessKey)
		if k.SessionToken != "" {
			all = append(all, k.SessionToken)
		}
	}
	return all
}

// key is what the endpoint knows about an access key.
type key struct {
	Credentials
	arn string // of who has it
}

// AddUser makes credentials that last.
func (c *Cloud) AddUser(name string) Credentials {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.issue("AKIA", fmt.Sprintf("arn:aws:iam::%s:user/%s", accountID, name), Credentials{})
}

// issue makes up the secrets of the credentials.
func (c *Cloud) issue(prefix, arn string, made Credentials) Credentials {
	c.serial++
	made.AccessKeyID = fmt.Sprintf("%s%016d", prefix, c.serial)
	made.SecretAccessKey = fmt.Sprintf("secret%034d", c.serial)
	made.issued = c.clock()
	c.keys[made.AccessKeyID] = &key{Credentials: made, arn: arn}
	return made
}

// SetCredentialsLifetime changes how long the credentials of roles last that
// are made from now on.
func (c *Cloud) SetCredentialsLifetime(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lifetime = d
}

// RotateCredentials has the metadata show new credentials of the role from now
// on. Those before stay good until their end.
func (i *Instance) RotateCredentials() {
	i.cloud.mu.Lock()
	defer i.cloud.mu.Unlock()
	i.rotate()
}

// RevokeCredentials ends what the metadata has shown so far, and shows new ones.
func (i *Instance) RevokeCredentials() {
	i.cloud.mu.Lock()
	defer i.cloud.mu.Unlock()
	for _, k := range i.cloud.keys {
		if k.arn == i.roleARN() && k.Expires.After(i.cloud.clock()) {
			k.Expires = i.cloud.clock()
		}
	}
	i.rotate()
}

func (i *Instance) rotate() {
	c := i.cloud
	i.credentials = c.issue("ASIA", i.roleARN(), Credentials{
		SessionToken: fmt.Sprintf("token-%s-%d//+=", i.ID, c.serial), // what must be escaped
		Expires:      c.clock().Add(c.lifetime).Truncate(time.Second),
	})
}

func (i *Instance) roleARN() string {
	return fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/%s", accountID, i.role, i.ID)
}

// current is what the metadata shows: new credentials when the last are soon
// at their end.
func (i *Instance) current() Credentials {
	left := i.credentials.Expires.Sub(i.cloud.clock())
	if left <= min(overlap, i.cloud.lifetime/2) {
		i.rotate()
	}
	return i.credentials
}
