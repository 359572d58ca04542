package network

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"flanneld/pkg/ip"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var env4 = Env{
	Network: ip.SubnetOf(prefix("10.5.0.0/16")),
	Subnet:  ip.SubnetOf(prefix("10.5.89.0/24")),
	MTU:     1450,
}

const text4 = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.89.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"

func TestEnvString(t *testing.T) {
	both := ip.Subnet{V4: prefix("10.5.89.0/24"), V6: prefix("2001:cafe:42:b::/64")}
	bothNet := ip.Subnet{V4: prefix("10.5.0.0/16"), V6: prefix("2001:cafe:42::/56")}
	for _, test := range []struct {
		name string
		env  Env
		want string
	}{
		{"IPv4", env4, text4},
		{"masquerading", Env{Network: env4.Network, Subnet: env4.Subnet, MTU: 1472, IPMasq: true}, "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.89.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n"},
		{"both families", Env{Network: bothNet, Subnet: both, MTU: 1430}, "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.89.1/24\n" +
			"FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42:b::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n"},
		{"IPv6", Env{Network: ip.Subnet{V6: bothNet.V6}, Subnet: ip.Subnet{V6: both.V6}, MTU: 1430}, "FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42:b::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.env.String(); got != test.want {
				t.Errorf("got:\n%swant:\n%s", got, test.want)
			}
			path := filepath.Join(t.TempDir(), "subnet.env")
			write(t, test.env, path)
			if got, err := ReadEnv(path); err != nil || got.Subnet != test.env.Subnet || got.Network != test.env.Network {
				t.Errorf("read back %v, %v", got, err)
			}
		})
	}
}

// A host that gets another family writes it where it belongs, as flannel has it, also where others
// have lines in the file.
func TestEnvGetsAFamily(t *testing.T) {
	four, six := ip.Subnet{V4: prefix("10.5.89.0/24")}, ip.Subnet{V6: prefix("fd00:5:0:1::/64")}
	net4, net6 := ip.Subnet{V4: prefix("10.5.0.0/16")}, ip.Subnet{V6: prefix("fd00:5::/48")}
	both := Env{Network: ip.Subnet{V4: net4.V4, V6: net6.V6}, Subnet: ip.Subnet{V4: four.V4, V6: six.V6}, MTU: 1430}
	const docker = "DOCKER_OPTS=\"--bip=10.5.89.1/24\"\n"
	lines := strings.SplitAfter(both.String(), "\n")
	for name, before := range map[string]Env{"IPv6": {Network: net4, Subnet: four, MTU: 1450}, "IPv4": {Network: net6, Subnet: six, MTU: 1430}} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "subnet.env")
			write(t, before, path)
			write(t, both, path)
			only(t, path, both.String())
			plant(t, path, docker+before.String(), 0o644)
			write(t, both, path)
			want := docker + both.String()
			if name == "IPv4" { // there is nothing of ours that it comes after
				want = docker + lines[2] + lines[3] + lines[4] + lines[5] + lines[0] + lines[1]
			}
			only(t, path, want)
		})
	}
}

// A host that has no subnet yet in a family of the network says nothing of that.
func TestEnvOfOneFamily(t *testing.T) {
	network := ip.Subnet{V4: env4.Network.V4, V6: prefix("2001:cafe:42::/56")}
	if got := (Env{Network: network, Subnet: env4.Subnet, MTU: 1450}).String(); got != text4 {
		t.Errorf("got:\n%s", got)
	}
}

func write(t *testing.T, e Env, path string) {
	t.Helper()
	if _, err := e.Write(path); err != nil {
		t.Fatal(err)
	}
}

// only checks that path holds text, for all to read, and that nothing else is
// in its folder.
func only(t *testing.T, path, text string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil || string(content) != text {
		t.Errorf("%s holds %q, %v", path, content, err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("%s has mode %s, %v", path, info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}

func TestEnvWrite(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, path string)
	}{
		{"new folders", func(*testing.T, string) {}},
		{"over an old file", func(t *testing.T, path string) {
			plant(t, path, "FLANNEL_IPV6_NETWORK=something longer than what is to be written\n"+text4, 0o400)
		}},
		{"over a leftover", func(t *testing.T, path string) {
			plant(t, filepath.Join(filepath.Dir(path), ".subnet.env.tmp"), strings.Repeat("x", 1000), 0o600)
		}},
		{"over a link", func(t *testing.T, path string) {
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			plant(t, elsewhere, "kept", 0o600)
			t.Cleanup(func() {
				if b, err := os.ReadFile(elsewhere); err != nil || string(b) != "kept" {
					t.Errorf("the link's target holds %q, %v", b, err)
				}
			})
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(elsewhere, path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "run", "flannel", "subnet.env")
			test.prepare(t, path)
			write(t, env4, path)
			only(t, path, text4)
			write(t, env4, path)
			only(t, path, text4)
		})
	}
}

func plant(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func TestEnvWriteFails(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, path string)
	}{
		{"a file in the folder's place", func(t *testing.T, path string) { plant(t, filepath.Dir(path), "", 0o644) }},
		{"a folder in the file's place", func(t *testing.T, path string) { plant(t, filepath.Join(path, "file"), "", 0o644) }},
		{"a link to nowhere for a folder", func(t *testing.T, path string) {
			if err := os.Symlink("/proc/nowhere", filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "flannel", "subnet.env")
			test.prepare(t, path)
			_, err := env4.Write(path)
			if err == nil || !strings.Contains(err.Error(), "writing "+path) {
				t.Errorf("error %v does not tell what was written", err)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// What others wrote into the file stays, where it is and as it is, and nothing is written
// that is right already.
func TestEnvWriteAmongOtherLines(t *testing.T) {
	const docker = "DOCKER_NETWORK_OPTIONS=\" --bip=10.5.89.1/24 --ip-masq=true --mtu=1450\"\n"
	lines := strings.SplitAfter(text4, "\n")
	for _, test := range []struct{ name, before, want string }{
		{"ours alone", text4, text4},
		{"theirs alone", docker, docker + text4},
		{"theirs first", docker + text4, docker + text4},
		{"theirs last", text4 + docker, text4 + docker},
		{"theirs between", lines[0] + docker + lines[1] + "\n# a note\n" + lines[2] + lines[3], lines[0] + docker + lines[1] + "\n# a note\n" + lines[2] + lines[3]},
		{"another order", lines[3] + lines[2] + docker + lines[1] + lines[0], lines[3] + lines[2] + docker + lines[1] + lines[0]},
		{"a value of ours differs", "A=1\nFLANNEL_MTU=1400\nB=2\n" + lines[0] + lines[1] + lines[3], "A=1\nFLANNEL_MTU=1450\nB=2\n" + lines[0] + lines[1] + lines[3]},
		{"no newline at the end", "A=1", "A=1\n" + text4},
		{"no newline at our end", strings.TrimSuffix(text4, "\n"), strings.TrimSuffix(text4, "\n")},
		{"quoted", strings.Replace(text4, "1450", `"1450"`, 1), strings.Replace(text4, "1450", `"1450"`, 1)},
		{"quoted and wrong", strings.Replace(text4, "1450", `"1400"`, 1), text4},
		{"twice, the last one right", "FLANNEL_MTU=1400\n" + text4, "FLANNEL_MTU=1400\n" + text4},
		{"twice, the last one wrong", text4 + "A=1\nFLANNEL_MTU=1400\n", text4 + "A=1\n"},
		{"a family that is off", text4 + "FLANNEL_IPV6_SUBNET=fc00::1/64\nA=1\n", text4 + "A=1\n"},
		{"exported", "export " + text4, text4},
		{"a comment that systemd takes for a part of the value", strings.Replace(text4, "1450", "1450 # mine", 1), text4},
		{"lines of MS-DOS", strings.ReplaceAll("A=1\n"+text4, "\n", "\r\n"), "A=1\r\n" + text4},
		{"in another's quotes", "NOTE=\"first\nFLANNEL_MTU=9000\n\"\n" + text4, "NOTE=\"first\nFLANNEL_MTU=9000\n\"\n" + text4},
		{"a quote that never ends", "NOTE=\"first\nFLANNEL_MTU=9000\n", "NOTE=\"first\nFLANNEL_MTU=1450\n" + lines[0] + lines[1] + lines[3]},
		{"a line that goes on", "NOTE=a\\\nFLANNEL_MTU=9000\n" + text4, "NOTE=a\\\nFLANNEL_MTU=9000\n" + text4},
		{"an apostrophe in a comment", "# don't\nFLANNEL_MTU=9000\n", "# don't\nFLANNEL_MTU=1450\n" + lines[0] + lines[1] + lines[3]},
		{"a line that goes on, at the end", "NOTE=a\\\n", "NOTE=a\\\n\n" + text4},
		{"commented out", "#FLANNEL_MTU=9000\n" + text4, "#FLANNEL_MTU=9000\n" + text4},
		{"names like ours", "FLANNEL_MTU2=1\nXFLANNEL_MTU=2\n" + text4, "FLANNEL_MTU2=1\nXFLANNEL_MTU=2\n" + text4},
		{"garbage", "\x00\xff", "\x00\xff\n" + text4},
		{"empty", "", text4},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "subnet.env")
			plant(t, path, test.before, 0o644)
			for _, want := range []bool{test.want != test.before, false} {
				if changed, err := env4.Write(path); err != nil || changed != want {
					t.Errorf("written: %t, %v, want %t", changed, err, want)
				}
				only(t, path, test.want)
			}
		})
	}
}

func TestRemoveEnv(t *testing.T) {
	for _, test := range []struct{ before, want string }{
		{text4, ""},
		{"\n" + text4 + "\n", ""},
		{"A=1\n" + text4 + "# mine\n", "A=1\n# mine\n"},
		{"A=1\n", "A=1\n"},
	} {
		path := filepath.Join(t.TempDir(), "subnet.env")
		plant(t, path, test.before, 0o644)
		gone, err := RemoveEnv(path)
		if err != nil || gone != (test.want == "") {
			t.Errorf("of %q: gone %t, %v", test.before, gone, err)
		}
		if !gone {
			only(t, path, test.want)
		} else if _, err := os.Lstat(path); err == nil {
			t.Errorf("of %q the file is left", test.before)
		}
	}
	if gone, err := RemoveEnv(filepath.Join(t.TempDir(), "nothing")); gone || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %t, %v", gone, err)
	}
}

// A file system that cannot be written, not even by root.
func TestEnvWriteReadOnly(t *testing.T) {
	path := "/proc/self/flannel/subnet.env"
	if _, err := env4.Write(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v does not tell the path", err)
	}
}

// A reader that looks at any moment sees a whole file.
func TestEnvWriteAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subnet.env")
	long := Env{Network: env4.Network, Subnet: env4.Subnet, MTU: 9001, IPMasq: true}
	write(t, env4, path)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 100 {
			e := env4
			if i%2 == 0 {
				e = long
			}
			if _, err := e.Write(path); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		content, err := os.ReadFile(path)
		if err != nil || string(content) != text4 && string(content) != long.String() {
			t.Fatalf("read %q, %v", content, err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestReadEnv(t *testing.T) {
	for _, test := range []struct {
		name, content string
		want          string // "" is an error
	}{
		{"flannel 0.4", "FLANNEL_SUBNET=10.5.89.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n", "10.5.89.0/24"},
		{"later", text4, "10.5.89.0/24"},
		{"both families", "FLANNEL_SUBNET=10.5.89.1/24\nFLANNEL_IPV6_SUBNET=fc00::1/64\n", "10.5.89.0/24,fc00::/64"},
		{"empty", "", "none"},
		{"other lines", "# a comment\n\nHELLO=1\nFLANNEL_SUBNETS=x\n" + text4, "10.5.89.0/24"},
		{"no newline at the end", "FLANNEL_SUBNET=10.5.89.1/24", "10.5.89.0/24"},
		{"garbage", "\x00\xff\x00\n", "none"},
		{"lines of MS-DOS", strings.ReplaceAll(text4, "\n", "\r\n"), "10.5.89.0/24"},
		{"quoted, exported, with blanks", " export  FLANNEL_SUBNET='10.5.89.1'\"/24\" \n", "10.5.89.0/24"},
		{"the last one counts", "FLANNEL_SUBNET=10.5.1.1/24\n" + text4, "10.5.89.0/24"},
		{"in another's quotes", text4 + "NOTE='\nFLANNEL_SUBNET=10.5.1.1/24\n'\n", "10.5.89.0/24"},
		{"commented out", text4 + "# it's\n#FLANNEL_SUBNET=10.5.1.1/24\n", "10.5.89.0/24"},
		{"bad subnet", "FLANNEL_SUBNET=10.5.89.1\n", ""},
		{"no subnet", "FLANNEL_SUBNET=\n", ""},
		{"IPv6 as IPv4", "FLANNEL_SUBNET=fc00::1/64\n", ""},
		{"IPv4 as IPv6", "FLANNEL_IPV6_SUBNET=10.5.89.1/24\n", ""},
		{"an endless line", strings.Repeat("x", 1<<20), "none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "subnet.env")
			plant(t, path, test.content, 0o644)
			env, err := ReadEnv(path)
			got := env.Subnet
			if test.want == "" {
				if err == nil || !strings.Contains(err.Error(), path) || got.IsValid() {
					t.Errorf("got %s, error %v, want none and one that tells the path", got, err)
				}
				return
			}
			if err != nil || got.String() != test.want {
				t.Errorf("got %s, %v, want %s", got, err, test.want)
			}
		})
	}
	if got, err := ReadEnv(filepath.Join(t.TempDir(), "nothing")); err != nil || got != (Env{}) {
		t.Errorf("without a file: %v, %v", got, err)
	}
	if _, err := ReadEnv(t.TempDir()); err == nil {
		t.Error("a folder was read")
	}
}
