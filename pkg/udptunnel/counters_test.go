package udptunnel

import (
	"strings"
	"testing"
)

func TestCountersString(t *testing.T) {
	var c Counters
	if c.String() != "nothing" {
		t.Error(c.String())
	}
	for i := range counters {
		c[i] = uint64(i) + 1
	}
	s := c.String()
	if strings.Contains(s, " =") || len(strings.Fields(s)) != int(counters) || !strings.HasPrefix(s, "out_packets=1 ") {
		t.Error(s)
	}
}
