package cni

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flanneld/pkg/ip"
)

var values = Values{
	Network: ip.SubnetOf(netip.MustParsePrefix("10.5.0.0/16")), Subnet: ip.SubnetOf(netip.MustParsePrefix("10.5.34.0/24")),
	MTU: 1450, IPMasq: true, Iface: "eth0",
}

// dual are of both address families, and of an interface with a name that is hard to write.
func dual() Values {
	v := values
	v.Network.V6, v.Subnet.V6 = netip.MustParsePrefix("fd00::/48"), netip.MustParsePrefix("fd00:0:0:34::/64")
	v.IPMasq, v.Iface = false, `e"\0`
	return v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	return string(content)
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// wantWrite writes, and checks whether there was anything to do.
func wantWrite(t *testing.T, c *Conf, v Values, want bool) {
	t.Helper()
	if changed, err := c.Write(v); changed != want || err != nil {
		t.Fatalf("written: %t, %v; want %t", changed, err, want)
	}
}

// plain is what a file says, without the signature.
func plain(t *testing.T, path string) string {
	t.Helper()
	var all map[string]any
	must(t, json.Unmarshal([]byte(read(t, path)), &all))
	if text, _ := all["comment"].(string); !strings.Contains(text, "-cni-conf-template") {
		t.Errorf("who finds the file does not read where to change it, but %q", text)
	}
	delete(all, "comment")
	content, err := json.Marshal(all)
	must(t, err)
	return string(content)
}

// compact is JSON without white space, with its keys in order.
func compact(t *testing.T, text string) string {
	t.Helper()
	var all any
	must(t, json.Unmarshal([]byte(text), &all))
	content, err := json.Marshal(all)
	must(t, err)
	return string(content)
}

const portmap = `{"type": "portmap", "capabilities": {"portMappings": true}}`

func TestTemplates(t *testing.T) {
	if want := []string{"bridge", "ipvlan", "macvlan"}; !slices.Equal(Templates(), want) || !slices.Contains(want, Default) {
		t.Fatalf("there are %q, and the default is %s", Templates(), Default)
	}
	const (
		ipam     = `"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.5.34.0/24"}]], "routes": `
		bothIPAM = `"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.5.34.0/24"}], [{"subnet": "fd00:0:0:34::/64"}]], "routes": `
		all      = `[{"dst": "0.0.0.0/0"}]}}`
		bothAll  = `[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}`
		bridge   = `{"type": "bridge", "bridge": "cni0", "mtu": 1450, "isDefaultGateway": true, "forceAddress": true, "hairpinMode": true, `
	)
	for _, test := range []struct {
		template string
		values   Values
		plugin   string
	}{
		{"bridge", values, bridge + `"ipMasq": false, ` + ipam + `[{"dst": "10.5.0.0/16", "gw": "10.5.34.1"}]}}`},
		{"bridge", dual(), bridge + `"ipMasq": true, ` + bothIPAM + `[{"dst": "10.5.0.0/16", "gw": "10.5.34.1"}, {"dst": "fd00::/48", "gw": "fd00:0:0:34::1"}]}}`},
		{"macvlan", values, `{"type": "macvlan", "master": "eth0", "mode": "bridge", "mtu": 1450, ` + ipam + all},
		{"macvlan", dual(), `{"type": "macvlan", "master": "e\"\\0", "mode": "bridge", "mtu": 1450, ` + bothIPAM + bothAll},
		{"ipvlan", values, `{"type": "ipvlan", "master": "eth0", "mode": "l3s", "mtu": 1450, ` + ipam + all},
		{"ipvlan", dual(), `{"type": "ipvlan", "master": "e\"\\0", "mode": "l3s", "mtu": 1450, ` + bothIPAM + bothAll},
	} {
		path := filepath.Join(t.TempDir(), "10-flannel.conflist")
		c := New(path, test.template)
		wantWrite(t, c, test.values, true)
		want := compact(t, `{"cniVersion": "0.4.0", "name": "cbr0", "plugins": [`+test.plugin+`, `+portmap+`]}`)
		if got := plain(t, path); got != want {
			t.Errorf("%s makes\n%s\nwant\n%s", test.template, got, want)
		}
		if want := []string{test.template, "host-local", "portmap"}; !slices.Equal(c.plugins, want) {
			t.Errorf("%s needs the plugins %q, want %q", test.template, c.plugins, want)
		}
	}
}

// Whatever happens to the file, it says the same after the next Write, which does nothing if
// there is nothing to do; and it follows the values.
func TestFileIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "10-flannel.conflist")
	c := New(path, Default)
	wantWrite(t, c, values, true)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("it is %v (%v)", info, err)
	}
	content := read(t, path)
	for name, spoil := range map[string]func(){
		"nothing": func() {},
		"removed": func() { must(t, os.Remove(path)) },
		"altered": func() { write(t, path, strings.Replace(content, "1450", "9000", 1)) },
		"foreign": func() { write(t, path, `{"cniVersion": "0.4.0", "name": "other", "plugins": [{"type": "other"}]}`) },
		"linked": func() {
			must(t, os.Remove(path))
			must(t, os.Symlink(write(t, filepath.Join(t.TempDir(), "other"), content), path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			spoil()
			wantWrite(t, c, values, name != "nothing")
			if got := read(t, path); got != content {
				t.Errorf("it is now\n%s\nand was\n%s", got, content)
			}
			if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
				t.Errorf("it is %v (%v)", info, err)
			}
		})
	}
	other := values
	other.Subnet, other.MTU = ip.SubnetOf(netip.MustParsePrefix("10.5.7.0/24")), 1400
	wantWrite(t, c, other, true)
	if got := read(t, path); !strings.Contains(got, `"10.5.7.0/24"`) || !strings.Contains(got, `"mtu": 1400`) || strings.Contains(got, "10.5.34") {
		t.Errorf("it is\n%s", got)
	}
}

// Plugins keep the addresses of pods below the network's name: with another one the first
// pods after an upgrade would get addresses that are in use.
func TestNameStays(t *testing.T) {
	const foreign = `{"cniVersion": "0.3.1", "name": "mine", "plugins": [{"type": "flannel", "delegate": {"isDefaultGateway": true}}]}`
	for _, test := range []struct{ before, want string }{
		{foreign, "mine"},
		{"", usualName},
		{"nonsense", usualName},
		{strings.Replace(foreign, "mine", "not a name", 1), usualName},
	} {
		path := filepath.Join(t.TempDir(), "10-flannel.conflist")
		if test.before != "" {
			write(t, path, test.before)
		}
		c := New(path, Default)
		for range 2 { // also of the next daemon
			_, err := c.Write(values)
			must(t, err)
			l, err := parse([]byte(read(t, path)))
			if err != nil || l.Name != test.want {
				t.Errorf("after %q the name is %q (%v), want %q", test.before, l.Name, err, test.want)
			}
			c = New(path, Default)
		}
	}
}

// A template that cannot be used is named, with the line that is wrong, and the file stays as
// it was.
func TestBadTemplate(t *testing.T) {
	const good = `{
  "cniVersion": "0.4.0",
  "name": "cbr0",
  "plugins": [
    {"type": "ptp", "mtu": {{.MTU}}, "ipam": {"type": "host-local", "ranges": {{json .Ranges}}}}
  ]
}
`
	folder := t.TempDir()
	path, own := filepath.Join(folder, "10-flannel.conflist"), filepath.Join(folder, "own.tmpl")
	write(t, own, good)
	c := New(path, own)
	wantWrite(t, c, values, true)
	before := read(t, path)
	for _, test := range []struct{ old, by, want string }{
		{"{{.MTU}}", "{{.MTU}", own + `:5: bad character U+007D '}'`},
		{"{{.MTU}}", "{{if}}", own + ":5: missing value for if"},
		{"{{.MTU}}", "{{.Mtu}}", own + ":5:29: executing "},
		{"{{.MTU}}", "{{shell}}", own + `:5: function "shell" not defined`},
		{"{{.MTU}}", "", own + `: what it makes is not JSON: line 5, {"type": "ptp", "mtu": , "ipam"`},
		{`"cbr0",`, `"cbr0"`, own + `: what it makes is not JSON: line 4, "plugins": [: invalid character '"' after object key:value pair`},
		{"}\n  ]\n}\n", "}\n  ]\n", own + ": what it makes is not JSON: line "},
		{`"ptp"`, "7", own + `: what it makes is not for a runtime: line 5, {"type": 7`},
		{`"ptp"`, `"../ptp"`, own + `: what it makes has the "type" "../ptp" for plugin 1`},
		{`"ptp"`, `""`, own + `: what it makes has the "type" "" for plugin 1`},
		{`"plugins"`, `"plugin"`, own + `: what it makes has no "plugins"`},
		{`"0.4.0"`, `""`, own + `: what it makes has no "cniVersion"`},
		{`"cbr0"`, `"c b"`, own + `: what it makes has the "name" "c b"`},
		{good, "", own + ": what it makes is not JSON: line 1"},
		{good, "[]", own + ": what it makes is not for a runtime: line 1, []"},
	} {
		text := strings.Replace(good, test.old, test.by, 1)
		write(t, own, text)
		changed, err := c.Write(values)
		if changed || err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("with %q: %t, %v\nwant %s", test.by, changed, err, test.want)
		}
		if now := read(t, path); now != before {
			t.Errorf("with %q the file has become\n%s", test.by, now)
		}
	}
	must(t, os.Remove(own))
	if _, err := c.Write(values); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), own) {
		t.Errorf("without it: %v", err)
	}
	must(t, unix.Mkfifo(own, 0o644)) // nobody writes into it
	if _, err := c.Write(values); err == nil || !strings.Contains(err.Error(), own+" is not a regular file") {
		t.Errorf("with a FIFO: %v", err)
	}
	must(t, os.Remove(own))
	write(t, own, strings.Replace(good, "ptp", "other", 1))
	wantWrite(t, c, values, true)
}

// The folder is the container runtime's: if it is missing, there is none, or it looks
// elsewhere.
func TestFolderIsNotMade(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "net.d")
	c := New(filepath.Join(folder, "10-flannel.conflist"), Default)
	if changed, err := c.Write(values); changed || err == nil || !strings.Contains(err.Error(), "no folder "+folder) {
		t.Fatalf("without the folder: %t, %v", changed, err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder: %v", err)
	}
	must(t, os.Mkdir(folder, 0o755))
	wantWrite(t, c, values, true)
}

// What is removed is what was written, and nothing else.
func TestRemove(t *testing.T) {
	folder := t.TempDir()
	path, own := filepath.Join(folder, "10-flannel.conflist"), filepath.Join(folder, "own.tmpl")
	write(t, own, `{{- /* in one line */ -}} {"cniVersion": "0.4.0", "name": "x", "plugins": [{"type": "ptp"}]}`)
	if err := Remove(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	for _, template := range append(Templates(), own) {
		wantWrite(t, New(path, template), values, true)
		content := read(t, path)
		for _, altered := range []string{
			strings.Replace(content, "cniVersion\": \"0.4.0", "cniVersion\": \"1.0.0", 1),
			content + "\n",
			`{"cniVersion": "0.4.0", "name": "x", "plugins": [{"type": "ptp"}]}`,
			"",
		} {
			write(t, path, altered)
			if err := Remove(path); !errors.Is(err, ErrForeign) {
				t.Errorf("%s, altered: %v\n%s", template, err, altered)
			}
		}
		write(t, path, content)
		if err := Remove(path); err != nil {
			t.Errorf("%s: %v\n%s", template, err, content)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after it was removed: %v", err)
		}
	}
	target := filepath.Join(folder, "target")
	wantWrite(t, New(target, Default), values, true)
	must(t, os.Symlink(target, path))
	if err := Remove(path); !errors.Is(err, ErrForeign) {
		t.Errorf("a link: %v", err)
	}
}

// A file that was written in an earlier boot is put aside, and no other one: not after a mere
// restart, nor where that cannot be told.
func TestPutAside(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "10-flannel.conflist")
	usual := bootFile
	t.Cleanup(func() { bootFile = usual })
	bootFile = filepath.Join(folder, "boot_id")
	boot := func(id string) { write(t, bootFile, id) }
	check := func(want bool) {
		t.Helper()
		before, there := os.Lstat(path)
		if done, err := PutAside(path); done != want || err != nil {
			t.Errorf("put aside: %t, %v; want %t", done, err, want)
		}
		after, err := os.Lstat(path)
		if there == nil && !want && (err != nil || !os.SameFile(before, after)) || want && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the file: %v", err)
		}
	}
	boot("1a-1\n")
	check(false)
	write(t, path, `{"cniVersion": "0.3.1", "name": "mine", "plugins": [{"type": "other"}]}`)
	check(false)
	wantWrite(t, New(path, Default), values, true)
	check(false)
	content := read(t, path)
	for name, id := range map[string]string{"empty": "", "nonsense": "x\n"} {
		boot(id)
		t.Log(name)
		check(false)
	}
	boot("1a-2\n")
	for name, text := range map[string]string{
		"altered":                content + "\n",
		"of an earlier flanneld": strings.Replace(content, " of boot 1a-1", "", 1),
	} {
		t.Log(name)
		write(t, path, text)
		check(false)
	}
	other := filepath.Join(folder, "other")
	write(t, other, content)
	must(t, os.Remove(path))
	must(t, os.Symlink(other, path))
	check(false)
	must(t, os.Remove(path))

	write(t, path, content)
	check(true)
	check(false) // also by the next daemon
	wantWrite(t, New(path, Default), values, true)
	if got := plain(t, path); !strings.Contains(got, `"name":"mine"`) {
		t.Errorf("the network has another name: %s", got)
	}
	if _, err := os.Lstat(path + formerExt); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was put aside: %v", err)
	}
	check(false)
	boot("1a-3\n")
	check(true)
	must(t, Remove(path))
	if left, err := filepath.Glob(path + "*"); len(left) > 0 || err != nil {
		t.Errorf("left are %q (%v)", left, err)
	}
}

// What others have put where a file is put aside stays there, and its name means nothing.
func TestPutAsideBesideForeign(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "10-flannel.conflist")
	aside, theirs := path+formerExt, `{"cniVersion": "0.3.1", "name": "theirs", "plugins": [{"type": "other"}]}`
	usual := bootFile
	t.Cleanup(func() { bootFile = usual })
	bootFile = filepath.Join(folder, "boot_id")
	write(t, bootFile, "1a-1")
	write(t, aside, theirs)
	wantWrite(t, New(path, Default), values, true)
	if got := plain(t, path); !strings.Contains(got, `"name":"cbr0"`) {
		t.Errorf("the network has the name of another one: %s", got)
	}
	ours := read(t, path)
	write(t, bootFile, "1a-2")
	done, err := PutAside(path)
	if done || !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), aside) {
		t.Errorf("put aside: %t, %v; want an error that names %s", done, err, aside)
	}
	if read(t, aside) != theirs || read(t, path) != ours {
		t.Errorf("the files are %q and %q", read(t, aside), read(t, path))
	}
	must(t, os.Remove(aside))
	write(t, aside, ours) // left by an earlier boot
	if done, err := PutAside(path); !done || err != nil || read(t, aside) != ours {
		t.Errorf("put aside: %t, %v", done, err)
	}
}

func TestProblems(t *testing.T) {
	folder := t.TempDir()
	path, plugins := filepath.Join(folder, "10-flannel.conflist"), filepath.Join(folder, "bin")
	usual := folders
	t.Cleanup(func() { folders = usual })
	folders = []string{filepath.Join(folder, "none"), plugins}
	must(t, os.Mkdir(plugins, 0o755))
	install := func(name string, mode fs.FileMode) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(plugins, name), nil, mode))
	}
	c := New(path, Default)
	wantWrite(t, c, values, true)
	check := func(want ...string) {
		t.Helper()
		var got []string
		for _, p := range c.Problems() {
			got = append(got, p.Subject+": "+p.Problem+"; "+p.Remedy)
		}
		same := len(got) == len(want)
		for i := range got {
			same = same && strings.Contains(got[i], want[i])
		}
		if !same {
			t.Errorf("the problems are %q, want %q", got, want)
		}
	}
	check("install bridge, host-local, portmap, loopback")
	install("bridge", 0o755)
	install("portmap", 0o644) // nobody can run it
	must(t, os.Mkdir(filepath.Join(plugins, "host-local"), 0o755))
	check("install host-local, portmap, loopback")
	must(t, os.Remove(filepath.Join(plugins, "portmap")))
	must(t, os.Remove(filepath.Join(plugins, "host-local")))
	install("portmap", 0o755)
	must(t, os.Symlink("/nix/store/plugins/host-local", filepath.Join(plugins, "host-local")))
	check()
	for _, later := range []string{"10-flannel.conflist.bak", "20-other.conf", "00-other.txt", ".9.conflist.tmp", "README"} {
		write(t, filepath.Join(folder, later), "{}")
	}
	must(t, os.Mkdir(filepath.Join(folder, "05-folder.conf"), 0o755))
	check()
	for _, first := range []string{"09-z.json", "05 other.conf", "00-a.conflist"} {
		write(t, filepath.Join(folder, first), "{}")
		check(filepath.Join(folder, first) + ": the container runtime takes the first file by name, and so this one rather than 10-flannel.conflist; mv ")
	}
	must(t, os.Rename(filepath.Join(folder, "00-a.conflist"), filepath.Join(folder, "00-a.conflist.off")))
	check("mv '" + filepath.Join(folder, "05 other.conf") + "' '" + filepath.Join(folder, "05 other.conf.off") + "'")
}
