package kubelet

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

type tree = map[string]any

// envoy is a real one with our filter and one policy.
type envoy struct {
	t         *testing.T
	directory string
}

func binary() string {
	if named := os.Getenv("ENVOY"); named != "" {
		return named
	}
	return "../../.venv/bin/envoy"
}

func absolute(t *testing.T, file string) string {
	t.Helper()
	found, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// start runs Envoy with clusters by their names, each of one local port.
func start(t *testing.T, policy tree, clusters map[string]int, http2 bool) *envoy {
	t.Helper()
	e := &envoy{t: t, directory: t.TempDir()}
	config, err := json.Marshal(bootstrap(t, policy, clusters, http2))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.file("bootstrap.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(e.file("log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	process := exec.Command(absolute(t, binary()), "-c", "bootstrap.json", "--admin-address-path", "admin",
		"--concurrency", "2", "--disable-hot-restart", "--log-level", "warning")
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	process.Dir, process.Stdout, process.Stderr = e.directory, log, log
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
		if text, _ := os.ReadFile(e.file("log")); t.Failed() {
			t.Logf("--- Envoy's log ends with ---\n%s", text[max(0, len(text)-4000):])
		}
	})
	e.until("Envoy is ready", func() bool { return strings.TrimSpace(e.admin("/ready")) == "LIVE" })
	return e
}

func (e *envoy) file(name string) string { return filepath.Join(e.directory, name) }

func (e *envoy) until(what string, true func() bool) {
	e.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !true(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// admin is what Envoy answers on its own port, or nothing while it does not.
func (e *envoy) admin(path string) string {
	address, err := os.ReadFile(e.file("admin"))
	if err != nil {
		return ""
	}
	response, err := http.Get("http://" + strings.TrimSpace(string(address)) + path)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return string(body)
}

var checksTotal = regexp.MustCompile(`graygate_checks_total\..*upstream=\.=(.*?);\.;result=\.=(\w+);\.;: (\d+)`)

// checks returns how many checks of each upstream had each result. All results exist with the value 0 before the
// first check ends: only what is counted is returned.
func (e *envoy) checks() map[string]map[string]int {
	found := map[string]map[string]int{}
	for _, match := range checksTotal.FindAllStringSubmatch(e.admin("/stats?filter=graygate_checks_total"), -1) {
		count, _ := strconv.Atoi(match[3])
		if count == 0 {
			continue
		}
		if found[match[1]] == nil {
			found[match[1]] = map[string]int{}
		}
		found[match[1]][match[2]] = count
	}
	return found
}

func bootstrap(t *testing.T, policy tree, clusters map[string]int, http2 bool) tree {
	t.Helper()
	text, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	extensions := "type.googleapis.com/envoy.extensions."
	filter := tree{
		"@type": extensions + "filters.http.wasm.v3.Wasm",
		"config": tree{
			"name": "graygate",
			"vm_config": tree{
				"vm_id":   "graygate",
				"runtime": "envoy.wasm.runtime.v8",
				"code":    tree{"local": tree{"filename": absolute(t, "../../dist/graygate.wasm")}},
			},
			"configuration": tree{"@type": "type.googleapis.com/google.protobuf.StringValue", "value": string(text)},
		},
	}
	manager := tree{
		"@type":       extensions + "filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "http",
		"http_filters": []tree{
			{"name": "graygate", "typed_config": filter},
			{"name": "router", "typed_config": tree{"@type": extensions + "filters.http.router.v3.Router"}},
		},
		"route_config": tree{},
	}
	var listed []tree
	for name, port := range clusters {
		cluster := tree{"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": endpoint(name, port)}
		if http2 {
			options := "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
			cluster["typed_extension_protocol_options"] = tree{options: tree{
				"@type":                "type.googleapis.com/" + options,
				"explicit_http_config": tree{"http2_protocol_options": tree{}},
			}}
		}
		listed = append(listed, cluster)
	}
	return tree{
		"admin": tree{"address": address(0)},
		"static_resources": tree{
			"listeners": []tree{{
				"name":          "http",
				"address":       address(0),
				"filter_chains": []tree{{"filters": []tree{{"name": "http", "typed_config": manager}}}},
			}},
			"clusters": listed,
		},
	}
}

func endpoint(name string, port int) tree {
	host := tree{"endpoint": tree{"address": address(port)}}
	return tree{"cluster_name": name, "endpoints": []tree{{"lb_endpoints": []tree{host}}}}
}

func address(port int) tree {
	return tree{"socket_address": tree{"address": "127.0.0.1", "port_value": port}}
}

// refusal is what the tool says against a policy, or nothing if there is no problem with it.
func refusal(t *testing.T, policy tree) string {
	t.Helper()
	text, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	tool := exec.Command(absolute(t, "../../target/release/graygate"), "check", "-")
	tool.Stdin = strings.NewReader(string(text))
	said, err := tool.CombinedOutput()
	if err == nil {
		return ""
	}
	if _, exited := err.(*exec.ExitError); !exited {
		t.Fatalf("make tool: %v", err)
	}
	return fmt.Sprintf("%s", said)
}
