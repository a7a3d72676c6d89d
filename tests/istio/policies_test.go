package istio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// policyOf is one of the policies under istio/policies, as it stands there.
func policyOf(t *testing.T, name string) document {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(manifests, "policies", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	policy := parsed(t, string(text))
	// As the tool adds it for Istio.
	policy["onWrongPolicy"] = "lastGood"
	return policy
}

// shipped is one of them in force, with checks that are sent ten times as often, for the tests to end soon.
func shipped(t *testing.T, name string) document {
	t.Helper()
	policy := policyOf(t, name)
	policy["mode"] = "enforce"
	change(policy, func(node map[string]any) {
		if seconds, ok := node["periodSeconds"].(float64); ok {
			node["periodSeconds"] = seconds / 10
		}
	})
	return policy
}

// weighted is a policy with the weights of its one release changed.
func weighted(t *testing.T, policy string, v1, v2 string) document {
	t.Helper()
	return parsed(t, strings.NewReplacer("weight: 90", "weight: "+v1, "weight: 10", "weight: "+v2).Replace(policy))
}
