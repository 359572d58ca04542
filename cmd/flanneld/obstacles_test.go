package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"

	"flanneld/network"
)

func obstacle(i int) network.Obstacle {
	return network.Obstacle{Subject: fmt.Sprintf("10.5.%d.0/24", i), Problem: "a rule is in the way", Remedy: "ip rule del"}
}

func TestObstaclesAreReportedOnceTheyLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changes := 0
		o := obstacles{changed: func() { changes++ }}
		defer o.stop()
		check := func(want string, wantChanges int) {
			t.Helper()
			synctest.Wait()
			if got := o.text(); got != want || changes != wantChanges {
				t.Fatalf("after %d changes: %q, want %q after %d", changes, got, want, wantChanges)
			}
		}
		text := obstacle(1).String()

		o.report("routes", []network.Obstacle{obstacle(1)})
		time.Sleep(obstacleDebounce / 2)
		check("", 0)
		o.report("routes", nil) // over before it was worth a line
		time.Sleep(2 * obstacleDebounce)
		check("", 0)

		o.report("routes", []network.Obstacle{obstacle(1)})
		time.Sleep(obstacleDebounce / 2)
		o.report("rules", nil) // another source says nothing about it
		time.Sleep(obstacleDebounce/2 + time.Millisecond)
		check(text, 1)

		o.report("routes", nil) // gone for a moment only
		time.Sleep(obstacleDebounce / 2)
		o.report("routes", []network.Obstacle{obstacle(1)})
		time.Sleep(2 * obstacleDebounce)
		check(text, 1)

		o.report("routes", nil)
		time.Sleep(obstacleDebounce + time.Millisecond)
		check("", 2)
	})
}

func TestManyObstaclesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o obstacles
		defer o.stop()
		var all []network.Obstacle
		for i := range maxObstacles + 3 {
			all = append(all, obstacle(i))
		}
		o.report("routes", all)
		time.Sleep(obstacleDebounce + time.Millisecond)
		synctest.Wait()
		got := o.text()
		if n := strings.Count(got, "a rule is in the way"); n != maxObstacles || !strings.HasSuffix(got, "3 more obstacles") {
			t.Fatalf("%d are named in %q", n, got)
		}
	})
}

// One that has come and gone again and again is logged if it stays.
func TestObstacleThatStaysIsLoggedAfterManyThatDidNot(t *testing.T) {
	log := klogged(t, func() {
		synctest.Test(t, func(*testing.T) {
			var o obstacles
			defer o.stop()
			for range 9 {
				o.report("routes", []network.Obstacle{obstacle(1)})
				time.Sleep(5 * obstacleDebounce)
				o.report("routes", nil)
				time.Sleep(5 * obstacleDebounce)
			}
			o.report("routes", []network.Obstacle{obstacle(1)})
			time.Sleep(time.Hour)
			synctest.Wait()
		})
	})
	bad, good := strings.Count(log, "kept from their way"), strings.Count(log, "no longer in the way")
	if bad >= 9 || bad != good+1 {
		t.Errorf("it is logged %d times, and its end %d times:\n%s", bad, good, log)
	}
}

// klogged returns what f logs.
func klogged(t *testing.T, f func()) string {
	t.Helper()
	var b bytes.Buffer // klog writes under a lock
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", &b) // gets those that are worse, too
	defer func() {
		klog.LogToStderr(true)
		klog.SetOutput(os.Stderr)
	}()
	f()
	klog.Flush()
	return b.String()
}
