package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/ip"
	"flanneld/subnet"
	"flanneld/subnet/etcd"
)

var _ subnet.Store = (*Store)(nil)

// Config implements subnet.Store.
func (s *Store) Config(ctx context.Context) ([]byte, error) {
	rep, err := s.get(ctx, s.configKey())
	switch {
	case code(err) == client.ErrorCodeKeyNotFound:
		return nil, s.options.NoConfig(rep.from, 2, s.configKey(), subnet.ErrNoConfig)
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", s.configKey(), err)
	case rep.Node.Dir:
		return nil, s.options.NotKey(rep.from, s.configKey(), subnet.ErrNoConfig)
	}
	return []byte(rep.Node.Value), nil
}

// Entries returns all that is below "subnets" as it is written.
func (s *Store) Entries(ctx context.Context) ([]subnet.Entry, error) {
	entries, _, err := s.entries(ctx)
	return entries, err
}

// put is etcd.Leases.Put.
func (s *Store) put(ctx context.Context, sub ip.Subnet, a subnet.Attrs, ttl time.Duration, revision uint64) (*subnet.Lease, error) {
	value, err := a.Value()
	if err != nil {
		return nil, err
	}
	form := url.Values{"value": {value}}
	if ttl > 0 { // without one, etcd also takes away the TTL that a key had
		seconds := (ttl + time.Second - 1) / time.Second
		form.Set("ttl", strconv.FormatInt(int64(seconds), 10))
	}
	rep, err := s.write(ctx, http.MethodPut, sub, revision, form)
	if err != nil {
		return nil, err
	}
	l := &subnet.Lease{Subnet: sub, Attrs: a, Revision: rep.Node.ModifiedIndex, Created: int64(rep.Node.CreatedIndex)}
	if ttl > 0 {
		l.Expires = rep.since.Add(ttl)
	}
	return l, nil
}

// replace is etcd.Leases.Replace. This API does not write two keys at once. flannel takes the
// routes of a subnet away when its key goes, whatever other key has a part of it: so the new
// one is written once more after that.
func (s *Store) replace(ctx context.Context, from ip.Subnet, revision uint64, to ip.Subnet, a subnet.Attrs, ttl time.Duration) (*subnet.Lease, error) {
	made, err := s.put(ctx, to, a, ttl, 0)
	switch {
	case errors.Is(err, etcd.ErrCondition):
		return nil, subnet.ErrExists
	case err != nil:
		return nil, err
	}
	if err := s.remove(ctx, from, revision); err != nil {
		if errors.Is(err, etcd.ErrCondition) {
			err = errors.Join(err, s.remove(ctx, to, made.Revision))
		}
		return nil, err
	}
	return s.put(ctx, to, a, ttl, made.Revision)
}

// remove is etcd.Leases.Remove.
func (s *Store) remove(ctx context.Context, sub ip.Subnet, revision uint64) error {
	_, err := s.write(ctx, http.MethodDelete, sub, revision, nil)
	return err
}

// write does something to a key if revision is that of its last write, or if it is not there
// where that is 0.
func (s *Store) write(ctx context.Context, method string, sub ip.Subnet, revision uint64, form url.Values) (*reply, error) {
	condition := url.Values{"prevExist": {"false"}}
	if revision != 0 {
		condition = url.Values{"prevExist": {"true"}, "prevIndex": {strconv.FormatUint(revision, 10)}}
	}
	rep, err := s.do(ctx, request{method: method, key: s.subnetKey(sub), query: condition, form: form})
	switch code(err) {
	case client.ErrorCodeNodeExist, client.ErrorCodeKeyNotFound, client.ErrorCodeTestFailed, client.ErrorCodeNotFile:
		return nil, etcd.ErrCondition
	}
	return rep, err
}

// list is etcd.Watch.List.
func (s *Store) list(ctx context.Context, v *etcd.View) error {
	entries, rep, err := s.entries(ctx)
	if err == nil {
		config := v.Config // verify has just read it
		v.Reset(entries, rep.index, rep.cluster)
		v.Config = min(config, rep.index)
	}
	return err
}

func (s *Store) entries(ctx context.Context) ([]subnet.Entry, *reply, error) {
	rep, err := s.get(ctx, s.subnetsKey())
	switch {
	case code(err) == client.ErrorCodeKeyNotFound:
		return nil, rep, nil
	case err != nil:
		return nil, nil, fmt.Errorf("listing leases: %w", err)
	case !rep.Node.Dir:
		return nil, nil, fmt.Errorf("listing leases: %w", s.options.Answered(rep.from, s.options.NotDirectory(rep.from, s.subnetsKey()), nil))
	}
	entries := make([]subnet.Entry, 0, len(rep.Node.Nodes))
	for _, n := range rep.Node.Nodes {
		entries = append(entries, rep.entry(n))
	}
	return entries, rep, nil
}

func (r *reply) entry(n *client.Node) subnet.Entry {
	e := subnet.Entry{Key: strings.Clone(path.Base(n.Key)), Value: n.Value, Expires: r.expires(n), Revision: n.ModifiedIndex, Created: int64(n.CreatedIndex)}
	if n.Dir {
		e.Value = "(a directory)" // which is no lease, and says so in the problem
	}
	return e
}

// get reads a key, or a directory and what is directly in it, as a majority of
// the cluster has it.
func (s *Store) get(ctx context.Context, key string) (*reply, error) {
	return s.do(ctx, request{method: http.MethodGet, key: key, query: quorum})
}

// quorum asks for what a majority has.
var quorum = url.Values{"quorum": {"true"}}

func (s *Store) configKey() string  { return path.Join(s.prefix, "config") }
func (s *Store) subnetsKey() string { return path.Join(s.prefix, "subnets") }

func (s *Store) subnetKey(sub ip.Subnet) string { return path.Join(s.subnetsKey(), sub.Key()) }
