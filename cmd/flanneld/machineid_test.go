package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The ID is that of the first file that has one. A file that is empty, or that an
// image has for all the machines to come, has none.
func TestReadMachineID(t *testing.T) {
	const none = "-" // no such file
	for _, c := range []struct{ etc, dbus, want string }{
		{"1f\n", "2e\n", "1f"},
		{none, "2e\n", "2e"},
		{"", "2e\n", "2e"},
		{" \n", "2e\n", "2e"},
		{"uninitialized\n", "2e\n", "2e"},
		{"uninitialized\n", none, ""},
		{"uninitialized", "uninitialized", ""},
		{none, none, ""},
	} {
		dir := t.TempDir()
		etc, dbus := filepath.Join(dir, "etc"), filepath.Join(dir, "dbus")
		for file, content := range map[string]string{etc: c.etc, dbus: c.dbus} {
			if content == none {
				continue
			}
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if id := readMachineID(etc, dbus); id != c.want {
			t.Errorf("of %q and %q the ID is %q, want %q", c.etc, c.dbus, id, c.want)
		}
	}
}
