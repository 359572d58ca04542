package main_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

const monitoring = "../../dist/monitoring/"

// promtool runs Prometheus' own checks on a file.
func promtool(t testing.TB, text string, args ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file.yaml")
	check(t, os.WriteFile(file, []byte(text), 0o644))
	if out, err := exec.Command("../../build/promtool", append(args, file)...).CombinedOutput(); err != nil {
		t.Fatalf("promtool %s: %v\n%s\n%s", strings.Join(args, " "), err, out, text)
	}
}

// The alerts fire as their own tests say.
func TestAlerts(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("../../build/promtool", "test", "rules", monitoring+"flanneld.rules.test.yaml").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// sample is a line of what a daemon answers to a scrape.
var sample = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? (\S+)$`)

// scrape returns what Prometheus would have of the hosts: series, with a value that stays.
func (n *network) scrape() string {
	n.t.Helper()
	var series strings.Builder
	add := func(name, labels, host, value string) {
		if labels != "" {
			labels += ","
		}
		fmt.Fprintf(&series, "  - {series: '%s{%sjob=\"flanneld\",instance=\"%s\"}', values: '%sx30'}\n", name, labels, host, value)
	}
	for _, h := range n.nodes {
		code, text := h.asks(http.MethodGet, "/metrics")
		if code != http.StatusOK {
			n.t.Fatalf("%d %s", code, text)
		}
		add("up", "", h.Name, "1")
		for _, s := range sample.FindAllStringSubmatch(text, -1) {
			add(s[1], s[2], h.Name, s[3])
		}
	}
	return series.String()
}

// wantAlerts tries the alerts on what the hosts answer now, as if it lasted.
func (n *network) wantAlerts(want ...string) {
	n.t.Helper()
	var samples strings.Builder
	for _, alert := range want {
		fmt.Fprintf(&samples, "    - {labels: '{alertname=\"%s\"}', value: 1}\n", alert)
	}
	rules, err := filepath.Abs(monitoring + "flanneld.rules.yaml")
	check(n.t, err)
	promtool(n.t, fmt.Sprintf(`rule_files: [%s]
evaluation_interval: 1m
tests:
- interval: 1m
  input_series:
%s  promql_expr_test:
  - expr: max by (alertname) (ALERTS{alertstate="firing"})
    eval_time: 25m
    exp_samples:
%s`, rules, n.scrape(), samples.String()), "test", "rules")
}

// The daemons' own metrics raise the alerts: none while all is well, and what there is to say
// while it is not.
func TestAlertsOfRealDaemons(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 0, vxlan, nil)
	for range 2 {
		h := n.addNode(lab.HostOptions{}, "-http-addr="+httpAddr)
		h.start()
		h.waitReady()
	}
	h, other := n.nodes[0], n.nodes[1]
	h.waitPeers(soon, other.peer())
	n.wait(soon, "both to be healthy", func() string {
		for _, h := range n.nodes {
			if code, s := h.status(); code != 0 {
				return fmt.Sprint(s.Problems)
			}
		}
		return ""
	})
	n.wantAlerts()

	h.run("ip", "route", "add", "table", "77", "blackhole", other.subnet().String())
	h.run("ip", "rule", "add", "table", "77")
	h.waitScreen(1, "packets: "+other.subnet().String())
	n.wantAlerts("FlanneldProblem")
	h.run("ip", "rule", "del", "table", "77")
	h.waitScreen(0)

	n.etcd.Kill()
	for _, h := range n.nodes {
		h.waitScreen(1, "store: etcd cannot be used")
	}
	n.wantAlerts("FlanneldStoreDown")
}

// The dashboard asks for metrics that there are.
func TestDashboard(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 0, udp, nil)
	h := n.addNode(lab.HostOptions{}, "-http-addr="+httpAddr)
	h.start()
	h.waitReady()
	there := make(map[string]bool)
	_, text := h.asks(http.MethodGet, "/metrics")
	for _, s := range sample.FindAllStringSubmatch(text, -1) {
		there[s[1]] = true
	}
	content, err := os.ReadFile(monitoring + "grafana-dashboard.json")
	check(t, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	check(t, json.Unmarshal(content, &dashboard))
	var rules strings.Builder
	used := make(map[string]bool)
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("the panel %q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$job", ".*", "$instance", ".*", "$__rate_interval", "5m").Replace(target.Expr)
			fmt.Fprintf(&rules, "  - {record: 'panel:x%d', expr: '%s'}\n", len(used), expr)
			for _, name := range regexp.MustCompile(`\b(flanneld|process)_[a-z_]+`).FindAllString(expr, -1) {
				used[name] = true
			}
		}
	}
	promtool(t, "groups:\n- name: panels\n  rules:\n"+rules.String(), "check", "rules")
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if !there[name] {
			t.Errorf("there is no metric %s", name)
		}
	}
}
