package status

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"flanneld/pkg/printable"
)

// Print prints a screenful for people, at some time. Text of others in it harms no terminal.
func (s *Status) Print(to io.Writer, now time.Time) error {
	var screen bytes.Buffer
	row := func(name, format string, a ...any) {
		fmt.Fprintf(&screen, "%-11s%s\n", name, printable.Line(fmt.Sprintf(format, a...)))
	}
	fmt.Fprintf(&screen, "flanneld %s on %s, running for %s: %s\n", s.Version, s.Host, age(now, s.Started), s.Health)
	if s.Waiting != "" {
		row("waiting", "%s", s.Waiting)
	}
	for _, f := range s.Network {
		row("subnet", "%s of %s", f.Subnet, f.Network)
		at := f.Addr.String()
		if f.PublicIP != f.Addr {
			at += ", reached by " + f.PublicIP.String()
		}
		row("interface", "%s, %s, MTU %d", f.Iface, at, f.IfaceMTU)
	}
	if s.Backend != "" {
		text := s.Backend
		for _, f := range s.Network {
			if f.Device != "" {
				text += ", " + f.Device
			}
		}
		if s.MTU > 0 {
			text += fmt.Sprintf(", MTU of pods %d", s.MTU)
		}
		row("backend", "%s", text)
	}
	store := s.Store.Name
	if len(s.Store.Endpoints) > 0 {
		store += " at " + strings.Join(s.Store.Endpoints, ", ")
	}
	switch {
	case s.Store.Down:
		store += fmt.Sprintf(": cannot be used for %s", age(now, s.Store.Since))
	case !s.Store.Since.IsZero():
		store += fmt.Sprintf(": in use for %s", age(now, s.Store.Since))
	}
	row("store", "%s", store)
	if s.Lease != nil {
		text := "does not expire"
		if !s.Lease.Expires.IsZero() {
			text = fmt.Sprintf("expires in %s, if it is not renewed", age(s.Lease.Expires, now))
		}
		row("lease", "%s %s", s.Lease.Subnet, text)
		s.printPeers(row, now)
	}
	if len(s.Objects) > 0 {
		var wanted, missing int
		var kinds []string
		for _, k := range s.Objects {
			wanted += k.Wanted
			missing += k.Missing
			kinds = append(kinds, fmt.Sprintf("%s %d", k.Name, k.Wanted))
		}
		row("objects", "%d wanted, %d missing (%s)", wanted, missing, strings.Join(kinds, ", "))
	}
	if len(s.Problems) == 0 && s.Waiting == "" {
		row("problems", "none")
	}
	for i, p := range s.Problems {
		row(first(i, "problems"), "%s: %s", p.Component, p)
	}
	for i, e := range s.Recent {
		row(first(i, "recent"), "%s %s", e.At.Local().Format(time.DateTime), e.Text)
	}
	_, err := to.Write(screen.Bytes())
	return err
}

func (s *Status) printPeers(row func(name, format string, a ...any), now time.Time) {
	text := fmt.Sprint(s.Peers.Count)
	if s.Peers.Reachable > 0 {
		text += fmt.Sprintf(", %d reachable", s.Peers.Reachable)
	}
	if s.Peers.TroubledCount > 0 {
		text += fmt.Sprintf(", %d in trouble", s.Peers.TroubledCount)
	}
	row("peers", "%s", text)
	const most = 10
	for i, p := range s.Peers.Troubled {
		if i == most {
			row("", "… and %d more", s.Peers.TroubledCount-most)
			break
		}
		at := p.Subnet
		if p.PublicIP != "" {
			at += " (" + p.PublicIP + ")"
		}
		text := fmt.Sprintf("%s %s", at, p.State)
		if !p.Since.IsZero() {
			text += " for " + age(now, p.Since)
		}
		if p.Reason != "" {
			text += ": " + p.Reason
		}
		if p.Remedy != "" {
			text += "; see: " + p.Remedy
		}
		row("", "%s", text)
	}
}

// first is the name of the first of several rows.
func first(i int, name string) string {
	if i == 0 {
		return name
	}
	return ""
}

// age is the time from one moment to another, as people say it.
func age(now, then time.Time) string {
	switch d := now.Sub(then); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}
