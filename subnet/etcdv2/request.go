package etcdv2

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	client "go.etcd.io/etcd/client/v2"

	"flanneld/pkg/printable"
	"flanneld/subnet/etcd"
)

// reply is an answer of the keys API. Node is nil if a long poll ended without
// an event.
type reply struct {
	client.Response
	from    etcd.Server
	index   uint64 // of the store when it answered, or took up the long poll
	cluster string
	date    time.Time // when it did, by the server's clock
	// since is from when, by ours, what the answer says of times to live is counted.
	since time.Time
}

// do asks one endpoint after the other until one answers.
func (s *Store) do(ctx context.Context, r request) (*reply, error) {
	var rep *reply
	err := s.failover.Do(ctx, r.method != http.MethodGet, func(ctx context.Context, k int) (err error) {
		rep, err = s.ask(ctx, s.endpoints[k], r)
		return err
	})
	return rep, err
}

// cluster returns the ID of the cluster of an endpoint, which it knows by itself; nothing
// if it does not say.
func (s *Store) cluster(ctx context.Context, k int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	rep, err := s.send(ctx, s.endpoints[k], request{method: http.MethodGet, key: s.configKey()})
	if rep != nil {
		return rep.cluster, nil
	}
	return "", err
}

// ask asks one endpoint, within requestTimeout.
func (s *Store) ask(ctx context.Context, e endpoint, r request) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	rep, err := s.send(ctx, e, r)
	if err == nil && rep.Node == nil {
		err = s.options.Failed(e.Server, etcd.Strange("the answer is empty"), nil, false)
	}
	return rep, err
}

// send asks one endpoint, for as long as it takes.
func (s *Store) send(ctx context.Context, e endpoint, r request) (*reply, error) {
	since := time.Now() // the answer may take long, and no lease must seem to last longer than it does
	a, err := e.exchange(ctx, keysAPI+r.key, r)
	if err != nil {
		return nil, s.explain(e, err)
	}
	if r.accepted != nil {
		since = time.Now() // a long poll tells of what just happened
	}
	rep := &reply{from: e.Server, cluster: a.header.Get("X-Etcd-Cluster-Id"), since: since}
	rep.index, _ = strconv.ParseUint(a.header.Get("X-Etcd-Index"), 10, 64)
	rep.date, _ = http.ParseTime(a.header.Get("Date"))
	err = rep.decode(a.status, a.body)
	var etcdErr client.Error
	switch {
	case errors.As(err, &etcdErr):
		rep.index = etcdErr.Index
		return rep, s.answered(e, r, etcdErr)
	case errors.Is(err, errRefused) && e.Username == "":
		return nil, s.options.Refused(e.Server, etcd.NoUser, s.access(r), s.prefix, statusText(a.status))
	case errors.Is(err, errRefused):
		return nil, s.options.Refused(e.Server, etcd.Unclear, s.access(r), s.prefix, statusText(a.status))
	case errors.Is(err, etcd.ErrNoAPI):
		return nil, s.explain(e, err)
	case err != nil:
		return nil, s.options.Failed(e.Server, etcd.Strange(err.Error()), err, false)
	}
	return rep, nil
}

// answered is the error that etcd answered with, which callers know by its code.
func (s *Store) answered(e endpoint, r request, err client.Error) error {
	if err.Code == client.ErrorCodeNotDir {
		return s.options.Answered(e.Server, s.options.NotDirectory(e.Server, cmp.Or(err.Cause, r.key)), err)
	}
	return s.options.Answered(e.Server, etcd.Diagnosis{Seen: fmt.Sprintf("error %d: %s: %s", err.Code, printable.Name(err.Message), printable.Name(err.Cause))}, err)
}

// access is what a request needs permission for.
func (s *Store) access(r request) etcd.Access {
	key := r.key
	if strings.HasPrefix(key, s.subnetsKey()) { // the same for each lease
		key = s.subnetsKey() + "/"
	}
	return etcd.Access{Write: r.method != http.MethodGet, Key: printable.Name(key)}
}

// statusText is the status of an answer, without the words of whoever gave it.
func statusText(status int) string { return fmt.Sprintf("%d %s", status, http.StatusText(status)) }

// decode returns a client.Error if etcd answered with one.
func (r *reply) decode(status int, body []byte) error {
	switch status {
	case http.StatusOK, http.StatusCreated:
		if len(bytes.TrimSpace(body)) == 0 {
			return nil
		}
		if err := json.Unmarshal(body, &r.Response); err != nil {
			return fmt.Errorf("the answer is not etcd's: %w: %s", err, printable.Quote(string(body)))
		}
		if r.Node == nil {
			return errors.New("the answer is not etcd's: it names no node")
		}
		return nil
	case http.StatusForbidden:
		if !json.Valid(body) { // a proxy's
			return &serverError{status, body}
		}
		return errRefused
	case http.StatusUnauthorized:
		return errRefused
	}
	var e client.Error
	if err := json.Unmarshal(body, &e); err == nil && e.Code != 0 {
		return e
	}
	if status == http.StatusNotFound {
		return etcd.ErrNoV2
	}
	return &serverError{status, body}
}

// expires returns when node n expires, by our clock; the zero time is never.
func (r *reply) expires(n *client.Node) time.Time {
	if n.Expiration == nil { // a TTL of 0 has been left out, too
		return time.Time{}
	}
	left := n.TTLDuration()
	// The TTL of an event is that of when it happened, which may be long ago.
	// Both of these are by the server's clock.
	if !r.date.IsZero() {
		left = min(left, n.Expiration.Sub(r.date))
	}
	return r.since.Add(max(left, 0))
}
