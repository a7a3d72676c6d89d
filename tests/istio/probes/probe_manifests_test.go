package probes

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"graygate/tests/istio/kustomize"
)

const (
	// manifests is what an operator applies.
	manifests     = "../../../istio"
	exampleShop   = manifests + "/base/example"
	portLevelMTLS = manifests + "/base/port-level-mtls"
)

// applied is what `kubectl apply -k` would send: one YAML document for each object, by kind.
type applied map[string][]string

// built is the kustomization at a path.
func built(t *testing.T, path string) applied {
	t.Helper()
	found := applied{}
	for _, document := range strings.Split(kustomize.Build(t, path), "\n---\n") {
		var object struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		found[object.Kind] = append(found[object.Kind], document)
	}
	return found
}

// one is the only object of a kind.
func (m applied) one(t *testing.T, kind string) string {
	t.Helper()
	if len(m[kind]) != 1 {
		t.Fatalf("%d objects of kind %s, expected one", len(m[kind]), kind)
	}
	return m[kind][0]
}

// istioConfig is what the control plane reads of it.
func (m applied) istioConfig() string {
	return strings.Join(append(append([]string{}, m["EnvoyFilter"]...), m["PeerAuthentication"]...), "\n---\n")
}

// policiesIn are the policies in the EnvoyFilters, wherever in them.
func policiesIn(t *testing.T, documents []string) []string {
	t.Helper()
	var policies []string
	for _, document := range documents {
		var tree map[string]any
		if err := yaml.Unmarshal([]byte(document), &tree); err != nil {
			t.Fatal(err)
		}
		var walk func(node any)
		walk = func(node any) {
			switch node := node.(type) {
			case map[string]any:
				if text, ok := node["value"].(string); ok && node["@type"] == "type.googleapis.com/google.protobuf.StringValue" {
					policies = append(policies, text)
				}
				for _, child := range node {
					walk(child)
				}
			case []any:
				for _, child := range node {
					walk(child)
				}
			}
		}
		walk(tree)
	}
	return policies
}

func TestThePoliciesOfTheProbeManifestsAreRight(t *testing.T) {
	tool, err := filepath.Abs("../../../target/release/graygate")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tool); err != nil {
		t.Skipf("%v: `make tool` builds it", err)
	}
	for _, base := range []string{exampleShop, portLevelMTLS} {
		policies := policiesIn(t, built(t, base)["EnvoyFilter"])
		if len(policies) != 1 {
			t.Fatalf("%s: %d policies, expected one", base, len(policies))
		}
		if !json.Valid([]byte(policies[0])) {
			t.Errorf("%s: the policy is no JSON: %s", base, policies[0])
		}
		file := filepath.Join(t.TempDir(), "policy.json")
		if err := os.WriteFile(file, []byte(policies[0]), 0o644); err != nil {
			t.Fatal(err)
		}
		if said, err := exec.Command(tool, "check", file).CombinedOutput(); err != nil {
			t.Errorf("%s: graygate check: %v: %s", base, err, said)
		}
	}
}
