package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Only a socket that a daemon left goes: everything else that has its name stays.
func TestRemoveDeadSocket(t *testing.T) {
	at := func(name string) string { return filepath.Join(t.TempDir(), name) }
	listen := func(path string) *net.UnixListener {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		must(t, err)
		l.SetUnlinkOnClose(false)
		return l
	}
	nothing, file, dead, alive := at("nothing"), at("file"), at("dead"), at("alive")
	must(t, os.WriteFile(file, []byte("mine"), 0o600))
	must(t, listen(dead).Close())
	l := listen(alive)
	defer l.Close()
	for _, c := range []struct {
		path, want string
		there      bool
	}{
		{nothing, "", false},
		{file, "is no socket", true},
		{dead, "", false},
		{alive, "another program listens at", true},
	} {
		err := removeDeadSocket(t.Context(), c.path)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		}
		if _, err := os.Lstat(c.path); (err == nil) != c.there {
			t.Errorf("%s: %v", c.path, err)
		}
	}
}
