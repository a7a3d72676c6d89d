package istio

import (
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/config/schema/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"graygate/tests/istio/kustomize"
)

// manifests is what an operator applies.
const manifests = "../../istio/"

// built is what `kubectl apply -k` would send for a directory under istio/.
func built(t *testing.T, directory string) string {
	t.Helper()
	return kustomize.Build(t, filepath.Join(manifests, directory))
}

type document map[string]any

func documents(t *testing.T, texts ...string) []document {
	t.Helper()
	var found []document
	for _, text := range texts {
		for _, part := range strings.Split("\n"+text, "\n---") {
			var one document
			if err := yaml.Unmarshal([]byte(part), &one); err != nil {
				t.Fatalf("no YAML: %v\n%s", err, part)
			}
			if len(one) > 0 {
				found = append(found, one)
			}
		}
	}
	return found
}

func parsed(t *testing.T, text string) document {
	t.Helper()
	all := documents(t, text)
	if len(all) != 1 {
		t.Fatalf("%d documents, not one:\n%s", len(all), text)
	}
	return all[0]
}

func (d document) kind() schema.GroupVersionKind {
	version, _ := d["apiVersion"].(string)
	kind, _ := d["kind"].(string)
	return schema.FromAPIVersionAndKind(version, kind)
}

func (d document) metadata(key string) string {
	metadata, _ := d["metadata"].(map[string]any)
	value, _ := metadata[key].(string)
	return value
}

func (d document) text(t *testing.T) string {
	t.Helper()
	text, err := yaml.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// change hands each map within the document to `each`, the outer ones first.
func change(node any, each func(map[string]any)) {
	switch node := node.(type) {
	case document:
		change(map[string]any(node), each)
	case map[string]any:
		each(node)
		for _, below := range node {
			change(below, each)
		}
	case []any:
		for _, below := range node {
			change(below, each)
		}
	}
}

func joined(t *testing.T, all []document) string {
	t.Helper()
	texts := make([]string, len(all))
	for i, one := range all {
		texts[i] = one.text(t)
	}
	return strings.Join(texts, "\n---\n")
}

// divide tells apart what Istio's configuration controller reads and what its Kubernetes client reads. A field that
// Istio does not know is an error here, as it is for the API server; Istio's own parser would drop it.
func divide(t *testing.T, all []document) (istio, kubernetes []document) {
	t.Helper()
	for _, one := range all {
		kind := one.kind()
		if !strings.HasSuffix(kind.Group, ".istio.io") {
			kubernetes = append(kubernetes, one)
			continue
		}
		known, ok := collections.PilotGatewayAPI().FindByGroupVersionAliasesKind(resource.FromKubernetesGVK(&kind))
		if !ok {
			t.Fatalf("%s %s: Istio has no such kind", kind, one.metadata("name"))
		}
		strict(t, known, one)
		istio = append(istio, one)
	}
	return istio, kubernetes
}

func strict(t *testing.T, kind resource.Schema, one document) {
	t.Helper()
	spec, err := kind.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(one["spec"])
	if err != nil {
		t.Fatal(err)
	}
	if text, err = yaml.YAMLToJSON(text); err != nil {
		t.Fatal(err)
	}
	if err := config.ApplyJSONStrict(spec, string(text)); err != nil {
		t.Fatalf("%s %s: %v", kind.Kind(), one.metadata("name"), err)
	}
}
