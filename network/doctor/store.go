package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"flanneld/pkg/status"
	"flanneld/subnet"
)

// The checks of the daemon and of the store.

// clockOff is how far clocks may be apart; servers tell theirs by the second.
const clockOff = 10 * time.Second

func checkDaemon(f *Facts) []Finding {
	switch {
	case f.Stopped:
		return unknown("none runs for %s: what follows is as it would find it", f.SubnetFile)
	case f.Daemon == nil:
		return []Finding{bad("see its log: journalctl --unit=flanneld", "it does not say how it is: %v", f.NoDaemon)}
	case f.Daemon.Lease == nil && !f.Daemon.Store.Down && f.Store.Err == nil && !f.Store.down() && f.NoConfig == nil && chosen(f):
		return []Finding{bad("see its log: journalctl --unit=flanneld", "it has no subnet yet: %s", f.Daemon.Waiting)}
	case f.Daemon.Lease == nil:
		return good("runs, and waits: %s", f.Daemon.Waiting) // for what other checks name
	}
	return good("runs, version %s, for %s", f.Daemon.Version, f.Now.Sub(f.Daemon.Started).Round(time.Second))
}

// chosen reports whether there is an external interface in each family.
func chosen(f *Facts) bool {
	for _, u := range f.Underlays {
		if u.Err != nil {
			return false
		}
	}
	return true
}

// componentProblems are those that the daemon names of its components.
func (f *Facts) componentProblems(of ...status.Component) (all []Finding) {
	if f.Daemon == nil {
		return nil
	}
	for _, p := range f.Daemon.Problems {
		for _, c := range of {
			if p.Component == c {
				text := p.Text
				if p.Subject != "" {
					text = p.Subject + ": " + text
				}
				all = append(all, bad(p.Remedy, "%s", text))
			}
		}
	}
	return all
}

// usedByDaemon is whether the daemon says that it can use the store.
func (f *Facts) usedByDaemon() bool {
	return f.Daemon != nil && f.Daemon.Lease != nil && !f.Daemon.Store.Down
}

const otherOptions = "the daemon can use it: give -doctor the same options and environment"

func checkStore(f *Facts) []Finding {
	s := f.Store
	if s.Err != nil {
		return []Finding{bad("", "%v", s.Err)}
	}
	var all []Finding
	var well []string
	for _, h := range s.Servers {
		switch {
		case h.Err != nil && s.Guessed && !s.down():
		case h.Err != nil && f.usedByDaemon() && s.down():
			all = append(all, Finding{Verdict: Unknown, Text: fmt.Sprintf("%s: %v", h.Name, h.Err), Remedy: otherOptions})
		case h.Err != nil:
			all = append(all, bad(h.Advice, "%s: %v", h.Name, h.Err))
		case h.Took > subnet.SlowAnswer:
			all = append(all, bad(subnet.SlowRemedy, "%s takes %s to answer", h.Name, h.Took.Round(time.Millisecond)))
		default:
			well = append(well, fmt.Sprintf("%s, version %s, answers in %s", h.Name, h.Version, h.Took.Round(time.Millisecond/10)))
		}
	}
	if len(well) > 0 {
		all = append(all, good("%s", strings.Join(well, "; "))...)
	}
	if f.Daemon != nil && f.Daemon.Store.Outages > 0 && len(all) > 0 && all[len(all)-1].Verdict == Good {
		all[len(all)-1].Text += fmt.Sprintf("; it could not be used %d times since the daemon was started", f.Daemon.Store.Outages)
	}
	return all
}

// slow reports whether no server answers as it should.
func (s Store) slow() bool {
	for _, h := range s.Servers {
		if h.Err == nil && h.Took <= subnet.SlowAnswer {
			return false
		}
	}
	return true
}

func checkAccess(f *Facts) []Finding {
	err := f.NoLeases
	if f.NoConfig != nil && !errors.Is(f.NoConfig, subnet.ErrNoConfig) && !isConfigError(f.NoConfig) {
		err = cmp.Or(err, f.NoConfig)
	}
	switch {
	case f.Store.Err != nil:
		return nil
	case f.Store.slow():
		return unknown("%s does not answer as it should", f.Store.Name)
	case err != nil && f.usedByDaemon():
		return []Finding{{Verdict: Unknown, Text: err.Error(), Remedy: otherOptions}}
	case err != nil:
		return []Finding{bad("", "%v", err)}
	}
	return good("the configuration and %d leases can be read", len(f.Leases))
}

func isConfigError(err error) bool { return errors.As(err, new(*subnet.ConfigError)) }

func checkConfig(f *Facts) []Finding {
	if all := f.componentProblems(status.ComponentConfiguration); len(all) > 0 {
		return all
	}
	switch {
	case errors.Is(f.NoConfig, subnet.ErrNoConfig), isConfigError(f.NoConfig):
		return []Finding{bad("flanneld -check-config FILE says what one means before it is written", "%v", f.NoConfig)}
	case f.Config == nil:
		return unknown("it could not be read")
	case f.Saved:
		return unknown("it could not be read; this host knew Network %s, backend %s", f.Config.Network(), f.Config.BackendType)
	}
	return good("Network %s, backend %s", f.Config.Network(), f.Config.BackendType)
}

func checkLease(f *Facts) []Finding {
	if all := f.componentProblems(status.ComponentLease); len(all) > 0 {
		return all
	}
	had := f.Env.Subnet
	switch {
	case f.NoLeases != nil && f.Daemon != nil && f.Daemon.Lease != nil:
		return f.leaseEnds(f.Daemon.Lease.Subnet, f.Daemon.Lease.Expires)
	case f.NoLeases != nil:
		return unknown("%s could not be asked for it", f.Store.Name)
	}
	if !had.IsValid() && f.Own == nil {
		return unknown("this host has none yet, and %s names none", f.SubnetFile)
	}
	if f.Own == nil {
		for _, l := range f.Leases {
			if l.Subnet.Shares(had) {
				return []Finding{bad("restart flanneld, and then what uses the old subnet; if two machines publish one address, name the right interface with -iface",
					"%s, which %s names, is the lease of another host: %s, %s", had, f.SubnetFile, l.PublicIP, cmp.Or(l.Machine, "which runs flannel"))}
			}
		}
		return []Finding{bad("start flanneld, which claims it again", "%s, which %s names, is no lease in %s: another host may get it", had, f.SubnetFile, f.Store.Name)}
	}
	for _, l := range f.Leases {
		if l != f.Own && l.PublicIP.Matches(f.Own.PublicIP) && l.Machine != "" && f.Machine != "" && !subnet.SameMachine(l.Machine, f.Machine) {
			return []Finding{bad("name the right interface with -iface on one of the two", "%s is this host's address, and by its lease %s also that of the machine %s", f.Own.PublicIP, l.Subnet, l.Machine)}
		}
	}
	return f.leaseEnds(f.Own.Subnet.String(), f.Own.Expires)
}

// leaseEnds says until when this host has its subnet.
func (f *Facts) leaseEnds(subnet string, expires time.Time) []Finding {
	if expires.IsZero() {
		return good("%s, which does not expire", subnet)
	}
	left := expires.Sub(f.Now).Round(time.Second)
	if left < f.Margin/2 {
		return []Finding{bad("start flanneld; if it runs, its log says what keeps it from renewing the lease", "%s ends in %s, and should have been renewed %s before its end", subnet, max(left, 0), f.Margin)}
	}
	return good("%s, which ends in %s if it is not renewed", subnet, left)
}

func checkClock(f *Facts) []Finding {
	var all []Finding
	asked := false
	for _, h := range f.Store.Servers {
		if h.Err != nil || h.Date.IsZero() {
			continue
		}
		asked = true
		off := h.At.Sub(h.Date).Round(time.Second)
		which := "behind"
		if off > 0 {
			which = "before"
		}
		if off.Abs() > clockOff+h.Took {
			all = append(all, bad("set the clocks, by NTP such as chrony or systemd-timesyncd: certificates are judged by them", "it is %s %s that of %s", off.Abs(), which, h.Name))
		}
	}
	if !asked {
		return unknown("no server of %s says what time it is", f.Store.Name)
	}
	return or(all, good("agrees with that of %s", f.Store.Name))
}
