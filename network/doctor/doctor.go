// Package doctor says what is wrong with a host, its network and its store, and what to do
// about it: checks, each a small function, go over facts that were gathered before.
package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"flanneld/pkg/printable"
)

// Verdict is what a check comes to.
type Verdict string

// The verdicts.
const (
	Good    Verdict = "good"
	Bad     Verdict = "bad"
	Unknown Verdict = "unknown" // it could not be checked
)

// Finding is what a check found.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	// Text says what is so, or why that could not be checked.
	Text string `json:"text"`
	// Remedy is a command, or what else to do.
	Remedy string `json:"remedy,omitempty"`
}

// Report is all that was found.
type Report struct {
	Version  string    `json:"version"`
	Host     string    `json:"host"`
	OK       bool      `json:"ok"` // nothing is bad
	Findings []Finding `json:"findings"`
}

// check is a row of the table. Without findings it has nothing to do with this host.
type check struct {
	name string
	look func(*Facts) []Finding
}

// Examine goes over facts.
func Examine(f *Facts) Report {
	r := Report{Version: f.Version, Host: f.Host, OK: true, Findings: []Finding{}}
	for _, c := range checks {
		for _, is := range c.look(f) {
			is.Check, is.Text, is.Remedy = c.name, printable.Line(is.Text), printable.Line(is.Remedy)
			r.OK = r.OK && is.Verdict != Bad
			r.Findings = append(r.Findings, is)
		}
	}
	return r
}

var marks = map[Verdict]string{Good: "✓", Bad: "✗", Unknown: "–"}

// Print prints a line for each finding, and below it what to do.
func (r Report) Print(to io.Writer) error {
	var text strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&text, "%s %-*s %s\n", marks[f.Verdict], nameWidth, f.Check, f.Text)
		if f.Remedy != "" {
			fmt.Fprintf(&text, "  %*s → %s\n", nameWidth, "", f.Remedy)
		}
	}
	_, err := io.WriteString(to, text.String())
	return err
}

// nameWidth is that of the longest name of a check.
const nameWidth = 13

// PrintJSON prints the report for programs.
func (r Report) PrintJSON(to io.Writer) error {
	e := json.NewEncoder(to)
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

func good(format string, a ...any) []Finding {
	return []Finding{{Verdict: Good, Text: fmt.Sprintf(format, a...)}}
}

func unknown(format string, a ...any) []Finding {
	return []Finding{{Verdict: Unknown, Text: fmt.Sprintf(format, a...)}}
}

func bad(remedy, format string, a ...any) Finding {
	return Finding{Verdict: Bad, Text: fmt.Sprintf(format, a...), Remedy: remedy}
}

// or returns what was found to be bad; what else there is to say if nothing was.
func or(all []Finding, otherwise []Finding) []Finding {
	if len(all) > 0 {
		return all
	}
	return otherwise
}
