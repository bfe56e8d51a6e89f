package natsmon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// What is shipped for Prometheus and Grafana: of NATS servers, and of Thalweg itself.
const (
	monitoring = "../../monitoring/"
	natsAlerts = monitoring + "nats-alerts.yml"
	natsBoard  = monitoring + "nats-dashboard.json"
)

func alertFiles() []string { return []string{natsAlerts, monitoring + "thalweg-alerts.yml"} }

func boardFiles() []string { return []string{natsBoard, monitoring + "thalweg-dashboard.json"} }

func readAlerts(t *testing.T, file string) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, parser.NewParser(parser.Options{}), bustest.Logger(t))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var rules []rulefmt.Rule
	for _, g := range groups.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

// dashboard is of Grafana's schema what the tests look at.
type dashboard struct {
	UID           string `json:"uid"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name, Type, Definition string
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID         int               `json:"id"`
	Title      string            `json:"title"`
	Type       string            `json:"type"`
	Datasource map[string]string `json:"datasource"`
	Targets    []struct {
		Expr       string            `json:"expr"`
		RefID      string            `json:"refId"`
		Datasource map[string]string `json:"datasource"`
	} `json:"targets"`
}

func readDashboard(t *testing.T, file string) dashboard {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// labelValues is how a variable of a dashboard is filled.
var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

// queries of a dashboard, as Grafana sends them when everything is chosen, but for the variables given with their values, by the
// title of the panel or the variable.
func (d *dashboard) queries(t *testing.T, chosen ...string) map[string][]string {
	t.Helper()
	fill := append([]string{"$__rate_interval", "5m"}, chosen...) // of two the first counts
	all := map[string][]string{}
	for _, v := range d.Templating.List {
		fill = append(fill, "$"+v.Name, ".*")
	}
	filled := strings.NewReplacer(fill...)
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		parts := labelValues.FindStringSubmatch(v.Definition)
		if parts == nil {
			t.Fatalf("variable %s is %s", v.Name, v.Definition)
		}
		all["$"+v.Name] = []string{fmt.Sprintf("count by (%s) (%s)", parts[2], filled.Replace(parts[1]))}
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all[p.Title] = append(all[p.Title], filled.Replace(target.Expr))
		}
	}
	return all
}

func TestDashboardsAreOfPlainGrafana(t *testing.T) {
	for _, file := range boardFiles() {
		t.Run(filepath.Base(file), func(t *testing.T) {
			d := readDashboard(t, file)
			d.check(t)
		})
	}
}

func (d *dashboard) check(t *testing.T) {
	if d.UID == "" || d.SchemaVersion < 39 {
		t.Errorf("uid %q, schema %d", d.UID, d.SchemaVersion)
	}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q has the id of another", p.Title)
		}
		ids[p.ID] = true
		switch p.Type {
		case "row":
			continue
		case "stat", "table", "timeseries": // which need no plugin
		default:
			t.Errorf("panel %q is a %s", p.Title, p.Type)
		}
		if p.Datasource["uid"] != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %q has %d queries of %v", p.Title, len(p.Targets), p.Datasource)
		}
		for _, target := range p.Targets {
			if target.Datasource["uid"] != "${datasource}" || target.RefID == "" {
				t.Errorf("query %q of panel %q is of %v", target.RefID, p.Title, target.Datasource)
			}
		}
	}
}

// exported are the labels that each metric can have, by name.
func exported(families []*dto.MetricFamily) map[string]map[string]bool {
	all := map[string]map[string]bool{}
	for _, f := range families {
		all[f.GetName()] = map[string]bool{}
		for _, m := range f.GetMetric() {
			for _, p := range m.GetLabel() {
				all[f.GetName()][p.GetName()] = true
				if p.GetName() == "server" {
					all[f.GetName()]["cluster"] = true // as soon as the server is in one
				}
			}
		}
	}
	return all
}

// documented are the metrics of Thalweg itself with their labels, of a page that is made from the program.
func documented(t *testing.T) map[string]map[string]bool {
	t.Helper()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]bool{
		"process_resident_memory_bytes": {"instance": true}, // of the Go client
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| (.*?) \\|").FindAllStringSubmatch(string(page), -1) {
		has := map[string]bool{"instance": true, "site": true} // which come with the scrape and the way by a hub
		for _, label := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[3], -1) {
			has[label[1]] = true
		}
		names := []string{row[1]}
		if row[2] == "histogram" {
			has["le"] = true
			names = []string{row[1] + "_bucket", row[1] + "_count", row[1] + "_sum"}
		}
		for _, name := range names {
			all[name] = has
		}
	}
	return all
}

// TestAlertsAndDashboardsUseWhatIsExported looks at each selector: there are a metric of that name, and these labels.
func TestAlertsAndDashboardsUseWhatIsExported(t *testing.T) {
	known := exported(everything(t))
	maps.Copy(known, documented(t))
	used := map[string]bool{}
	check := func(where, query string) {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			return
		}
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			selector, ok := node.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			used[selector.Name] = true
			has, there := known[selector.Name]
			if !there {
				t.Errorf("%s: there is no metric %s", where, selector.Name)
				return nil
			}
			for _, m := range selector.LabelMatchers {
				if m.Name != model.MetricNameLabel && !has[m.Name] {
					t.Errorf("%s: %s has no label %s", where, selector.Name, m.Name)
				}
			}
			return nil
		})
	}
	for _, file := range alertFiles() {
		for _, rule := range readAlerts(t, file) {
			check(rule.Alert, rule.Expr)
		}
	}
	for _, file := range boardFiles() {
		d := readDashboard(t, file)
		for title, queries := range d.queries(t) {
			for _, q := range queries {
				check(title, q)
			}
		}
	}
	if len(used) < 100 {
		t.Errorf("only %d metrics are used", len(used))
	}
}

// TestAlertsFire runs the examples of each alert.
func TestAlertsFire(t *testing.T) {
	promtool := tool(t, "promtool")
	for _, file := range alertFiles() {
		examples := strings.TrimSuffix(file, ".yml") + "_test.yml"
		for _, args := range [][]string{{"check", "rules", file}, {"test", "rules", examples}} {
			if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
				t.Errorf("promtool %v: %v\n%s", args, err, out)
			}
		}
		text, err := os.ReadFile(examples)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range readAlerts(t, file) {
			if !bytes.Contains(text, []byte(`alertname="`+rule.Alert+`"`)) {
				t.Errorf("there is no example that makes %s fire", rule.Alert)
			}
		}
	}
}

// TestInARealPrometheus has one scrape the exporter, evaluate all alerts, and answer all queries of the dashboard.
func TestInARealPrometheus(t *testing.T) {
	servers := startCluster(t, "east", "")
	startOrders(t, servers[0].jetStream(t))
	c := DefaultConfig()
	c.System = []SystemConfig{{URLs: []string{servers[0].ClientURL()}, Username: "system", PasswordFile: passwordFile(t)}}
	c.Servers = []ServerConfig{{URL: "http://" + freeAddrs(t, 1)[0]}} // which nobody serves
	exporter, err := New(Options{Config: c, Logger: bustest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	runExporter(t, exporter)
	web := httptest.NewServer(exporter.Handler())
	t.Cleanup(web.Close)
	prometheus := startPrometheus(t, web.Listener.Addr().String())

	bustest.WaitFor(t, "a scrape of the whole cluster", func() bool {
		return len(prometheus.query(t, `count(nats_server_info) == 3 and on () nats_consumer_pending == 60`)) > 0
	})
	d := readDashboard(t, natsBoard)
	queries := d.queries(t)
	for _, title := range slices.Sorted(maps.Keys(queries)) {
		for _, q := range queries[title] {
			prometheus.query(t, q)
		}
	}
	for _, title := range []string{"Servers", "Clients", "Storage", "Pending", "Replica lag", "$stream"} {
		if !slices.ContainsFunc(queries[title], func(q string) bool { return len(prometheus.query(t, q)) > 0 }) {
			t.Errorf("panel %q is empty: %q", title, queries[title])
		}
	}

	rules := len(readAlerts(t, natsAlerts))
	bustest.WaitFor(t, "all alerts to be evaluated, and that on the server that is not there", func() bool {
		evaluated, pending := prometheus.alerts(t)
		return evaluated == rules && slices.Equal(pending, []string{"NATSTargetDown"})
	})
}

// TestDashboardOfServersAlone has two pages scraped, each of a server in its process, whose basic metrics have no labels. The
// dashboard tells them apart, and no alert is about to fire.
func TestDashboardOfServersAlone(t *testing.T) {
	var pages []string
	for _, name := range []string{"shop-1", "shop-2"} {
		p := startPlain(t, name, storeText(t))
		p.jetStream(t) // a client
		// It has no StoreDir: the disk of this machine may well be full.
		exporter, err := New(Options{Config: DefaultConfig(), Embedded: p.Server, Logger: bustest.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		runExporter(t, exporter)
		web := httptest.NewServer(exporter.Handler())
		t.Cleanup(web.Close)
		pages = append(pages, web.Listener.Addr().String())
	}
	prometheus := startPrometheus(t, pages...)
	bustest.WaitFor(t, "some scrapes of both", func() bool {
		return len(prometheus.query(t, `count(count_over_time(nats_server_info[1m]) > 2) == 2`)) > 0
	})
	d := readDashboard(t, natsBoard)
	for servers, want := range map[string]int{".*": 2, "shop-1": 1} {
		queries := d.queries(t, "$server", servers)
		for _, title := range []string{"Servers", "On the wire", "New connections", "Memory"} {
			for _, q := range queries[title] {
				if strings.HasPrefix(q, "count(") {
					continue // another panel of that title, which has the sum of all
				}
				rows := prometheus.query(t, q)
				named := slices.DeleteFunc(slices.Clone(rows), func(row json.RawMessage) bool { return !bytes.Contains(row, []byte(`"server":"shop-`)) })
				if len(rows) != want || len(named) != want {
					t.Errorf("server %s, panel %q: %s gives %s", servers, title, q, rows)
				}
			}
		}
	}
	rules := len(readAlerts(t, natsAlerts))
	bustest.WaitFor(t, "all alerts to be evaluated", func() bool {
		evaluated, pending := prometheus.alerts(t)
		if len(pending) > 0 {
			t.Fatalf("alerts on healthy servers: %v", pending)
		}
		return evaluated == rules
	})
}

// alerts returns how many were evaluated, and which are pending or firing.
func (p prometheusServer) alerts(t *testing.T) (evaluated int, pending []string) {
	t.Helper()
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError, State string }
			}
		}
	}
	p.get(t, "/api/v1/rules", &answer)
	for _, g := range answer.Data.Groups {
		for _, r := range g.Rules {
			if r.LastError != "" {
				t.Fatalf("%s: %s", r.Name, r.LastError)
			}
			if r.Health == "ok" {
				evaluated++
			}
			if r.State != "inactive" {
				pending = append(pending, r.Name)
			}
		}
	}
	return evaluated, pending
}

// prometheusServer is a real one.
type prometheusServer struct{ url string }

// startPrometheus scrapes addresses every second, and evaluates the alerts as often, until the test ends.
func startPrometheus(t *testing.T, targets ...string) prometheusServer {
	t.Helper()
	rules, err := filepath.Abs(natsAlerts)
	if err != nil {
		t.Fatal(err)
	}
	dir, listen := t.TempDir(), freeAddrs(t, 1)[0]
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: nats
    static_configs: [{targets: [%s]}]
`, rules, strings.Join(targets, ", ")), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(tool(t, "prometheus"), "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+listen, "--log.level=warn")
	command.Stdout, command.Stderr = t.Output(), t.Output()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill() // its data goes with the test
		_ = command.Wait()
	})
	p := prometheusServer{"http://" + listen}
	bustest.WaitFor(t, "Prometheus", func() bool {
		answer, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	return p
}

// get decodes an answer of the API.
func (p prometheusServer) get(t *testing.T, path string, into any) {
	t.Helper()
	answer, err := http.Get(p.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s", path, answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
}

// query returns the series of an instant query.
func (p prometheusServer) query(t *testing.T, expr string) []json.RawMessage {
	t.Helper()
	var answer struct {
		Data struct {
			Result []json.RawMessage `json:"result"`
		} `json:"data"`
	}
	p.get(t, "/api/v1/query?query="+url.QueryEscape(expr), &answer)
	return answer.Data.Result
}
