package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/network"
	"flanneld/pkg/cni"
	"flanneld/pkg/dataplane/netfilter"
	"flanneld/pkg/file"
	"flanneld/pkg/ip"
	"flanneld/pkg/printable"
	"flanneld/subnet"
	"flanneld/subnet/etcd"
	"flanneld/subnet/kube"
)

// version is set when the program is linked.
var version = "dev"

// options is the command line and the environment, validated.
type options struct {
	etcd       etcd.Options
	etcdAPI    api
	kube       *kubernetes // nil where subnets come from etcd
	iface      network.Selection
	subnetFile string
	stateDir   string
	// cniFile is where the configuration of CNI is to be; empty for nowhere.
	cniFile, cniTemplate string
	health               netip.AddrPort // of the health checks; not valid if there are to be none
	httpAddr             string         // where all that is known of the daemon can be asked for; empty for nowhere
	probe                int            // how many requests a second may ask whether packets get to peers; 0 for none
	renewMargin          time.Duration
	// ipMasq, forwardRules and fullyRandom are about the rules for packets, and
	// masqMode is about the way in which they are written.
	ipMasq, forwardRules, fullyRandom bool
	masqMode                          masqMode
	// cleanup, doctor, migrate, release, status and checkConfig, a file, are what to do instead of
	// the daemon's work.
	cleanup, doctor, migrate, release, status bool

	checkConfig string
	json        bool // is printed, and not what people read
	dryRun      bool
	// unknown are variables of the environment that look as if they were meant
	// for us, and are not.
	unknown []string
	logJSON bool // each line of the log is a JSON object
	// logFiles are the options, with their values, that ask for logs in files.
	logFiles []string
	// askedCounters has the packets that were counted logged.
	askedCounters <-chan os.Signal
	// rules are those for packets, on this host; nil to leave them alone.
	rules *netfilter.Dataplane
	// recall reads what was saved.
	recall *file.Patient[subnet.Saved]
	// boottime takes the place of the kernel's clock in tests.
	boottime func() time.Duration
}

// kubernetes is how subnets come from Kubernetes.
type kubernetes struct {
	kube.Options
	// namespace and pod are those of the pod that this is, by which the Node is found where
	// its name was not given.
	namespace, pod string
	// setAvailable has the Node say that its network works.
	setAvailable bool
}

// errUsage is returned after the usage error was printed.
var errUsage = errors.New("usage")

// defaultEndpoints are where etcd is looked for if no option says where.
var defaultEndpoints = []string{"http://127.0.0.1:4001", "http://127.0.0.1:2379"}

const envPrefix = "FLANNELD_"

// parse reads the options from args and, for flags that are not among them,
// from the environment. It returns nil options where a flag asked for a text
// that was printed instead.
func parse(args, environ []string, stderr io.Writer) (*options, error) {
	var o options
	fs := flag.NewFlagSet(filepath.Base(args[0]), flag.ContinueOnError)
	o.etcd.Endpoints = slices.Clone(defaultEndpoints)
	fs.Var((*endpoints)(&o.etcd.Endpoints), "etcd-endpoints", "comma-separated `URLs` or addresses of the etcd servers")
	o.etcdAPI = apiAuto
	fs.Var(&o.etcdAPI, "etcd-api", "`version` of etcd's API, auto, 2 or 3; auto is the one where the network's configuration is")
	fs.StringVar(&o.etcd.Prefix, "etcd-prefix", "/coreos.com/network", "etcd `key` below which configuration and leases are")
	fs.StringVar(&o.etcd.KeyFile, "etcd-keyfile", "", "`file` with the private key of the client certificate for etcd")
	fs.StringVar(&o.etcd.CertFile, "etcd-certfile", "", "`file` with the client certificate for etcd")
	fs.StringVar(&o.etcd.CAFile, "etcd-cafile", "", "`file` with the certificate authority that etcd's own certificates are checked by")
	fs.StringVar(&o.etcd.Username, "etcd-username", "", "`name` of the etcd user")
	fs.Var((*secret)(&o.etcd.Password), "etcd-password", "`password` of the etcd user")
	var k kubernetes
	fromKubernetes := fs.Bool("kube-subnet-mgr", false, "take subnets from Kubernetes in the place of etcd: the podCIDRs of its Nodes")
	fs.StringVar(&k.APIURL, "kube-api-url", "", "`URL` of the Kubernetes API server (default: that of -kubeconfig-file, or as a pod knows it)")
	fs.StringVar(&k.Kubeconfig, "kubeconfig-file", "", "`file` that says where the Kubernetes API is, and with which credentials (default: as a pod knows it)")
	fs.StringVar(&k.AnnotationPrefix, "kube-annotation-prefix", "flannel.alpha.coreos.com", "`prefix` of the annotations of Nodes that are this network's")
	fs.StringVar(&k.NetConfigPath, "net-config-path", "/etc/kube-flannel/net-conf.json", "`file` with the network's configuration, with -kube-subnet-mgr")
	fs.BoolVar(&k.setAvailable, "set-node-network-unavailable", true, "have the Node's condition NetworkUnavailable be False once its network works, with -kube-subnet-mgr")
	fs.Var((*list)(&o.iface.Ifaces), "iface", "`name` or address of the interface for traffic between hosts; may be repeated, the first that exists is used (default: that of the default route)")
	fs.Var((*list)(&o.iface.IPv6Ifaces), "iface-ipv6", "`name` or address of the interface for IPv6 traffic between hosts, if it is another one than that of IPv4; may be repeated; looked at before -iface")
	fs.Var((*regexes)(&o.iface.Regexes), "iface-regex", "regular `expression` that the interface's address or name matches; may be repeated; looked at after -iface")
	fs.Var((*addresses)(&o.iface.CanReach), "iface-can-reach", "`address` to which the interface is the way; may be given for each of IPv4 and IPv6; looked at after -iface-regex")
	fs.Var((*address)(&o.iface.PublicIP.V4), "public-ip", "`address` that other hosts reach this one by, if it is not the interface's")
	fs.Var((*address6)(&o.iface.PublicIP.V6), "public-ipv6", "IPv6 `address` that other hosts reach this one by, if it is not the interface's")
	fs.StringVar(&o.subnetFile, "subnet-file", "/run/flannel/subnet.env", "`file` that tells this host's subnet")
	fs.StringVar(&o.stateDir, "state-dir", "/var/lib/flannel", "`folder` for what a start without etcd, or without the Kubernetes API, needs; empty to keep nothing")
	fs.StringVar(&o.cniFile, "cni-conf-file", "", "`file` that has container runtimes put pods into this host's subnet, such as /etc/cni/net.d/10-flannel.conflist (default: none is written)")
	fs.StringVar(&o.cniTemplate, "cni-conf-template", cni.Default, "`template` of that file: "+strings.Join(cni.Templates(), ", ")+", or the path of one of your own")
	fs.BoolVar(&o.ipMasq, "ip-masq", false, "let what pods send to the outside come from this host's address")
	notRandom := fs.Bool("ip-masq-fully-random-disable", false, "with -ip-masq, let the kernel keep source ports where it can")
	o.masqMode = masqMode(netfilter.ModeAuto)
	fs.Var(&o.masqMode, "masq-mode", "`way` to write rules for packets, auto, iptables or nftables; auto does as the network's configuration says, or as others on this host")
	fs.BoolVar(&o.forwardRules, "iptables-forward-rules", true, "let packets from and to pods be forwarded, also by nftables")
	fs.Int("iptables-resync", 5, "`seconds`; without effect, for rules are put right when they change")
	healthIP, healthPort := listenIP(netip.IPv4Unspecified()), port(0)
	fs.Var(&healthIP, "healthz-ip", "`address` at which health checks are answered")
	fs.Var(&healthPort, "healthz-port", "`port` at which health checks are answered, /healthz and /readyz; 0 for none")
	fs.Var((*listenAddr)(&o.httpAddr), "http-addr", "`address` and port, such as 127.0.0.1:8286, at which the status of this daemon and its metrics can be had (default: nowhere)")
	o.probe = probeUsually
	fs.Var((*rate)(&o.probe), "probe", "`number` of packets a second, on the average, that ask other hosts whether packets get there; 0 for none")
	margin := margin(60)
	fs.Var(&margin, "subnet-lease-renew-margin", "`minutes` before its end at which the lease is renewed, 1 to 1439")
	fs.BoolVar(&o.cleanup, "cleanup", false, "remove from this host what a daemon with the same -subnet-file left there, and exit")
	fs.BoolVar(&o.release, "release", false, "give back this host's lease, and exit")
	fs.BoolVar(&o.migrate, "etcd-migrate", false, "copy configuration and leases from version 2 of etcd's API to version 3, and exit")
	fs.BoolVar(&o.dryRun, "dry-run", false, "with -etcd-migrate, write nothing and print what would be copied")
	fs.Var((*format)(&o.logJSON), "log-format", "`format` of the log, text or json")
	fs.BoolVar(&o.status, "status", false, "print how the daemon with the same -subnet-file is, and exit: 0 if it is healthy, 1 if not, 2 if it does not run")
	fs.StringVar(&o.checkConfig, "check-config", "", "print what the network configuration in a `file` means, or why it cannot be used, and exit; - is standard input")
	fs.Var((*format)(&o.json), "o", "`format` of what -check-config, -doctor and -status print, text or json")
	fs.BoolVar(&o.doctor, "doctor", false, "look for what is wrong with this host and its network, with the daemon's other options, print it and what to do, and exit: 0 if there is nothing")
	showVersion := fs.Bool("version", false, "print the version and exit")
	fs.Bool("help", false, "print this and exit")
	var help strings.Builder // of these, and not of what is taken only for flannel's sake
	addLogging(fs, &o.logFiles, func() {
		fs.SetOutput(&help)
		fs.PrintDefaults()
	})
	addForeign(fs)
	fs.VisitAll(makeLenient)

	usage := func(format string, a ...any) error {
		fmt.Fprintf(stderr, "%s: %s\nUsage: %s [OPTION]...; -help lists the options\n", fs.Name(), printable.Line(fmt.Sprintf(format, a...)), args[0])
		return errUsage
	}
	// The flag package would print all of its usage after each error.
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	err := parseArgs(fs, args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp), err == nil && fs.Lookup("help").Value.String() == "true":
		fmt.Fprintf(stderr, "Usage: %s [OPTION]...\n%s", args[0], &help)
		return nil, nil
	case err != nil:
		return nil, usage("%s", redact(err.Error(), args))
	case *showVersion:
		fmt.Fprintln(stderr, version)
		return nil, nil
	case fs.NArg() > 0:
		return nil, usage("unexpected argument %q: options begin with a dash%s", fs.Arg(0), valueHint(fs, args[1:]))
	case moreThanOne(o.checkConfig != "", o.cleanup, o.doctor, o.migrate, o.release, o.status):
		return nil, usage("only one of -check-config, -cleanup, -doctor, -etcd-migrate, -release and -status can be done at a time")
	case o.json && !o.doctor && !o.status && o.checkConfig == "":
		return nil, usage("-o is for -check-config, -doctor and -status")
	case o.dryRun && !o.migrate:
		return nil, usage("-dry-run is for -etcd-migrate alone")
	}
	if name, value, err := fromEnv(fs, environ, &o.unknown); err != nil {
		return nil, usage("invalid value %q for environment variable %s: %v", value, name, err)
	}
	switch {
	case o.cniFile != "" && filepath.Ext(o.cniFile) != cni.Extension:
		return nil, usage("-cni-conf-file %q must end in %s, or runtimes do not read it as a list of plugins", o.cniFile, cni.Extension)
	case !strings.Contains(o.cniTemplate, "/") && !slices.Contains(cni.Templates(), o.cniTemplate):
		return nil, usage("-cni-conf-template %q is neither %s nor a path, which has a slash in it", o.cniTemplate, strings.Join(cni.Templates(), " nor "))
	}
	if *fromKubernetes {
		if o.migrate {
			return nil, usage("-etcd-migrate is about etcd, and -kube-subnet-mgr has subnets from Kubernetes: give one of them")
		}
		if o.release {
			return nil, usage("-release is for subnets from etcd: that of a Node belongs to it for as long as the Node is there, which kubectl delete node NAME ends")
		}
		k.takeEnv(environ)
		if err := k.Check(); err != nil && o.checkConfig == "" {
			return nil, usage("%v", err)
		}
		o.kube = &k
	}
	o.renewMargin = time.Duration(margin) * time.Minute
	o.fullyRandom = !*notRandom
	if healthPort != 0 {
		o.health = netip.AddrPortFrom(netip.Addr(healthIP), uint16(healthPort))
	}
	return &o, nil
}

// takeEnv takes from the environment what a manifest has Kubernetes put there.
func (k *kubernetes) takeEnv(environ []string) {
	for _, variable := range environ {
		switch name, value, _ := strings.Cut(variable, "="); name {
		case "NODE_NAME":
			k.NodeName = plain(value)
		case "POD_NAME":
			k.pod = plain(value)
		case "POD_NAMESPACE":
			k.namespace = plain(value)
		}
	}
}

// actions are flags that ask for something else than the daemon. They are for the
// command line alone: what is in the environment is there at every start.
var actions = []string{"check-config", "cleanup", "doctor", "dry-run", "etcd-migrate", "help", "o", "release", "status", "version"}

func moreThanOne(asked ...bool) bool {
	n := 0
	for _, a := range asked {
		if a {
			n++
		}
	}
	return n > 1
}

// fromEnv sets the flags that are not set from their environment variables.
func fromEnv(fs *flag.FlagSet, environ []string, unknown *[]string) (name, value string, err error) {
	given := make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	flags := make(map[string]*flag.Flag)
	fs.VisitAll(func(f *flag.Flag) {
		flags[envPrefix+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))] = f
	})
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		f := flags[name]
		switch {
		case !strings.HasPrefix(name, envPrefix), plain(value) == "":
		case f == nil:
			*unknown = append(*unknown, name)
		case given[f.Name], slices.Contains(actions, f.Name):
		default:
			if err := fs.Set(f.Name, value); err != nil {
				if _, ok := f.Value.(*secret); ok || strings.Contains(value, "@") {
					value = redacted
				}
				return name, value, err
			}
		}
	}
	return "", "", nil
}

const redacted = "[redacted]"

// redact takes out of an error of the flag package what may hold the password
// of a URL.
func redact(text string, args []string) string {
	for _, arg := range args {
		_, value, _ := strings.Cut(arg, "=")
		for _, v := range []string{arg, value} {
			if strings.Contains(v, "@") {
				text = strings.ReplaceAll(text, strconv.Quote(v), redacted)
			}
		}
	}
	return text
}

// The types of flags.

type secret string

func (s *secret) Set(v string) error { *s = secret(v); return nil }
func (s *secret) String() string     { return "" }

type list []string

func (l *list) Set(v string) error {
	if _, err := netip.ParseAddr(v); err != nil && (len(v) >= unix.IFNAMSIZ || strings.ContainsAny(v, "/: \t")) {
		return fmt.Errorf("no interface can have that name: one has at most %d characters, and no slash, colon or space", unix.IFNAMSIZ-1)
	}
	*l = append(*l, v)
	return nil
}
func (l *list) String() string { return strings.Join(*l, ",") }

type endpoints []string

func (e *endpoints) Set(v string) error {
	list, err := etcd.ParseEndpoints(v)
	if err == nil && len(list) > 0 {
		*e = list
	}
	return err
}
func (e *endpoints) String() string { return strings.Join(*e, ",") }

type api string

const (
	apiAuto api = "auto"
	apiV2   api = "2"
	apiV3   api = "3"
)

func (a *api) Set(v string) error {
	switch api(v) {
	case apiAuto, apiV2, apiV3:
		*a = api(v)
		return nil
	}
	return errors.New("is not auto, 2 or 3")
}
func (a *api) String() string { return string(*a) }

type masqMode netfilter.Mode

func (m *masqMode) Set(v string) error {
	switch netfilter.Mode(v) {
	case netfilter.ModeAuto, netfilter.ModeIPTables, netfilter.ModeNFTables:
		*m = masqMode(v)
		return nil
	}
	return errors.New("is not auto, iptables or nftables")
}
func (m *masqMode) String() string { return string(*m) }

type regexes []*regexp.Regexp

func (r *regexes) Set(v string) error {
	re, err := regexp.Compile(v)
	if err == nil {
		*r = append(*r, re)
	}
	return err
}

func (r *regexes) String() string {
	var texts []string
	for _, re := range *r {
		texts = append(texts, re.String())
	}
	return strings.Join(texts, ",")
}

// parseHost reads the address of a host, and returns it and its family.
func parseHost(v string) (netip.Addr, ip.Family, error) {
	addr, err := netip.ParseAddr(v)
	if err != nil || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() || addr.Is4In6() || addr.Zone() != "" || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return addr, 0, errors.New("is not the address of a host")
	}
	return addr, ip.FamilyOf(addr), nil
}

type address netip.Addr

func (a *address) Set(v string) error {
	addr, f, err := parseHost(v)
	switch {
	case err != nil:
		return errors.New("is not the IPv4 address of a host")
	case f != ip.V4:
		return errors.New("is not the IPv4 address of a host; for one of IPv6 there is -public-ipv6")
	}
	*a = address(addr)
	return nil
}

func (a *address) String() string { return addressText(netip.Addr(*a)) }

type address6 netip.Addr

func (a *address6) Set(v string) error {
	addr, f, err := parseHost(v)
	if err != nil || f != ip.V6 || addr.IsLinkLocalUnicast() {
		return errors.New("is not the IPv6 address by which other hosts can reach one")
	}
	*a = address6(addr)
	return nil
}

func (a *address6) String() string { return addressText(netip.Addr(*a)) }

// addresses are one of each family; the last that is given counts.
type addresses ip.Addrs

func (a *addresses) Set(v string) error {
	addr, f, err := parseHost(v)
	if err == nil {
		*a = addresses(ip.Addrs(*a).With(f, addr))
	}
	return err
}

func (a *addresses) String() string {
	if *a == (addresses{}) {
		return ""
	}
	return ip.Addrs(*a).String()
}

func addressText(a netip.Addr) string {
	if a.IsValid() {
		return a.String()
	}
	return ""
}

// listenIP is an address to answer at; all of this host's, or all of IPv4, is one.
type listenIP netip.Addr

func (l *listenIP) Set(v string) error {
	addr, err := netip.ParseAddr(v)
	if err != nil || addr.IsMulticast() {
		return errors.New("is not an IP address of this host")
	}
	*l = listenIP(addr)
	return nil
}

func (l *listenIP) String() string {
	if addr := netip.Addr(*l); addr.IsValid() {
		return addr.String()
	}
	return ""
}

// listenAddr is an address and a port to answer at.
type listenAddr string

func (l *listenAddr) Set(v string) error {
	host, port, err := net.SplitHostPort(v)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
		return errors.New("is not an address and a port such as 127.0.0.1:8286")
	}
	if a, err := netip.ParseAddr(host); host != "" && (err != nil || a.IsMulticast()) {
		return errors.New("does not begin with an IP address of this host; one of IPv6 is in brackets, and none at all stands for all of them")
	}
	*l = listenAddr(v)
	return nil
}
func (l *listenAddr) String() string { return string(*l) }

// format is that of what is printed: whether it is JSON.
type format bool

func (f *format) Set(v string) error {
	if v != "text" && v != "json" {
		return errors.New("is neither text nor json")
	}
	*f = v == "json"
	return nil
}

func (f *format) String() string {
	if *f {
		return "json"
	}
	return "text"
}

type port uint16

func (p *port) Set(v string) error {
	n, err := strconv.ParseUint(v, 0, 16)
	if err != nil {
		return errors.New("is not a port, 0 to 65535")
	}
	*p = port(n)
	return nil
}
func (p *port) String() string { return fmt.Sprint(uint16(*p)) }

// rate is a number of packets a second.
type rate int

const (
	probeUsually = 20
	probeMost    = 1000
)

func (r *rate) Set(v string) error {
	n, err := strconv.ParseInt(v, 0, 0)
	if err != nil || n < 0 || n > probeMost {
		return fmt.Errorf("is not a number of packets a second, 0 to %d", probeMost)
	}
	*r = rate(n)
	return nil
}
func (r *rate) String() string { return fmt.Sprint(int(*r)) }

type margin int

func (m *margin) Set(v string) error {
	n, err := strconv.ParseInt(v, 0, 0)
	if err != nil || n < 1 || n > 1439 {
		return errors.New("is not a number of minutes from 1 to 1439")
	}
	*m = margin(n)
	return nil
}
func (m *margin) String() string { return fmt.Sprint(int(*m)) }
