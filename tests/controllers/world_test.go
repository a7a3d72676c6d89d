// Package controllers runs the metrics of Flagger and Argo Rollouts by their own code, on a real Prometheus that scrapes
// a real Envoy with graygate.
package controllers

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	tool     = "../../target/release/graygate"
	module   = "../../dist/graygate.wasm"
	patience = time.Minute
	// late is how long a slow version takes. The policies of the tests call less slow, so no busy machine makes it.
	late = 4 * time.Second
)

type tree = map[string]any

// world is an Envoy in front of two versions, and a Prometheus that scrapes it five times a second.
type world struct {
	t             *testing.T
	client        *http.Client
	envoy         string
	prometheus    string
	stable, other *app
}

// app is a version. Each request says by its path how the version does.
type app struct {
	*httptest.Server
	requests atomic.Int64
}

func serve(t *testing.T, name string) *app {
	a := &app{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.requests.Add(1)
		switch r.URL.Path {
		case "/fails":
			w.WriteHeader(http.StatusInternalServerError)
		case "/slow":
			time.Sleep(late)
		}
		_, _ = io.WriteString(w, name)
	}))
	t.Cleanup(a.Close)
	return a
}

// start renders the policy with the tool as a whole configuration of Envoy. The clusters are those of the stable version
// and of the other one.
func start(t *testing.T, policy, stable, other string) *world {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("no prometheus in PATH; Debian has it in the package prometheus")
	}
	w := &world{t: t, client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}, stable: serve(t, "stable"), other: serve(t, "other")}
	directory := t.TempDir()
	write(t, directory, "policy.yaml", policy)
	render := exec.Command(absolute(t, tool), "render", filepath.Join(directory, "policy.yaml"), "--kind", "envoy", "--bootstrap",
		"--module", absolute(t, module), "--endpoint", stable+"="+host(w.stable), "--endpoint", other+"="+host(w.other))
	rendered, err := render.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, problems(err))
	}
	w.envoy = w.startEnvoy(directory, string(rendered))
	w.prometheus = "http://" + freeAddress(t)
	write(t, directory, "prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 200ms, scrape_timeout: 200ms}
scrape_configs:
- {job_name: envoy, metrics_path: /stats/prometheus, static_configs: [{targets: [%q]}]}
`, w.admin(directory)))
	w.run(exec.Command(program, "--config.file", filepath.Join(directory, "prometheus.yml"), "--storage.tsdb.path",
		filepath.Join(directory, "data"), "--web.listen-address", strings.TrimPrefix(w.prometheus, "http://"), "--log.level", "error"))
	w.until("Prometheus has scraped", func() bool { return w.value("up") == 1 })
	return w
}

// startEnvoy returns the address at which Envoy listens.
func (w *world) startEnvoy(directory, config string) string {
	w.t.Helper()
	address := freeAddress(w.t)
	var bootstrap tree
	if err := yaml.Unmarshal([]byte(config), &bootstrap); err != nil {
		w.t.Fatal(err)
	}
	resources := bootstrap["static_resources"].(tree)
	listen(bootstrap["admin"].(tree), "127.0.0.1:0")
	listen(resources["listeners"].([]any)[0].(tree), address)
	// Clusters have the names and labels in the statistics that Istio gives them.
	stats := bootstrap["stats_config"].(tree)
	stats["use_all_default_tags"] = false
	stats["stats_tags"] = append(stats["stats_tags"].([]any), tree{"tag_name": "cluster_name", "regex": `^cluster(\.(.+);)`})
	for _, cluster := range resources["clusters"].([]any) {
		cluster.(tree)["alt_stat_name"] = fmt.Sprint(cluster.(tree)["name"], ";")
	}
	text, err := json.Marshal(bootstrap)
	if err != nil {
		w.t.Fatal(err)
	}
	write(w.t, directory, "envoy.json", string(text))
	binary := os.Getenv("ENVOY")
	if binary == "" {
		binary = "../../.venv/bin/envoy"
	}
	command := exec.Command(absolute(w.t, binary), "-c", "envoy.json", "--admin-address-path", "admin", "--concurrency", "2",
		"--disable-hot-restart", "--log-level", "warning")
	command.Dir = directory
	log := w.run(command)
	w.until("Envoy is ready", func() bool {
		response, err := w.client.Get("http://" + w.admin(directory) + "/ready")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("--- Envoy said ---\n%s", log)
		}
	})
	return address
}

func listen(who tree, address string) {
	host, port, _ := net.SplitHostPort(address)
	who["address"] = tree{"socket_address": tree{"address": host, "port_value": json.Number(port)}}
}

// admin is the address of Envoy's own interface, once it has one.
func (w *world) admin(directory string) string {
	text, _ := os.ReadFile(filepath.Join(directory, "admin"))
	return strings.TrimSpace(string(text))
}

// run starts a program that ends with the test, also if that ends in a panic.
func (w *world) run(command *exec.Cmd) *output {
	w.t.Helper()
	said := &output{}
	command.Stdout, command.Stderr = io.Discard, said
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return said
}

// output is what a program says. A test may read it while the program still writes.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(text)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (w *world) until(what string, true func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !true(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func absolute(t *testing.T, file string) string {
	t.Helper()
	found, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func write(t *testing.T, directory, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func problems(err error) []byte {
	if ended, ok := err.(*exec.ExitError); ok {
		return ended.Stderr
	}
	return nil
}

func host(a *app) string { return strings.TrimPrefix(a.URL, "http://") }

// freeAddress is a port at one of this machine's 16 million loopback addresses, so that no other test takes it.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250)))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
