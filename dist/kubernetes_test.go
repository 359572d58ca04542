package dist_test

import (
	"os/exec"
	"testing"
)

// The chart and the manifest of a release are of its version, and the one is what Helm makes of the other.
func TestReleasedChart(t *testing.T) {
	t.Parallel()
	dir := release(t, testVersion)
	chart := unpack(t, one(t, dir, "flanneld-1.2.3.tgz"), t.TempDir())
	cmd := exec.Command("go", "run", "-C", "kubernetes/render", ".", "-chart", chart, "-values", "manifest.yaml")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("rendering the chart: %v: %s", err, out)
	}
	if want := read(t, one(t, dir, "flanneld-v1.2.3.yaml")); string(out) != want {
		t.Errorf("Helm makes of the chart\n%s\nand the manifest is\n%s", out, want)
	}
}
