package controllers

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	besideFlagger  = "../../docs/how-to/beside-flagger.md"
	besideArgo     = "../../docs/how-to/beside-argo-rollouts.md"
	ofFlagger      = "../../istio/observability/flagger/"
	ofArgoRollouts = "../../istio/observability/argo-rollouts/"
)

// block is the only block of a document that has this text in it.
func block(t *testing.T, document, text string) string {
	t.Helper()
	whole, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for i, part := range strings.Split(string(whole), "```") {
		if i%2 == 1 && strings.Contains(part, text) {
			_, body, _ := strings.Cut(part, "\n")
			found = append(found, body)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks with %q, not 1", document, len(found), text)
	}
	return found[0]
}

// strict reads a manifest as the API server of the controller's own types would, without unknown fields.
func strict(t *testing.T, text string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

func file(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
