package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"flanneld/pkg/ip"
	"flanneld/subnet"
)

// networkUnavailable is the condition of Nodes that says, when it is False, that their
// network works.
const networkUnavailable = "NetworkUnavailable"

const strategicMerge = "application/strategic-merge-patch+json"

// annotations are what a lease says, as they are written: in the words of flannel, whose
// other versions read them.
func annotations(s ip.Subnet, a subnet.Attrs) map[key]string {
	data := func(text string) string {
		if text == "" {
			return "null"
		}
		return text
	}
	w := map[key]string{managed: "true", backendType: a.BackendType}
	for _, f := range s.Families() {
		k := familyKeys[f]
		w[k.public], w[k.data] = a.PublicIP.Of(f).String(), data(a.Data(f))
	}
	return w
}

// ours returns our Node as it is known. The caller holds the lock.
func (s *Store) ours() (node, bool) {
	for v := range s.views {
		if e := v.entries[v.self]; e != nil && v.listed {
			return e.node, true
		}
	}
	if s.saved != nil {
		if e := s.saved.entries[s.saved.self]; e != nil {
			return e.node, true
		}
	}
	return node{}, false
}

// publish has our Node say what a lease says: what differs is written.
func (s *Store) publish(ctx context.Context, sub ip.Subnet, a subnet.Attrs) (*subnet.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	is, known := s.ours()
	s.mu.Unlock()
	if !known || !is.has(sub) {
		return nil, subnet.ErrChanged
	}
	differs := make(map[string]any)
	said := annotations(sub, a)
	for k := range publicIPv6 + 1 {
		if _, says := said[k]; !says && is.notes[k].there { // of a family that we have no more
			differs[s.names[k]] = nil
		}
	}
	for k, text := range said {
		isData := k == backendData || k == backendV6Data
		if was := is.notes[k]; was.there && (was.text == text || isData && sameData(was.text, text)) {
			continue
		}
		differs[s.names[k]] = text
	}
	if len(differs) > 0 {
		var err error
		if is, err = s.annotate(ctx, is.uid, differs); err != nil {
			return nil, err
		}
	}
	s.wrote(is, &a, len(differs) > 0)
	return &subnet.Lease{Subnet: sub, Attrs: a, Revision: is.revision, Created: is.created}, nil
}

// withdraw takes what a daemon wrote of our Node away.
func (s *Store) withdraw(ctx context.Context, sub ip.Subnet) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	is, known := s.ours()
	s.mu.Unlock()
	if !known || !is.has(sub) || !is.peer() {
		return subnet.ErrChanged
	}
	differs := make(map[string]any)
	for k := range publicIPv6 + 1 {
		if is.notes[k].there {
			differs[s.names[k]] = nil
		}
	}
	is, err := s.annotate(ctx, is.uid, differs)
	if err != nil {
		return err
	}
	s.wrote(is, nil, true)
	return nil
}

// wrote takes our Node as we left it.
func (s *Store) wrote(is node, said *subnet.Attrs, written bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = said
	if written {
		s.writes++
	}
	tell := func(v *view) (changed bool) {
		v.say(said)
		if !written {
			return false
		}
		v.written = max(v.written, is.revision)
		return v.put(is)
	}
	for v, wake := range s.views {
		if v.listed && tell(v) {
			wake.Put(struct{}{})
		}
	}
	if s.saved != nil {
		tell(s.saved)
	}
}

// annotate changes annotations of our Node, if that is still the one with this UID.
func (s *Store) annotate(ctx context.Context, uid string, change map[string]any) (node, error) {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid, "annotations": change}})
	if err != nil {
		return node{}, err
	}
	is, err := s.patch(ctx, body)
	if answers(err, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity) {
		return node{}, fmt.Errorf("%w: %w", subnet.ErrChanged, err)
	}
	return is, err
}

// patch changes the status of our Node, and what belongs to it.
func (s *Store) patch(ctx context.Context, body []byte) (node, error) {
	r := request{
		verb: "patch", resource: "nodes/status", method: http.MethodPatch,
		path: nodesPath + "/" + url.PathEscape(s.options.NodeName) + "/status",
		body: body, bodyType: strategicMerge,
	}
	resp, err := s.client.send(ctx, r)
	if err != nil {
		return node{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return node{}, s.client.broken(r, err)
	}
	kind, raw, err := object(content)
	if err == nil && kind != "Node" {
		err = fmt.Errorf("it answers with a %.40q", kind)
	}
	var is node
	if err == nil {
		is, err = s.names.node(raw)
	}
	if err != nil {
		return node{}, s.client.broken(r, err)
	}
	return is, nil
}

// SetNetworkAvailable has our Node say that its network works, which others wait for before
// they give it pods.
func (s *Store) SetNetworkAvailable(ctx context.Context) error {
	now := time.Now().UTC().Format(time.RFC3339)
	body, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []map[string]string{{
		"type": networkUnavailable, "status": "False",
		"lastHeartbeatTime": now, "lastTransitionTime": now,
		"reason": "FlannelIsUp", "message": "Flannel is running on this node",
	}}}})
	if err != nil {
		return err
	}
	if _, err := s.patch(ctx, body); err != nil {
		return fmt.Errorf("setting the condition NetworkUnavailable of the Node %s to False: %w", s.options.NodeName, err)
	}
	return nil
}
