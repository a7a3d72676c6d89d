package istio

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// observability is a file of istio/observability.
func observability(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(manifests, "observability", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// collected has the mesh send spans to a service of the world.
const collected = `
- name: spans
  zipkin: {service: reviews.shop.svc.cluster.local, port: 9080}
defaultProviders: {tracing: [spans]}
enableTracing: true
`

// labelled has a release for some requests only, and a label on each request that it acts on.
var labelled = strings.NewReplacer(
	"name: reviews\nupstreams", "name: reviews\nrequestLabel: always\nupstreams",
	"  steer:", "  match: [{hosts: [reviews.shop, reviews], uri: {prefix: /gray}}]\n  steer:",
).Replace(judged)

// lines are those of the access log, by the path of the request.
func lines(t *testing.T, e *envoy) map[string]map[string]any {
	t.Helper()
	text, err := os.ReadFile(e.file("log"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]any{}
	for _, line := range strings.Split(string(text), "\n") {
		var entry map[string]any
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &entry) == nil {
			path, _ := entry["path"].(string)
			found[path] = entry
		}
	}
	return found
}

func TestTelemetryLogsTheRequestsThatGraygateActsOn(t *testing.T) {
	v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	address := ownAddress(t, 9080)
	c := startForEnvoyWith(t, world{V1: v1.endpoint, V2: v2.endpoint}, observability(t, "mesh-config.yaml"),
		egress(address), built(t, "base/steering/header"), observability(t, "telemetry.yaml"),
		local(t, manifest(t, "wasmplugin", "outbound", parsed(t, labelled))))
	e := c.envoy(callerNode)
	caller := newClient(t, address+":9080", "reviews:9080")
	e.until("checks have come", func() bool { return v1.checks.Load() > 1 })
	for _, path := range []string{"/other", "/gray"} {
		if got := caller.ask(path, "x-user-id", "alice"); got.status != 200 {
			t.Fatalf("%s: %v", path, got)
		}
	}
	e.until("the request has a line", func() bool { return lines(t, e)["/gray"] != nil })
	v1.unwell.Store(true)
	e.until("the gate is closed", func() bool { return caller.ask("/gated").status == 503 })
	e.until("the gate's reply has a line", func() bool { return lines(t, e)["/gated"] != nil })
	found := lines(t, e)
	label, _ := found["/gray"]["graygate"].(string)
	version, _ := found["/gray"]["version"].(string)
	if label != "reviews="+version+" sticky" {
		t.Errorf("the label is %q, and the version %q, in %v", label, version, found["/gray"])
	}
	if details, _ := found["/gated"]["details"].(string); !strings.HasPrefix(details, "graygate_gate{reviews|reviews-v1|") {
		t.Errorf("the details of a gate's reply are %q", details)
	}
	if found["/other"] != nil {
		t.Errorf("a request that graygate does nothing with has a line: %v", found["/other"])
	}
}

func TestTelemetryPutsTheLabelIntoTraces(t *testing.T) {
	v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	address := ownAddress(t, 9080)
	c := startForEnvoyWith(t, world{V1: v1.endpoint, V2: v2.endpoint}, observability(t, "mesh-config.yaml")+collected,
		egress(address), built(t, "base/steering/header"), observability(t, "telemetry.yaml"),
		local(t, manifest(t, "wasmplugin", "outbound", parsed(t, labelled))))
	e := c.envoy(callerNode)
	configuration := e.admin("/config_dump?resource=dynamic_listeners")
	for _, part := range []string{`"tag": "graygate"`, `"value": "%FILTER_STATE(wasm.graygate:PLAIN)%"`, `"tag": "graygate.details"`} {
		if !strings.Contains(configuration, part) {
			t.Errorf("the listeners do not have %s", part)
		}
	}
}

func TestIstioctlFindsNothingWrongWithTheTelemetry(t *testing.T) {
	file := written(t, "telemetry.yaml", observability(t, "telemetry.yaml"))
	if output, err := istioctl(t, "validate", "-f", file); err != nil {
		t.Errorf("istioctl validate: %v\n%s", err, output)
	}
	if output, err := istioctl(t, "analyze", "-A", "--use-kube=false", file); err != nil {
		t.Errorf("istioctl analyze: %v\n%s", err, output)
	}
}
