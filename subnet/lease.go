package subnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unique"

	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// LeaseTTL is how long a lease lives without being renewed.
const LeaseTTL = 24 * time.Hour

// Attrs is what a host publishes with its lease: the value of the lease's key.
// Attrs are comparable. BackendData and BackendV6Data hold compact JSON text,
// or nothing.
type Attrs struct {
	PublicIP      ip.Addrs
	BackendType   string
	BackendData   string
	BackendV6Data string
	// Machine tells the host from all others, also from one that has the same
	// public address: its name, a space, and its ID; see SameMachine. It is empty
	// where a lease was written by flannel.
	Machine string
	// Challenger is the machine that asks whether Machine is alive. If it is, it
	// writes its lease again, without this.
	Challenger string
}

// SameMachine reports whether two texts that leases say as Machine are of one
// machine. Its name is for people, and may change: what counts is the ID, after the
// last space. Without an ID, the whole text counts.
func SameMachine(a, b string) bool {
	id := a[strings.LastIndexByte(a, ' ')+1:]
	return a == b || id != "" && id != a && strings.HasSuffix(b, " "+id)
}

// Lease is a subnet in the hands of one host. A Lease that has been handed out
// is never changed; many snapshots share it.
type Lease struct {
	Subnet ip.Subnet
	Attrs
	// Expires is when the store drops the lease, by this host's monotonic
	// clock. Zero is a reservation, which never expires.
	Expires time.Time
	// Revision names the last write of the lease, for compare-and-swap.
	Revision uint64
	// Created orders leases by how long they have been there: it is when the host was
	// registered, in seconds since 1970, where the store chooses subnets; else the revision in
	// which the lease was first written.
	Created int64
}

// Reserved reports whether the lease never expires.
func (l *Lease) Reserved() bool { return l.Expires.IsZero() }

// Data is the backend's data of a family.
func (a Attrs) Data(f ip.Family) string {
	if f == ip.V4 {
		return a.BackendData
	}
	return a.BackendV6Data
}

// With returns the attributes with others of a family.
func (a Attrs) With(f ip.Family, public netip.Addr, data string) Attrs {
	a.PublicIP = a.PublicIP.With(f, public)
	if f == ip.V4 {
		a.BackendData = data
	} else {
		a.BackendV6Data = data
	}
	return a
}

// FilledFrom returns the attributes with what is missing of the families of a subnet, because it
// can't be read, as it was before.
func (a Attrs) FilledFrom(before *Lease, s ip.Subnet) Attrs {
	for _, f := range s.Families() {
		if before != nil && !a.PublicIP.Of(f).IsValid() && before.Subnet.Of(f) == s.Of(f) {
			a = a.With(f, before.PublicIP.Of(f), before.Data(f))
		}
	}
	return a
}

// only returns the lease with no more than a part of its subnet.
func (l *Lease) only(s ip.Subnet) *Lease {
	part := *l
	part.Subnet = s
	for _, f := range ip.Families {
		if !s.Of(f).IsValid() {
			part.Attrs = part.With(f, netip.Addr{}, "")
		}
	}
	return &part
}

// attrsJSON is the value as every version of flannel reads it. PublicIPv6 is
// always written, null where there is none, as flannel does since 0.15.
type attrsJSON struct {
	PublicIP      *string
	PublicIPv6    *string
	BackendType   string          `json:",omitempty"`
	BackendData   json.RawMessage `json:",omitempty"`
	BackendV6Data json.RawMessage `json:",omitempty"`
	// flannel does not know these, and ignores what it does not know.
	Machine    string `json:",omitempty"`
	Challenger string `json:",omitempty"`
}

// Value returns the JSON that is written under the lease's key.
func (a Attrs) Value() (string, error) {
	var b bytes.Buffer
	err := a.encode(&b)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// encode writes the JSON of Value, with a line's end.
func (a Attrs) encode(b *bytes.Buffer) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false) // it would alter the text of BackendData
	return e.Encode(attrsJSON{
		PublicIP:      addressText(a.PublicIP.V4),
		PublicIPv6:    addressText(a.PublicIP.V6),
		BackendType:   a.BackendType,
		BackendData:   json.RawMessage(a.BackendData),
		BackendV6Data: json.RawMessage(a.BackendV6Data),
		Machine:       a.Machine,
		Challenger:    a.Challenger,
	})
}

// addressText is an address as JSON has it; nil for none.
func addressText(a netip.Addr) *string {
	if !a.IsValid() {
		return nil
	}
	text := a.String()
	return &text
}

// String is the JSON that is written, for logs.
func (a Attrs) String() string {
	v, err := a.Value()
	if err != nil {
		return err.Error()
	}
	return v
}

// ParseAttrs reads the value of the key of subnet s. It fails on anything that
// could not be acted upon: a value that is no JSON object, or no usable public
// address in a family that s covers. Of a value with one in the other family it returns what
// there is, too.
func ParseAttrs(s ip.Subnet, value string) (Attrs, error) {
	t, ok := quickAttrs(value)
	if !ok {
		var err error
		if t, err = readAttrs(value); err != nil {
			return Attrs{}, err
		}
	}
	// What stays is not to keep the whole value.
	a := Attrs{
		BackendType: unique.Make(t.backendType).Value(), BackendData: strings.Clone(t.data), BackendV6Data: strings.Clone(t.dataV6),
		Machine: strings.Clone(t.machine), Challenger: strings.Clone(t.challenger),
	}
	var failed []error
	read := func(name, text string, f ip.Family) (public netip.Addr) {
		if s.Of(f).IsValid() && (f == ip.V6 || !s.Placeholder()) {
			var err error
			if public, err = publicAddr(name, text, f); err != nil {
				failed = append(failed, err)
			}
		}
		return public
	}
	a.PublicIP.V4 = read("PublicIP", t.public, ip.V4)
	a.PublicIP.V6 = read("PublicIPv6", t.publicV6, ip.V6)
	return a, errors.Join(failed...)
}

// attrsText is what the value of a key says, before it is judged. What is missing or null is empty.
type attrsText struct {
	public, publicV6, backendType, machine, challenger string
	data, dataV6                                       string // compact
}

// readAttrs reads any JSON object.
func readAttrs(value string) (t attrsText, err error) {
	var j attrsJSON
	if err := json.Unmarshal([]byte(value), &j); err != nil {
		return t, fmt.Errorf("value %s: %w", printable.Quote(value), jsonError(err))
	}
	t = attrsText{backendType: j.BackendType, machine: j.Machine, challenger: j.Challenger}
	if j.PublicIP != nil {
		t.public = *j.PublicIP
	}
	if j.PublicIPv6 != nil {
		t.publicV6 = *j.PublicIPv6
	}
	if t.data, err = compact(j.BackendData); err != nil {
		return t, err
	}
	t.dataV6, err = compact(j.BackendV6Data)
	return t, err
}

// quickAttrs reads what is written just as flannel and Value write it: compact, in this order,
// ASCII without escapes. There may be 50,000 of these. It reports false for all else.
func quickAttrs(value string) (t attrsText, ok bool) {
	q := quick(value)
	ok = q.skip(`{"PublicIP":`) && q.textOrNull(&t.public) &&
		(!q.skip(`,"PublicIPv6":`) || q.textOrNull(&t.publicV6)) &&
		(!q.skip(`,"BackendType":`) || q.text(&t.backendType)) &&
		(!q.skip(`,"BackendData":`) || q.object(&t.data)) &&
		(!q.skip(`,"BackendV6Data":`) || q.object(&t.dataV6)) &&
		(!q.skip(`,"Machine":`) || q.text(&t.machine)) &&
		(!q.skip(`,"Challenger":`) || q.text(&t.challenger))
	return t, ok && q == "}"
}

// quick is the rest of a JSON text, of which some forms are read.
type quick string

func (q *quick) skip(prefix string) (ok bool) {
	if ok = strings.HasPrefix(string(*q), prefix); ok {
		*q = (*q)[len(prefix):]
	}
	return ok
}

// text reads a string.
func (q *quick) text(to *string) bool {
	if !q.skip(`"`) {
		return false
	}
	for i := range len(*q) {
		switch c := (*q)[i]; {
		case c == '"':
			*to, *q = string((*q)[:i]), (*q)[i+1:]
			return true
		case c < ' ' || c > '~' || c == '\\':
			return false
		}
	}
	return false
}

func (q *quick) textOrNull(to *string) bool { return q.skip("null") || q.text(to) }

// object reads an object of strings, booleans and natural numbers, as it is.
func (q *quick) object(to *string) bool {
	all := string(*q)
	if !q.skip("{") {
		return false
	}
	for first := true; !q.skip("}"); first = false {
		var ignored string
		if !first && !q.skip(",") || !q.text(&ignored) || !q.skip(":") ||
			!q.text(&ignored) && !q.skip("true") && !q.skip("false") && !q.number() {
			return false
		}
	}
	*to = all[:len(all)-len(*q)]
	return true
}

func (q *quick) number() bool {
	digits := len(*q) - len(strings.TrimLeft(string(*q), "0123456789"))
	if digits == 0 || digits > 1 && (*q)[0] == '0' {
		return false
	}
	*q = (*q)[digits:]
	return true
}

func publicAddr(field, text string, f ip.Family) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, fmt.Errorf("%s is missing", field)
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s %s is not an address", field, printable.Quote(text))
	}
	if err := CheckPublic(a, f); err != nil {
		return netip.Addr{}, fmt.Errorf("%s %q is %w", field, a, err)
	}
	return a, nil
}

// CheckPublic returns what an address is instead of one of a family that other hosts can reach
// a host by.
func CheckPublic(a netip.Addr, f ip.Family) error {
	switch {
	case ip.FamilyOf(a) != f || a.Is4In6() || a.Zone() != "":
		return errors.New("not an address of the right family")
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return errors.New("not the address of a host")
	case f == ip.V6 && a.IsLinkLocalUnicast():
		return errors.New("known on its link alone")
	}
	return nil
}

func compact(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return "", err
	}
	return b.String(), nil
}

// jsonError words a JSON error for a person who sees the key, not this code.
func jsonError(err error) error {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		if t.Field == "" {
			return fmt.Errorf("is a JSON %s, want an object", t.Value)
		}
		return fmt.Errorf("%s is a JSON %s, which does not fit", t.Field, t.Value)
	}
	var s *json.SyntaxError
	if errors.As(err, &s) {
		return fmt.Errorf("not valid JSON at byte %d: %w", s.Offset, err)
	}
	return err
}
