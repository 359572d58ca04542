package dist_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// shells are those that the script has to work with.
var shells = []string{"dash", "bash", "busybox sh"}

// everyShell runs a test with each.
func everyShell(t *testing.T, f func(t *testing.T, shell string)) {
	t.Helper()
	for _, shell := range shells {
		t.Run(shell, func(t *testing.T) { f(t, shell) })
	}
}

// mkDockerOpts runs the script and returns what it wrote.
func mkDockerOpts(t *testing.T, shell string, env []string, args ...string) string {
	t.Helper()
	output := filepath.Join(t.TempDir(), "docker.env")
	if out, err := runScript(t, shell, env, append(args, "-d", output)...); err != nil || out != "" {
		t.Fatalf("mk-docker-opts.sh %q: %v: %s", args, err, out)
	}
	return read(t, output)
}

// runScript runs the script and returns what it said.
func runScript(t *testing.T, shell string, env []string, args ...string) (string, error) {
	t.Helper()
	argv := strings.Fields(shell)
	needTool(t, argv[0])
	path, err := filepath.Abs("mk-docker-opts.sh")
	check(t, err)
	cmd := exec.Command(argv[0], append(append(argv[1:], path), args...)...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// needTool is for what is tested by running a program.
func needTool(t *testing.T, name string) {
	t.Helper()
	check(t, lookAtSources())
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is missing: run `make tools`", name)
	}
}

// subnetFile writes one that says whether flanneld masquerades.
func subnetFile(t *testing.T, ipmasq string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "subnet.env")
	text := "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=" + ipmasq + "\n"
	check(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// tricky is a value that means something else to a shell if it is not quoted right.
const tricky = `--label "a  b" $HOME \$ ` + "`id` '*' \\"

func TestMkDockerOpts(t *testing.T) {
	everyShell(t, func(t *testing.T, shell string) {
		masq, noMasq := subnetFile(t, "true"), subnetFile(t, "false")
		const ipv6 = "FLANNEL_IPV6_NETWORK=fc00:5::/48\nFLANNEL_IPV6_SUBNET=fc00:5:0:22::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
		v6, dual := filepath.Join(t.TempDir(), "v6.env"), filepath.Join(t.TempDir(), "dual.env")
		check(t, os.WriteFile(v6, []byte(ipv6), 0o644))
		check(t, os.WriteFile(dual, []byte("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\n"+ipv6), 0o644))
		for name, c := range map[string]struct {
			env, args []string
			want      string
		}{
			"both kinds": {args: []string{"-f", noMasq}, want: `DOCKER_OPT_BIP="--bip=10.5.34.1/24"
DOCKER_OPT_IPMASQ="--ip-masq=true"
DOCKER_OPT_MTU="--mtu=1450"
DOCKER_OPTS=" --bip=10.5.34.1/24 --ip-masq=true --mtu=1450"
`},
			"both kinds, asked for": {args: []string{"-c", "-i", "-m", "-f", noMasq}, want: `DOCKER_OPT_BIP="--bip=10.5.34.1/24"
DOCKER_OPT_MTU="--mtu=1450"
DOCKER_OPTS=" --bip=10.5.34.1/24 --mtu=1450"
`},
			"single, flanneld masquerades": {args: []string{"-i", "-f", masq}, want: `DOCKER_OPT_BIP="--bip=10.5.34.1/24"
DOCKER_OPT_IPMASQ="--ip-masq=false"
DOCKER_OPT_MTU="--mtu=1450"
`},
			"combined under another name, after what was there": {
				args: []string{"-c", "-k", "OPTS", "-f", masq},
				env:  []string{"OPTS=-D --iptables=false", "DOCKER_OPTS=other"},
				want: "OPTS=\"-D --iptables=false  --bip=10.5.34.1/24 --ip-masq=false --mtu=1450\"\n",
			},
			"both families": {args: []string{"-f", dual}, want: `DOCKER_OPT_BIP="--bip=10.5.34.1/24"
DOCKER_OPT_FIXED_CIDR_V6="--fixed-cidr-v6=fc00:5:0:22::1/64"
DOCKER_OPT_IPMASQ="--ip-masq=false"
DOCKER_OPT_IPV6="--ipv6"
DOCKER_OPT_MTU="--mtu=1430"
DOCKER_OPTS=" --bip=10.5.34.1/24 --fixed-cidr-v6=fc00:5:0:22::1/64 --ip-masq=false --ipv6 --mtu=1430"
`},
			"IPv6 alone":     {args: []string{"-c", "-m", "-f", v6}, want: "DOCKER_OPTS=\" --fixed-cidr-v6=fc00:5:0:22::1/64 --ipv6 --mtu=1430\"\n"},
			"no subnet file": {args: []string{"-f", "missing"}, want: "DOCKER_OPTS=\"\"\n"},
			"no subnet file, but an option": {
				args: []string{"-f", "missing"},
				env:  []string{"DOCKER_OPT_MTU=--mtu=1400", "DOCKER_OPTS=-D"},
				want: "DOCKER_OPT_MTU=\"--mtu=1400\"\nDOCKER_OPTS=\"-D  --mtu=1400\"\n",
			},
			"more options, in order, with spaces": {
				args: []string{"-f", noMasq},
				env:  []string{"DOCKER_OPT_ZZ=-z 1 2", "DOCKER_OPT_A=-a", "OTHER=\nDOCKER_OPT_NONE=1\nDOCKER_OPT_A=2", "XDOCKER_OPT_=x"},
				want: `DOCKER_OPT_A="-a"
DOCKER_OPT_BIP="--bip=10.5.34.1/24"
DOCKER_OPT_IPMASQ="--ip-masq=true"
DOCKER_OPT_MTU="--mtu=1450"
DOCKER_OPT_ZZ="-z 1 2"
DOCKER_OPTS=" -a --bip=10.5.34.1/24 --ip-masq=true --mtu=1450 -z 1 2"
`,
			},
			"what is special to a shell": {
				args: []string{"-i", "-f", "missing"},
				env:  []string{"DOCKER_OPT_X=" + tricky},
				want: `DOCKER_OPT_X="--label \"a  b\" \$HOME \\\$ ` + "\\`id\\` '*' \\\\\"\n",
			},
		} {
			t.Run(name, func(t *testing.T) {
				if got := mkDockerOpts(t, shell, c.env, c.args...); got != c.want {
					t.Errorf("it wrote\n%swant\n%s", got, c.want)
				}
			})
		}
	})
}

// A shell that reads the output gets the values as they were.
func TestMkDockerOptsReadBack(t *testing.T) {
	everyShell(t, func(t *testing.T, shell string) {
		text := mkDockerOpts(t, shell, []string{"DOCKER_OPT_X=" + tricky}, "-i", "-f", "missing")
		out, err := exec.Command("sh", "-c", text+`printf %s "$DOCKER_OPT_X"`).Output()
		check(t, err)
		if string(out) != tricky {
			t.Errorf("it is read as %q, want %q", out, tricky)
		}
	})
}

func TestMkDockerOptsErrors(t *testing.T) {
	everyShell(t, func(t *testing.T, shell string) {
		output := filepath.Join(t.TempDir(), "docker.env")
		check(t, os.WriteFile(output, []byte("old"), 0o644))
		broken := filepath.Join(t.TempDir(), "subnet.env")
		check(t, os.WriteFile(broken, []byte("FLANNEL_SUBNET=10.5.34.1/24\n/no/such/program\n"), 0o644))
		for _, c := range []struct {
			args []string
			want string // in what it says
		}{
			{[]string{"-h"}, "Usage: "},
			{[]string{"-x"}, "Usage: "},
			{[]string{"-f"}, "Usage: "},
			{[]string{"-d", output, "more"}, "unexpected argument 'more'"},
			{[]string{"-d", output, "-k", "A B"}, "-k 'A B' cannot be the name of a variable"},
			{[]string{"-d", output, "-k", "1A"}, "-k '1A' cannot be the name of a variable"},
			{[]string{"-d", output, "-f", subnetFile(t, "maybe")}, "FLANNEL_IPMASQ is 'maybe'"},
			{[]string{"-d", output, "-f", "/"}, "-f '/' is a folder"},
			{[]string{"-d", output, "-f", broken}, "reading " + broken + " failed"},
			{[]string{"-d", "/no/such/file"}, "writing /no/such/file failed"},
		} {
			out, err := runScript(t, shell, nil, c.args...)
			if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() == 0 || !strings.Contains(out, c.want) {
				t.Errorf("with %q it ended with %v and said %q, want %q", c.args, err, out, c.want)
			}
		}
		if now := read(t, output); now != "old" {
			t.Errorf("after errors the output is %q", now)
		}
		files, err := os.ReadDir(filepath.Dir(output))
		check(t, err)
		if len(files) != 1 {
			t.Errorf("files are left: %v", files)
		}
	})
}

// Files are found where they are named, and what is no plain file stays what it is.
func TestMkDockerOptsFiles(t *testing.T) {
	everyShell(t, func(t *testing.T, shell string) {
		dir := t.TempDir()
		check(t, os.Symlink("file", dir+"/link"))
		script, err := filepath.Abs("mk-docker-opts.sh")
		check(t, err)
		check(t, os.Rename(subnetFile(t, "true"), dir+"/sub net.env"))
		argv := append(strings.Fields(shell), script, "-c", "-f", "sub net.env", "-d", "link")
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		info, err := os.Lstat(dir + "/link")
		check(t, err)
		if info.Mode().Type() != os.ModeSymlink {
			t.Errorf("the link is now %v", info.Mode())
		}
		if got := read(t, dir+"/file"); got != combined {
			t.Errorf("it wrote %q, want %q", got, combined)
		}
	})
}

// The options may go into the subnet file itself, as many guides have it, again and again:
// flanneld's lines and those of others stay, and nothing piles up.
func TestMkDockerOptsInPlace(t *testing.T) {
	everyShell(t, func(t *testing.T, shell string) {
		old := syscall.Umask(0o027)
		defer syscall.Umask(old)
		for name, c := range map[string]struct {
			args []string
			want string
		}{
			"both kinds": {nil, "DOCKER_OPT_BIP=\"--bip=10.5.34.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=false\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\nDOCKER_OPT_X=\"-x\"\n" +
				"DOCKER_OPTS=\" --bip=10.5.34.1/24 --ip-masq=false --mtu=1450 -x\"\n"},
			"together": {[]string{"-c", "-k", "DOCKER_NETWORK_OPTIONS"}, "DOCKER_OPT_X=-x\nDOCKER_NETWORK_OPTIONS=\" --bip=10.5.34.1/24 --ip-masq=false --mtu=1450 -x\"\n"},
		} {
			file := subnetFile(t, "true")
			ours := read(t, file)
			check(t, os.WriteFile(file, []byte(ours+"# mine\nA='1 2'\nDOCKER_OPT_X=-x\n"), 0o644))
			for range 3 {
				if out, err := runScript(t, shell, nil, append(c.args, "-f", file, "-d", file)...); err != nil || out != "" {
					t.Fatalf("%s: %v: %s", name, err, out)
				}
				if got, want := read(t, file), ours+"# mine\nA='1 2'\n"+c.want; got != want {
					t.Errorf("%s: it wrote\n%swant\n%s", name, got, want)
				}
			}
			info, err := os.Stat(file)
			check(t, err)
			if info.Mode() != 0o640 {
				t.Errorf("%s: the mode is %s", name, info.Mode())
			}
		}
	})
}

// Without options the files are those of flannel's script; and what is no plain file is
// written to, not replaced.
func TestMkDockerOptsPlaces(t *testing.T) {
	everyShell(t, func(t *testing.T, shell string) {
		path, err := filepath.Abs("mk-docker-opts.sh")
		check(t, err)
		const script = `mount -t tmpfs none /run && mkdir /run/flannel && cp "$1" /run/flannel/subnet.env && cd /run && $2 "$3" && cat docker_opts.env &&
mkfifo pipe && { timeout 20 cat pipe & } && $2 "$3" -c -d pipe && wait && [ -p pipe ]`
		out, err := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", subnetFile(t, "true"), shell, path).CombinedOutput()
		const want = `DOCKER_OPT_BIP="--bip=10.5.34.1/24"
DOCKER_OPT_IPMASQ="--ip-masq=false"
DOCKER_OPT_MTU="--mtu=1450"
` + combined + combined
		if err != nil || string(out) != want {
			t.Errorf("%v: it wrote\n%swant\n%s", err, out, want)
		}
	})
}

// combined is what all options together are if flanneld masquerades.
const combined = "DOCKER_OPTS=\" --bip=10.5.34.1/24 --ip-masq=false --mtu=1450\"\n"

func TestShellcheck(t *testing.T) {
	needTool(t, "shellcheck")
	scripts, err := filepath.Glob("package/*.sh")
	check(t, err)
	if len(scripts) != 3 {
		t.Errorf("the packages have the scripts %q", scripts)
	}
	for _, script := range append(scripts, "mk-docker-opts.sh") {
		if out, err := exec.Command("shellcheck", script).CombinedOutput(); err != nil {
			t.Errorf("%v:\n%s", err, out)
		}
	}
}
