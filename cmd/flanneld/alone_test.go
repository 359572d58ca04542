package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A subnet file is one, by whatever path.
func TestClaimByOtherPath(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "run"), 0o755))
	must(t, os.Symlink("run", filepath.Join(dir, "var-run")))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for _, name := range []string{"subnet.env", "flannel/subnet.env"} { // the folder is not there yet
		release, err := make(sockets).claim(filepath.Join(dir, "run", name))
		must(t, err)
		for path, taken := range map[string]bool{
			filepath.Join(dir, "var-run", name):               true,
			filepath.Join(dir, "run") + "/../run/./" + name:   true,
			filepath.Join(dir, "run", "other.env"):            false,
			filepath.Join(dir, "var-run", "flannel", "other"): false,
			filepath.Join(dir, "file", name):                  false,
		} {
			other, err := make(sockets).claim(path)
			if errors.Is(err, errTaken) != taken {
				t.Errorf("%s: %v, want it to be taken: %t", path, err, taken)
			}
			if err == nil {
				other()
			}
		}
		release()
	}
}
