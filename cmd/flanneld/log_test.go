package main

import (
	"errors"
	"strings"
	"testing"
)

// However something is logged, it is one printable line.
func TestLogFilter(t *testing.T) {
	foreign := errors.New("x\nE1129 forged\x1b[2J")
	const want = `x; E1129 forged\x1b[2J`
	if got := (lineFilter{}).Filter([]any{foreign}); len(got) != 1 || got[0] != want {
		t.Errorf("Info logs %q", got)
	}
	if format, args := (lineFilter{}).FilterF("%v %%s", []any{foreign}); format != "%s" || len(args) != 1 || args[0] != want+" %s" {
		t.Errorf("Infof logs %q with %q", format, args)
	}
	if msg, pairs := (lineFilter{}).FilterS(foreign.Error(), []any{"cause", foreign}); msg != want || pairs[1] != want {
		t.Errorf("InfoS logs %q with %q", msg, pairs)
	}
	var out strings.Builder
	if n, err := (lineWriter{&out}).Write([]byte(foreign.Error() + "\n")); n != len(foreign.Error())+1 || err != nil || out.String() != want+"\n" {
		t.Errorf("written: %q, %d, %v", out.String(), n, err)
	}
}
