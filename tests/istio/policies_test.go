package istio

import (
	"os"
	"strings"
	"testing"
)

// shipped is one of the policies under istio/policies. Its checks are sent ten times as often, for the tests to end
// soon, and it is in force.
func shipped(t *testing.T, name string) document {
	t.Helper()
	text, err := os.ReadFile(manifests + "policies/" + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	policy := parsed(t, string(text))
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
