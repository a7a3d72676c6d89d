package istio

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/features"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/test"
	"sigs.k8s.io/yaml"
)

const patience = 15 * time.Second

// plain is without mutual TLS, for which proxies would want certificates.
const plain = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: DISABLE}}
`

// startForEnvoy is a control plane that a stock Envoy can follow. This is the one place that says what the tests with
// Envoy do without: Istio's own filters, which only Istio's build has in it, and mutual TLS. The filter, the routes and
// the clusters are the same without them.
func startForEnvoy(t *testing.T, w world, texts ...string) *controlPlane {
	t.Helper()
	return startForEnvoyWith(t, w, "", texts...)
}

// startForEnvoyWith has more of the mesh's configuration, as YAML. Istio's own code reads and validates it.
func startForEnvoyWith(t *testing.T, w world, meshConfig string, texts ...string) *controlPlane {
	t.Helper()
	test.SetForTest(t, &features.ALPNFilter, false)
	test.SetForTest(t, &features.MetadataExchange, false)
	withoutTLS := mesh.DefaultMeshConfig()
	withoutTLS.EnableAutoMtls.Value = false
	withoutTLS.EnableTracing = false
	withoutTLS.DefaultProviders = &meshconfig.MeshConfig_DefaultProviders{}
	if meshConfig != "" {
		applied, err := mesh.ApplyMeshConfig(meshConfig, withoutTLS)
		if err != nil {
			t.Fatalf("the mesh's configuration: %v", err)
		}
		withoutTLS = applied
	}
	options := xds.FakeOptions{MeshConfig: withoutTLS, ListenerBuilder: listen}
	return startWith(t, w, options, append(texts, plain)...)
}

// envoy is a real one that has all of its configuration from a control plane of the tests.
type envoy struct {
	t         *testing.T
	directory string
	process   *exec.Cmd
	ended     chan struct{}
}

// node is what a proxy says of itself. There is no redirection of traffic: each listener is at a port of its own.
type node struct {
	kind, name string
	labels     map[string]string
}

var (
	callerNode  = node{"sidecar", "productpage", map[string]string{"app": "productpage"}}
	appNode     = node{"sidecar", "reviews-v1", firstVersion}
	gatewayNode = node{"router", "ingress", map[string]string{"istio": "ingressgateway"}}
)

func binary() string {
	if named := os.Getenv("ENVOY"); named != "" {
		return named
	}
	return "../../.venv/bin/envoy"
}

// envoy starts one and waits until it has all that it was sent.
func (c *controlPlane) envoy(who node) *envoy {
	c.t.Helper()
	return startEnvoy(c.t, bootstrap(who, c.Listener.Addr().String()))
}

// startEnvoy starts one with this configuration and waits until it is ready.
func startEnvoy(t *testing.T, bootstrap map[string]any) *envoy {
	t.Helper()
	program, err := filepath.Abs(binary())
	if err != nil {
		t.Fatal(err)
	}
	e := &envoy{t: t, directory: t.TempDir(), ended: make(chan struct{})}
	config, err := yaml.Marshal(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.file("bootstrap.yaml"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	// The access log opens the same file by the name /dev/stdout, so both must append.
	logs, err := os.OpenFile(e.file("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	e.process = exec.Command(program, "-c", "bootstrap.yaml", "--admin-address-path", "admin", "--concurrency", "2",
		"--drain-time-s", "1", "--parent-shutdown-time-s", "2", "--disable-hot-restart",
		"--file-flush-interval-msec", "100",
		"--log-level", "warning", "--component-log-level", "misc:error")
	// Should this process end in a panic, which skips the cleanup, Envoy is to end with it.
	e.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	e.process.Dir, e.process.Stdout, e.process.Stderr = e.directory, logs, logs
	if err := e.process.Start(); err != nil {
		t.Fatalf("ENVOY %s: %v", program, err)
	}
	go func() { _ = e.process.Wait(); close(e.ended) }()
	t.Cleanup(e.end)
	e.until("Envoy is ready", func() bool { return strings.TrimSpace(e.admin("/ready")) == "LIVE" })
	if refused := e.refused(); len(refused) > 0 {
		t.Fatalf("Envoy has refused what it was sent: %v", refused)
	}
	return e
}

func (e *envoy) file(name string) string { return filepath.Join(e.directory, name) }

// end ends this process and no other, and says what it said if the test has failed.
func (e *envoy) end() {
	_ = e.process.Process.Signal(os.Interrupt)
	select {
	case <-e.ended:
	case <-time.After(5 * time.Second):
		_ = e.process.Process.Kill()
		<-e.ended
	}
	if e.t.Failed() {
		e.t.Logf("--- Envoy's log ends with ---\n%s", e.tail(40))
	}
}

func (e *envoy) tail(lines int) string {
	text, _ := os.ReadFile(e.file("log"))
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// until waits for something to become true. If it does not, what Envoy has refused is likely why.
func (e *envoy) until(what string, true func() bool) {
	e.t.Helper()
	deadline := time.Now().Add(patience)
	for !true() {
		select {
		case <-e.ended:
			e.t.Fatalf("%s: Envoy has ended: %v", what, e.process.ProcessState)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("%s: not within %v; refused: %v", what, patience, e.refused())
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

// counters of Envoy's that match a regular expression.
func (e *envoy) counters(pattern string) map[string]int {
	found := map[string]int{}
	for _, line := range strings.Split(e.admin("/stats?filter="+pattern), "\n") {
		name, value, _ := strings.Cut(line, ": ")
		var number int
		if _, err := fmt.Sscan(value, &number); err == nil {
			found[name] = number
		}
	}
	return found
}

// refused are the updates that Envoy would not take.
func (e *envoy) refused() map[string]int {
	found := e.counters("(update_rejected|config_fail|update_failure)$")
	for name, value := range found {
		if value == 0 {
			delete(found, name)
		}
	}
	return found
}

func bootstrap(who node, controlPlane string) map[string]any {
	host, port, _ := strings.Cut(controlPlane, ":")
	ads := map[string]any{"ads": map[string]any{}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
	http2 := "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	return map[string]any{
		"node": map[string]any{
			"id":      fmt.Sprintf("%s~127.0.0.1~%s.shop~shop.svc.cluster.local", who.kind, who.name),
			"cluster": who.name + ".shop",
			"metadata": map[string]any{
				"NAMESPACE": "shop", "LABELS": who.labels, "INSTANCE_IPS": "127.0.0.1", "CLUSTER_ID": "Kubernetes",
				"ISTIO_VERSION": istioVersion, "INTERCEPTION_MODE": "NONE",
			},
		},
		"admin":        map[string]any{"address": address("127.0.0.1", "0")},
		"stats_config": map[string]any{"stats_tags": statsTags()},
		"dynamic_resources": map[string]any{
			"ads_config": map[string]any{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3",
				"grpc_services": []any{map[string]any{"envoy_grpc": map[string]any{"cluster_name": "xds-grpc"}}},
			},
			"lds_config": ads, "cds_config": ads,
		},
		"static_resources": map[string]any{"clusters": []any{map[string]any{
			"name": "xds-grpc", "type": "STATIC", "connect_timeout": "1s",
			"typed_extension_protocol_options": map[string]any{http2: map[string]any{
				"@type":                "type.googleapis.com/" + http2,
				"explicit_http_config": map[string]any{"http2_protocol_options": map[string]any{}},
			}},
			"load_assignment": map[string]any{"cluster_name": "xds-grpc", "endpoints": []any{map[string]any{
				"lb_endpoints": []any{map[string]any{"endpoint": map[string]any{"address": address(host, port)}}},
			}}},
		}}},
	}
}

// statsTags are the rules that Istio's bootstrap has for the tags that the tool prints for `extraStatTags`.
func statsTags() (tags []any) {
	printed, err := exec.Command(tool, "stats-tags", "--for", "istio").Output()
	if err != nil {
		panic(fmt.Sprintf("%v; `make tool` builds it", err))
	}
	var mesh struct {
		MeshConfig struct {
			DefaultConfig struct {
				ExtraStatTags []string `json:"extraStatTags"`
			} `json:"defaultConfig"`
		} `json:"meshConfig"`
	}
	if err := yaml.Unmarshal(printed, &mesh); err != nil {
		panic(err)
	}
	for _, label := range mesh.MeshConfig.DefaultConfig.ExtraStatTags {
		tags = append(tags, map[string]any{"tag_name": label, "regex": `(` + label + `=\.=(.*?);\.;)`})
	}
	return tags
}

func address(host, port string) map[string]any {
	return map[string]any{"socket_address": map[string]any{"address": host, "port_value": json.Number(port)}}
}
