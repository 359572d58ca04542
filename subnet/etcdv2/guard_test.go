package etcdv2

import (
	"net/http"
	"testing"

	"flanneld/subnet/etcd/etcdtest"
)

// What a server with users lets guests write, anyone can.
func TestGuests(t *testing.T) {
	t.Parallel()
	server := plainEtcd(t)
	server.put(t, prefix+"/config", "{}", 0)
	server.enableAuth(t)
	for _, test := range []struct {
		change string
		want   bool
	}{
		{`{"role":"guest","grant":{"kv":{"read":["/*"],"write":[]}}}`, true},
		{`{"role":"guest","grant":{"kv":{"read":[],"write":["/elsewhere/*"]}}}`, true},
		{`{"role":"guest","grant":{"kv":{"read":[],"write":["` + prefix + `/subnets/*"]}}}`, false},
		{`{"role":"guest","revoke":{"kv":{"read":[],"write":["` + prefix + `/subnets/*"]}}}`, true},
		{`{"role":"guest","grant":{"kv":{"read":[],"write":["` + prefix + `/config"]}}}`, false},
	} {
		server.rawAsRoot(t, http.MethodPut, "/v2/auth/roles/guest", test.change)
		for _, user := range []string{"", "flannel"} {
			s := newStore(t, Options{Endpoints: []string{server.URL}, Username: user, Password: "secret-flannel"})
			if guarded, err := s.Guarded(t.Context()); guarded != test.want || err != nil {
				t.Errorf("after %s, for user %q: guarded is %v, %v; want %v", test.change, user, guarded, err, test.want)
			}
		}
	}
	s := newStore(t, Options{Endpoints: []string{server.URL}, Username: "flannel", Password: "secret-flannel"})
	if c, err := s.Config(t.Context()); string(c) != "{}" {
		t.Errorf("to ask changed the configuration to %q, %v", c, err)
	}
}

// A server that knows nothing of users has none.
func TestGuardedWithoutUsers(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusNotFound, http.StatusForbidden, http.StatusOK} {
		url := answers(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		if guarded, err := newStore(t, Options{Endpoints: []string{url}}).Guarded(t.Context()); guarded || err != nil {
			t.Errorf("status %d: guarded is %v, %v", status, guarded, err)
		}
	}
	dead := newStore(t, Options{Endpoints: []string{"http://" + etcdtest.FreeAddr(t)}})
	if _, err := dead.Guarded(t.Context()); err == nil {
		t.Error("a server that is not there says whether it has users")
	}
}
