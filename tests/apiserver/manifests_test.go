package apiserver

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const digest = "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865"

// plugin returns a WasmPlugin or TrafficExtension of graygate with this policy.
func plugin(kind string, policy any) map[string]any {
	wasm := map[string]any{
		"url":          "oci://registry.shop/graygate:1",
		"sha256":       digest,
		"failStrategy": "FAIL_OPEN",
		"pluginName":   "graygate",
		"pluginConfig": policy,
	}
	object := map[string]any{
		"apiVersion": "extensions.istio.io/v1alpha1",
		"kind":       kind,
		"metadata":   map[string]any{"name": "graygate-reviews", "namespace": "shop"},
		"spec":       wasm,
	}
	if kind == "TrafficExtension" {
		object["spec"] = map[string]any{"wasm": wasm}
	}
	return object
}

// full returns a policy that has every part.
func full(t testing.TB) map[string]any {
	t.Helper()
	return decode(t, read(t, "../data/full-policy.json"))
}

// decode reads JSON as an API server does: whole numbers are integers.
func decode(t testing.TB, text string) map[string]any {
	t.Helper()
	var value any
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return numbers(value).(map[string]any)
}

func numbers(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			value[key] = numbers(inner)
		}
	case []any:
		for i, inner := range value {
			value[i] = numbers(inner)
		}
	case json.Number:
		if whole, err := value.Int64(); err == nil {
			return whole
		}
		fraction, _ := value.Float64()
		return fraction
	}
	return value
}

// shipped returns the objects in istio/, with their files.
func shipped(t testing.TB) map[string][]map[string]any {
	t.Helper()
	all := map[string][]map[string]any{}
	err := filepath.WalkDir("../../istio", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" || strings.Contains(path, "/admission/") {
			return err
		}
		// An operator puts the image's own digest in place of the zeros.
		text := strings.ReplaceAll(read(t, path), strings.Repeat("0", 64), digest)
		all[path] = documents(t, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEveryShippedResourceIsAccepted(t *testing.T) {
	rules := rules(t, oldest)
	judged := 0
	for path, objects := range shipped(t) {
		for _, object := range objects {
			if kind, _ := object["kind"].(string); !slices.Contains([]string{"WasmPlugin", "TrafficExtension", "EnvoyFilter"}, kind) {
				continue
			}
			found := judge(t, rules, attributes(object, nil))
			if len(found.refused)+len(found.failed) > 0 {
				t.Errorf("%s: refused: %q, failed: %q", path, found.refused, found.failed)
			}
			if found.judged {
				judged++
			}
		}
	}
	if judged < 16 {
		t.Errorf("only %d resources are graygate's", judged)
	}
}

func TestEveryShippedPolicyIsAccepted(t *testing.T) {
	rules := rules(t, oldest)
	policies := map[string]any{"full": full(t)}
	for path, objects := range shipped(t) {
		if strings.Contains(path, "/policies/") {
			policies[path] = objects[0]
		}
	}
	if len(policies) < 5 {
		t.Fatalf("%d policies", len(policies))
	}
	for path, policy := range policies {
		for _, kind := range []string{"WasmPlugin", "TrafficExtension"} {
			found := judge(t, rules, attributes(plugin(kind, policy), nil))
			if !found.judged || len(found.refused)+len(found.failed) > 0 {
				t.Errorf("%s: %s: %+v", path, kind, found)
			}
		}
	}
}

// chosen are the keys of the policy under which users choose the keys.
var chosen = []string{"upstreams", "groups", "headers", "withoutHeaders", "queryParams", "cookies", "baggage", "set", "add", "weights"}

// objects calls visit for each object with known keys, with its path.
func objects(value any, path, key string, visit func(path string, object map[string]any)) {
	switch value := value.(type) {
	case map[string]any:
		_, request := value["request"]
		_, response := value["response"]
		if !slices.Contains(chosen, key) || request || response {
			visit(path, value)
		}
		for _, key := range slices.Sorted(maps.Keys(value)) {
			objects(value[key], path+"."+key, key, visit)
		}
	case []any:
		for i, inner := range value {
			objects(inner, fmt.Sprintf("%s[%d]", path, i), "", visit)
		}
	}
}

func TestAMisspeltKeyIsRefusedInEveryObjectOfThePolicy(t *testing.T) {
	rules := rules(t, oldest)
	tried := 0
	policy := full(t)
	object := plugin("WasmPlugin", policy)
	objects(policy, "spec.pluginConfig", "", func(path string, inside map[string]any) {
		tried++
		inside["upsteam"] = int64(1)
		found := judge(t, rules, attributes(object, nil))
		delete(inside, "upsteam")
		start := path + ".upsteam: unknown field; allowed: "
		if !slices.ContainsFunc(found.refused, func(message string) bool { return strings.HasPrefix(message, start) }) {
			t.Errorf("%s: refused: %q, failed: %q", path, found.refused, found.failed)
		}
	})
	if tried < 60 {
		t.Errorf("only %d objects", tried)
	}
}
