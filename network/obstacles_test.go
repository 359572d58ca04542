package network

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"
)

func obstacle(i int) Obstacle {
	return Obstacle{Subject: fmt.Sprintf("10.5.%d.0/24", i), Problem: "a rule is in the way", Remedy: "ip rule del"}
}

func TestObstaclesAreReportedOnceTheyLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changes := 0
		o := Obstacles{Changed: func() { changes++ }}
		defer o.Stop()
		check := func(want string, wantChanges int) {
			t.Helper()
			synctest.Wait()
			got := ""
			for _, o := range o.Reported() {
				got += o.String()
			}
			if got != want || changes != wantChanges {
				t.Fatalf("after %d changes: %q, want %q after %d", changes, got, want, wantChanges)
			}
		}
		text := obstacle(1).String()

		o.Report("routes", []Obstacle{obstacle(1)})
		time.Sleep(obstacleDebounce / 2)
		check("", 0)
		o.Report("routes", nil) // over before it was worth a line
		time.Sleep(2 * obstacleDebounce)
		check("", 0)

		o.Report("routes", []Obstacle{obstacle(1)})
		time.Sleep(obstacleDebounce / 2)
		o.Report("rules", nil) // another source says nothing about it
		time.Sleep(obstacleDebounce/2 + time.Millisecond)
		check(text, 1)

		o.Report("routes", nil) // gone for a moment only
		time.Sleep(obstacleDebounce / 2)
		o.Report("routes", []Obstacle{obstacle(1)})
		time.Sleep(2 * obstacleDebounce)
		check(text, 1)

		o.Report("routes", nil)
		time.Sleep(obstacleDebounce + time.Millisecond)
		check("", 2)
	})
}

// One that has come and gone again and again is logged if it stays.
func TestObstacleThatStaysIsLoggedAfterManyThatDidNot(t *testing.T) {
	log := klogged(t, func() {
		synctest.Test(t, func(*testing.T) {
			var o Obstacles
			defer o.Stop()
			for range 9 {
				o.Report("routes", []Obstacle{obstacle(1)})
				time.Sleep(5 * obstacleDebounce)
				o.Report("routes", nil)
				time.Sleep(5 * obstacleDebounce)
			}
			o.Report("routes", []Obstacle{obstacle(1)})
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
	klog.SetOutput(&b)
	defer klog.SetOutput(io.Discard)
	f()
	klog.Flush()
	return b.String()
}
