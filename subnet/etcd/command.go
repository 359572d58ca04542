package etcd

import (
	"cmp"
	"strings"

	"flanneld/pkg/printable"
)

// etcdctl is how to call etcd's own program: where etcd is, and as whom to ask.
type etcdctl struct {
	options Options
	server  Server
	user    string
}

// asUs is the program as the user that the daemon is.
func (o Options) asUs(s Server) etcdctl { return etcdctl{o, s, s.Username} }

// asRoot is the program as the user who may do all, if there are users.
func (o Options) asRoot(s Server) etcdctl {
	if s.Username == "" {
		return etcdctl{o, s, ""}
	}
	return etcdctl{o, s, "root"}
}

// v2 and v3 return the command for a shell, in each of the APIs.
func (c etcdctl) v2(args ...string) string {
	return c.command([]string{"ETCDCTL_API=2", "etcdctl"}, [...]string{"--ca-file", "--cert-file", "--key-file", "--username"}, args)
}

func (c etcdctl) v3(args ...string) string {
	return c.command([]string{"etcdctl"}, [...]string{"--cacert", "--cert", "--key", "--user"}, args)
}

func (c etcdctl) command(words []string, flags [4]string, args []string) string {
	words = append(words, "--endpoints="+printable.Word(c.server.name()))
	for i, value := range []string{c.options.CAFile, c.options.CertFile, c.options.KeyFile, c.user} {
		if value != "" {
			words = append(words, flags[i]+"="+printable.Word(value))
		}
	}
	for _, a := range args {
		words = append(words, printable.Word(a))
	}
	return strings.Join(words, " ")
}

// name is what messages call the server.
func (s Server) name() string { return cmp.Or(s.Name, s.URL.String()) }
