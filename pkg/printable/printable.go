// Package printable makes text of others safe to print: in a log, in the status of a
// service, on a terminal.
package printable

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxLine is the length of the longest line in bytes. Who keeps logs splits longer ones
// (Docker from 16 KiB on, journald from 48), and what comes after looks like a line of
// its own.
const MaxLine = 8 << 10

// Line returns text as one line of printable characters. The lines of a text are joined
// by "; ", as those of joined errors are; whatever else is not printable, or does
// something instead (escape sequences, changes of direction, invalid UTF-8), is escaped
// as Go does. What exceeds MaxLine is left out.
func Line(text string) string {
	text = strings.TrimRight(text, "\r\n")
	if isLine(text) {
		return text
	}
	var b strings.Builder
	for rest := text; rest != ""; {
		if b.Len() > MaxLine {
			fmt.Fprintf(&b, " … (%d bytes more)", len(rest))
			break
		}
		r, size := utf8.DecodeRuneInString(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, rest[0])
		case strconv.IsPrint(r):
			b.WriteString(rest[:size])
		case r == '\r' && strings.HasPrefix(rest, "\r\n"):
		case r == '\n':
			b.WriteString("; ")
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		rest = rest[size:]
	}
	return b.String()
}

func isLine(text string) bool {
	if len(text) > MaxLine || !utf8.ValidString(text) {
		return false
	}
	for _, r := range text {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

// plain are names that cannot be taken for anything else: keys, addresses, and machines as
// leases call them.
var plain = regexp.MustCompile(`^[A-Za-z0-9._:/&+-]{1,100}( [0-9a-f]{1,64})?$`)

// Name returns a name that others chose, in quotes if it could be taken for more than a
// name.
func Name(name string) string {
	if plain.MatchString(name) {
		return name
	}
	return Quote(name)
}

// shellPlain are words that a shell takes as they are.
var shellPlain = regexp.MustCompile(`^[A-Za-z0-9._:/@%=+,-]+$`)

// Word returns text as one word of a shell's command.
func Word(text string) string {
	if shellPlain.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// maxQuoted is how much of a text is quoted, in bytes.
const maxQuoted = 80

// Quote quotes text, whatever it holds and however long it is.
func Quote(text string) string {
	if len(text) > maxQuoted {
		return fmt.Sprintf("%q... (%d bytes)", text[:maxQuoted], len(text))
	}
	return strconv.Quote(text)
}
