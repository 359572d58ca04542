// Package cni writes the file by which a container runtime has plugins put pods into this
// host's subnet, and looks for what keeps the runtime from using it.
package cni

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"flanneld/pkg/file"
	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
)

// Recheck is how often the file is to be looked at, so that whatever happens to it lasts for
// less than two seconds.
const Recheck = time.Second

// Extension is that of files that runtimes take for a list of plugins.
const Extension = ".conflist"

// Default is the template that is taken if none is named.
const Default = "bridge"

//go:embed templates
var builtIn embed.FS

// Templates are the names of those that are built in.
func Templates() []string {
	entries, _ := builtIn.ReadDir("templates") // it is there
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), Extension))
	}
	return names
}

// Values are what a template is filled with.
type Values struct {
	Name    string    // of the network, as plugins and runtimes call it
	Network ip.Subnet // of the whole cluster
	Subnet  ip.Subnet // of this host
	MTU     int       // of the pods' interfaces, in bytes
	IPMasq  bool      // the daemon masquerades, and the plugins need not
	Iface   string    // the external interface
}

// Ranges are what the plugin host-local gives addresses from.
func (v Values) Ranges() [][]Range {
	var all [][]Range
	for _, p := range v.Subnet.Prefixes() {
		all = append(all, []Range{{p}})
	}
	return all
}

// Range is one of host-local.
type Range struct {
	Subnet netip.Prefix `json:"subnet"`
}

// Routes are those by which pods reach the pods of other hosts. They name the gateway, which
// is the subnet's first address: else plugins do not find them when a runtime has them check.
func (v Values) Routes() []Route {
	var all []Route
	for _, family := range []struct{ network, subnet netip.Prefix }{{v.Network.V4, v.Subnet.V4}, {v.Network.V6, v.Subnet.V6}} {
		if family.network.IsValid() && family.subnet.IsValid() {
			all = append(all, Route{family.network, family.subnet.Addr().Next()})
		}
	}
	return all
}

// DefaultRoutes are those by which pods reach everything.
func (v Values) DefaultRoutes() []Route {
	var all []Route
	for _, p := range v.Subnet.Prefixes() {
		unspecified := netip.IPv4Unspecified()
		if p.Addr().Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		all = append(all, Route{Dst: netip.PrefixFrom(unspecified, 0)})
	}
	return all
}

// Route is one of a pod.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	GW  netip.Addr   `json:"gw,omitzero"`
}

// Conf is the file.
type Conf struct {
	Path string

	template string // a name of Templates, or a path
	name     string // of the network; empty until the file was looked for
	boot     string // as bootID has it, from then on
	plugins  []string
}

// New returns a Conf, and looks at nothing. The template is one of Templates, or the path of
// one of the user's.
func New(path, template string) *Conf { return &Conf{Path: path, template: template} }

// Write has the file be what its template makes of the values, whatever it was. It reports
// whether anything had to be written. If there is an error, the file stays as it is.
func (c *Conf) Write(v Values) (changed bool, err error) {
	folder := filepath.Dir(c.Path)
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("there is no folder %s: the container runtime has another one, or it is still to be made", folder)
	}
	if c.name == "" {
		c.name, c.boot = formerName(c.Path), bootID()
	}
	v.Name = c.name
	text, list, err := c.render(v)
	if err != nil {
		return false, fmt.Errorf("template %w", err)
	}
	c.plugins = list.types()
	changed, err = file.Update(c.Path, func([]byte) ([]byte, bool) { return sign(text, c.boot), false })
	if changed && err == nil {
		_ = removeSigned(c.Path + formerExt) // left, it does no harm
	}
	return changed, err
}

// formerExt is appended to the name of a file that was written before the host was booted. No
// runtime reads such a file.
const formerExt = ".former"

// PutAside takes a file away from the runtime that Write has written before the host was
// booted: until the next Write the host has no network for pods. It does nothing about any other
// file, or where boots cannot be told apart, and takes the place of no other one.
func PutAside(path string) (done bool, err error) {
	content, err := file.ReadOwn(path, unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.As(err, new(file.UntrustedError)):
		return false, nil
	case err != nil:
		return false, err
	}
	written, ok := signed(content)
	if now := bootID(); !ok || written == "" || now == "" || written == now {
		return false, nil
	}
	aside := path + formerExt
	switch err := removeSigned(aside); {
	case errors.Is(err, ErrForeign):
		return false, fmt.Errorf("%s, where it is to be put aside, is in the way: %w; move that away", aside, err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	err = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, aside, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // some file systems cannot
		err = os.Rename(path, aside)
	}
	if err != nil {
		return false, fmt.Errorf("renaming it to %s: %w", aside, err)
	}
	return true, nil
}

// bootFile tells one boot of the host from the next.
var bootFile = "/proc/sys/kernel/random/boot_id"

// bootID is what it says; empty if that cannot be known.
func bootID() string {
	content, err := os.ReadFile(bootFile)
	id := strings.TrimSpace(string(content))
	if err != nil || strings.ContainsFunc(id, func(r rune) bool { return r != '-' && !unicode.Is(unicode.ASCII_Hex_Digit, r) }) {
		return ""
	}
	return id
}

// usualName is that which flannel's manifest for Kubernetes has.
const usualName = "cbr0"

// formerName returns the name of the network that the file has had so far. What plugins
// keep of the pods that are there, such as their addresses, they keep below that name.
func formerName(path string) string {
	aside := path + formerExt
	for _, path := range []string{path, aside} {
		content, err := file.ReadOwn(path, 0)
		_, ours := signed(content)
		if list, bad := parse(content); err == nil && bad == nil && (path != aside || ours) {
			return list.Name
		}
	}
	return usualName
}

// render returns what the template makes of the values. Errors begin with its name.
func (c *Conf) render(v Values) ([]byte, list, error) {
	var l list
	content, err := builtIn.ReadFile("templates/" + c.template + Extension)
	if strings.Contains(c.template, "/") {
		content, err = file.ReadOwn(c.template, 0)
	}
	if err != nil {
		return nil, l, fmt.Errorf("%s: %w", c.template, err)
	}
	t, err := template.New(c.template).Funcs(template.FuncMap{"json": toJSON}).Parse(string(content))
	if err != nil {
		return nil, l, unprefixed(err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, v); err != nil {
		return nil, l, unprefixed(err)
	}
	l, err = parse(b.Bytes())
	if err != nil {
		return nil, l, fmt.Errorf("%s: %w", c.template, err)
	}
	return b.Bytes(), l, nil
}

func toJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// unprefixed is an error of text/template, which has the name and the line of the template.
func unprefixed(err error) error {
	return errors.New(strings.TrimPrefix(err.Error(), "template: "))
}

// list is what a file for runtimes has, as far as it matters here.
type list struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Plugins    []struct {
		Type string `json:"type"`
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	} `json:"plugins"`
}

// networkName is what runtimes take for a name.
var networkName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

func parse(content []byte) (list, error) {
	var l list
	if err := json.Unmarshal(content, &l); err != nil {
		var syntax *json.SyntaxError
		var kind *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			return l, fmt.Errorf("what it makes is not JSON: %s: %w", lineAt(content, syntax.Offset), err)
		case errors.As(err, &kind):
			return l, fmt.Errorf("what it makes is not for a runtime: %s: %q is not %s but %s", lineAt(content, kind.Offset), kind.Field, kinds[kind.Type.Kind().String()], kind.Value)
		}
		return l, err
	}
	switch {
	case !networkName.MatchString(l.Name):
		return l, fmt.Errorf(`what it makes has the "name" %q: one has letters, digits, "_", "." and "-"`, l.Name)
	case l.CNIVersion == "":
		return l, errors.New(`what it makes has no "cniVersion"`)
	case len(l.Plugins) == 0:
		return l, errors.New(`what it makes has no "plugins"`)
	}
	for i, p := range l.Plugins {
		if p.Type == "" || strings.Contains(p.Type, "/") {
			return l, fmt.Errorf(`what it makes has the "type" %q for plugin %d: it is a program's name`, p.Type, i+1)
		}
	}
	return l, nil
}

var kinds = map[string]string{"string": "a string", "slice": "an array", "struct": "an object"}

// lineAt returns the number and the text of a line.
func lineAt(content []byte, offset int64) string {
	before := content[:min(max(offset-1, 0), int64(len(content)))]
	start := bytes.LastIndexByte(before, '\n') + 1
	line, _, _ := strings.Cut(string(content[start:]), "\n")
	return fmt.Sprintf("line %d, %s", 1+bytes.Count(before, []byte("\n")), printable.Line(strings.TrimSpace(line)))
}

// types are the plugins that are called for each pod, in their order.
func (l list) types() []string {
	var all []string
	for _, p := range l.Plugins {
		for _, t := range []string{p.Type, p.IPAM.Type} {
			if t != "" && !slices.Contains(all, t) {
				all = append(all, t)
			}
		}
	}
	return all
}

// The signature is a key that runtimes do not know, right behind the first brace, with the
// sum of all else, and the boot of the host in which it was written.
const (
	signatureBegins = "\n  \"comment\": \"flanneld keeps this as its -cni-conf-template makes it, signature "
	signatureBoot   = " of boot "
	signatureEnds   = "\","
)

// sign returns a text, which is a JSON object, with its signature.
func sign(text []byte, boot string) []byte {
	at := bytes.IndexByte(text, '{') + 1
	signature := sum(text)
	if boot != "" {
		signature += signatureBoot + boot
	}
	return slices.Concat(text[:at], []byte(signatureBegins+signature+signatureEnds), text[at:])
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:16])
}

// signed reports whether a content is as it was signed, and in which boot that was; empty if
// that is not known.
func signed(content []byte) (boot string, ok bool) {
	before, rest, found := bytes.Cut(content, []byte(signatureBegins))
	signature, after, ends := bytes.Cut(rest, []byte(signatureEnds))
	given, boot, _ := strings.Cut(string(signature), signatureBoot)
	return boot, found && ends && given == sum(slices.Concat(before, after))
}

// ErrForeign is for a file that is not as a daemon wrote it.
var ErrForeign = errors.New("it is not as flanneld wrote it")

// Remove removes a file that Write has written, and that nobody has changed since, and what
// PutAside has made of one. Of any other one the error is ErrForeign.
func Remove(path string) error {
	aside := removeSigned(path + formerExt)
	err := removeSigned(path)
	if errors.Is(err, fs.ErrNotExist) && aside == nil {
		return nil
	}
	return err
}

func removeSigned(path string) error {
	content, err := file.ReadOwn(path, unix.O_NOFOLLOW)
	_, ok := signed(content)
	switch {
	case errors.As(err, new(file.UntrustedError)), err == nil && !ok:
		return ErrForeign
	case err != nil:
		return err
	}
	return os.Remove(path)
}

// runtimeFolder is where container runtimes look for configurations, unless they are told otherwise.
const runtimeFolder = "/etc/cni/net.d"

// Configured reports whether there is a configuration for container runtimes on this host.
func Configured() bool {
	entries, _ := os.ReadDir(runtimeFolder)
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name()))
	})
}
