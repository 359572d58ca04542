package dist_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// shells are those that the script has to work with.
var shells = []string{"dash", "bash", "busybox sh"}

// mkDockerOpts runs the script and returns what it wrote.
func mkDockerOpts(t *testing.T, shell string, env []string, args ...string) string {
	t.Helper()
	output := filepath.Join(t.TempDir(), "docker.env")
	if stderr, err := runScript(t, shell, env, append(args, "-d", output)...); err != nil || stderr != "" {
		t.Fatalf("mk-docker-opts.sh %q: %v: %s", args, err, stderr)
	}
	return read(t, output)
}

// runScript runs the script and returns what it wrote to its standard error.
func runScript(t *testing.T, shell string, env []string, args ...string) (string, error) {
	t.Helper()
	argv := append(strings.Fields(shell), "mk-docker-opts.sh")
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Fatalf("%s is missing: run `make tools`", argv[0])
	}
	cmd := exec.Command(argv[0], append(argv[1:], args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err := cmd.Run()
	return stderr.String(), err
}
