package main

import (
	"os/exec"
	"testing"
	"time"
)

// Versions of packages get higher with time, from tag to tag, as dpkg sees it.
func TestPackageVersion(t *testing.T) {
	at := time.Date(2026, 11, 21, 19, 26, 6, 0, time.UTC)
	before := "0"
	for _, c := range []struct{ described, want string }{
		{"ed22a3b", "0~20261121192606.ed22a3b"},
		{"0122334-dirty", "0~20261121192607.0122334.dirty"},
		{"v0.9.0-rc1", "0.9.0~rc1"},
		{"v0.9.0-rc1-dirty", "0.9.0~rc1+0.dirty"},
		{"v0.9.0", "0.9.0"},
		{"v0.9.0-dirty", "0.9.0+0.dirty"},
		{"v0.9.0-9-g0122334", "0.9.0+9.g0122334"},
		{"v0.9.0-10-g1122334-dirty", "0.9.0+10.g1122334.dirty"},
		{"v0.9.1", "0.9.1"},
	} {
		got := packageVersion(c.described, at)
		if got != c.want {
			t.Errorf("of %s the version is %s, want %s", c.described, got, c.want)
		}
		if before != "0" {
			if err := exec.Command("dpkg", "--compare-versions", before, "lt", got).Run(); err != nil {
				t.Errorf("%s is not after %s: %v", got, before, err)
			}
		}
		before = got
		at = at.Add(time.Second)
	}
}

// Versions of charts are semantic ones, whatever git says.
func TestChartVersion(t *testing.T) {
	at := time.Date(2026, 11, 21, 19, 26, 6, 0, time.UTC)
	for _, c := range []struct{ described, want string }{
		{"ed22a3b", "0.0.0-20261121192606+ed22a3b"},
		{"0122334-dirty", "0.0.0-20261121192606+0122334.dirty"},
		{"dev", "0.0.0-20261121192606+dev"},
		{"v0.9.0-rc1", "0.9.0-rc1"},
		{"v0.9.0", "0.9.0"},
		{"v0.9.0-dirty", "0.9.0+dirty"},
		{"v0.9.0-10-g1122334-dirty", "0.9.0+10.g1122334.dirty"},
	} {
		if got := chartVersion(c.described, at); got != c.want {
			t.Errorf("of %s the version is %s, want %s", c.described, got, c.want)
		}
	}
}
