package istio

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// prometheus is a real one that scrapes one Envoy five times a second.
type prometheus struct {
	t       *testing.T
	address string
}

// startPrometheus starts one. It skips the test if the machine has no Prometheus.
func startPrometheus(t *testing.T, e *envoy) *prometheus {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("no prometheus in PATH; Debian has it in the package prometheus")
	}
	admin, err := os.ReadFile(e.file("admin"))
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 200ms, scrape_timeout: 200ms}
scrape_configs:
- job_name: envoy
  metrics_path: /stats/prometheus
  static_configs: [{targets: ["%s"], labels: {pod: productpage}}]
`, strings.TrimSpace(string(admin)))
	file := filepath.Join(directory, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &prometheus{t, ownAddress(t, 9090) + ":9090"}
	command := exec.Command(program, "--config.file", file, "--storage.tsdb.path", filepath.Join(directory, "data"),
		"--web.listen-address", p.address, "--log.level", "error")
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	e.until("Prometheus has scraped", func() bool {
		values, err := p.query("up == 1")
		return err == nil && len(values) == 1
	})
	return p
}

// query evaluates a query now, and returns the values of its series.
func (p *prometheus) query(query string) ([]float64, error) {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://" + p.address + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var result struct {
		Status, Error string
		Data          struct{ Result []struct{ Value [2]any } }
	}
	if err := json.NewDecoder(response.Body).Decode(&result); err != nil {
		return nil, err
	}
	if result.Status != "success" {
		return nil, fmt.Errorf("%s: %s", query, result.Error)
	}
	var values []float64
	for _, series := range result.Data.Result {
		text, _ := series.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", query, err)
		}
		values = append(values, value)
	}
	return values, nil
}
