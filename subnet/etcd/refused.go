package etcd

import (
	"crypto/x509"
	"fmt"
	"strings"

	"flanneld/pkg/printable"
)

// Access is what a request needs permission for.
type Access struct {
	Write bool
	Key   string // or a prefix of keys
}

func (a Access) String() string {
	if a.Write {
		return "write " + a.Key
	}
	return "read " + a.Key
}

// Refusal is why etcd refuses a request.
type Refusal uint8

// These are the reasons.
const (
	NoUser      Refusal = iota // it was sent without one
	UnknownUser                // or the password is wrong
	Denied                     // the user has no permission
	Unclear                    // one of the latter two
)

// role is the name of the role that commands in messages make.
const role = "flanneld"

// Refused is the refusal of a request that server s gives in these words. Where the roles
// of the user are known, the first of them is to get the permission; root is the prefix.
func (o Options) Refused(s Server, why Refusal, a Access, root, words string, roles ...string) error {
	as := etcdctl{o, s, "root"}
	below := below(root)
	user := o.user(s)
	d := Diagnosis{Seen: fmt.Sprintf("%v of user %q to %s: %s", ErrRefused, user, a, words)}
	switch why {
	case NoUser:
		d.Seen = fmt.Sprintf("%v to %s, as it asks for a user: %s", ErrRefused, a, words)
		d.Advice = fmt.Sprintf("give -etcd-username and -etcd-password of one that has readwrite permission on %s", below)
	case UnknownUser:
		d.Advice = fmt.Sprintf("wrong -etcd-username or -etcd-password: correct them, or make the user by %s, or set its password by %s",
			as.v3("user", "add", user), as.v3("user", "passwd", user))
	case Denied:
		grant := func(role string) string {
			return as.v3("role", "grant-permission", "--prefix", role, "readwrite", below)
		}
		d.Advice = "grant it: "
		if len(roles) > 0 {
			d.Advice += grant(roles[0])
		} else {
			d.Advice += makeRole(as.v3("role", "add", role), grant(role), as.v3("user", "grant-role", user, role))
		}
	case Unclear:
		d.Advice = "wrong -etcd-username or -etcd-password, or no permission; correct them, or grant it: " + makeRole(
			as.v2("role", "add", role),
			as.v2("role", "grant", role, "--path", below+"*", "--readwrite"),
			as.v2("user", "grant", user, "--roles", role),
		)
	}
	return o.Answered(s, d, ErrRefused)
}

// makeRole is commands that follow one another. The first may fail: the role may be there
// already, for the user of another host.
func makeRole(add, grant, give string) string { return add + "; " + grant + " && " + give }

// user is the name that etcd knows us by.
func (o Options) user(s Server) string {
	if s.Username != "" || o.CertFile == "" {
		return s.Username
	}
	cert, err := o.clientCertificate()
	if err != nil {
		return ""
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return ""
	}
	return leaf.Subject.CommonName
}

// below is the beginning of all keys of a network with this prefix.
func below(root string) string {
	if root == "" {
		return ""
	}
	return strings.TrimSuffix(root, "/") + "/"
}

// NoConfigError is that etcd holds no configuration where it should, and how to write one.
type NoConfigError struct {
	brief  string
	where  string
	remedy string
	cause  error // subnet.ErrNoConfig
	dir    bool  // there is something else
}

func (e *NoConfigError) Error() string {
	if e.where == "" {
		return e.brief
	}
	return e.brief + " " + e.where + "; " + e.remedy
}

func (e *NoConfigError) Unwrap() error { return e.cause }

// Example is a configuration that works on any network.
const Example = `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`

// NoConfig is that server s holds no configuration in a version of its API.
func (o Options) NoConfig(s Server, version int, key string, cause error) error {
	command := o.asUs(s).v3("put", key, Example)
	if version == 2 {
		command = o.asUs(s).v2("set", key, Example)
	}
	return &NoConfigError{
		brief:  fmt.Sprintf("%v at %s", cause, printable.Name(key)),
		where:  fmt.Sprintf("in version %d of etcd's API at %s", version, s.name()),
		remedy: "write one: " + command,
		cause:  cause,
	}
}

// NotKey is that a key of version 2 of the API holds keys, where the configuration should be.
func (o Options) NotKey(s Server, key string, cause error) error {
	return &NoConfigError{
		brief:  fmt.Sprintf("%v at %s", cause, printable.Name(key)),
		where:  fmt.Sprintf("in version 2 of etcd's API at %s: it is a directory", s.name()),
		remedy: "replace it by a key: " + o.asUs(s).v2("rm", "--recursive", key) + " && " + o.asUs(s).v2("set", key, Example),
		cause:  cause,
		dir:    true,
	}
}

// NotDirectory is the diagnosis of a key of version 2 of the API, where a directory should
// be.
func (o Options) NotDirectory(s Server, key string) Diagnosis {
	return Diagnosis{
		Seen:   fmt.Sprintf("%s is a key, and not a directory", printable.Name(key)),
		Advice: "delete it: " + o.asUs(s).v2("rm", key),
	}
}
