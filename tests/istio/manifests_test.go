package istio

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kinds of manifest that bring the filter to a proxy, and the places it may stand in.
var (
	kinds  = []string{"wasmplugin", "trafficextension", "envoyfilter", "envoyfilter-ecds"}
	places = []string{"inbound", "outbound", "gateway", "waypoint"}
	// What differs to Envoy: a filter that is discovered, and one with its policy in the listener.
	twoWays = []string{"wasmplugin", "envoyfilter"}
)

const (
	tool       = "../../target/release/graygate"
	modulePath = "../../dist/graygate.wasm"
	moduleFile = "/etc/istio/extensions/graygate.wasm"
)

// selectors of the workload that the filter is for, in each place.
var selectors = map[string][]string{
	"inbound":  {"--selector", "app=reviews"},
	"outbound": {"--selector", "app=productpage"},
	"gateway":  {"--selector", "istio=ingressgateway"},
	"waypoint": {"--target", "Gateway/waypoint"},
}

// manifest is what the tool prints for one of `kinds`, for one workload in one of `places`.
func manifest(t *testing.T, kind, place string, policy document, options ...string) string {
	t.Helper()
	text, err := render(t, kind, place, policy, append(scoped("workload", place), options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// render is one run of the tool. The module of an EnvoyFilter is a file in the proxy, or comes by extension discovery
// if it is from elsewhere.
func render(t *testing.T, kind, place string, policy document, options ...string) (string, error) {
	t.Helper()
	text, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	module := []string{"--module", "file://" + moduleFile}
	kind, discovered := strings.CutSuffix(kind, "-ecds")
	if discovered {
		module = []string{"--module", "oci://registry.example.com/graygate:1.0.0", "--sha256", strings.Repeat("0", 64)}
	}
	arguments := append([]string{"render", "--kind", kind, "--at", place}, module...)
	command := exec.Command(tool, append(append(arguments, options...), file)...)
	var problems bytes.Buffer
	command.Stderr = &problems
	output, err := command.Output()
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		t.Fatalf("%v; `make tool` builds it", err)
	}
	if err != nil {
		return "", &refusal{err, problems.String()}
	}
	return string(output), nil
}

type refusal struct {
	error
	problems string
}

func (r *refusal) Error() string { return r.error.Error() + "\n" + r.problems }

// local puts this project's module in the place of the one that a manifest names. Where Istio's agent would fetch it,
// there is no agent here: what is left is what the agent makes of it, a file.
func local(t *testing.T, text string) string {
	t.Helper()
	module, err := filepath.Abs(modulePath)
	if err != nil {
		t.Fatal(err)
	}
	all := documents(t, text)
	for _, one := range all {
		change(one, func(node map[string]any) {
			if _, ok := node["failStrategy"]; ok {
				node["url"] = "file://" + module
				delete(node, "sha256")
			}
			if code, ok := node["code"].(map[string]any); ok && (code["local"] != nil || code["remote"] != nil) {
				node["code"] = map[string]any{"local": map[string]any{"filename": module}}
			}
		})
	}
	return joined(t, all)
}
