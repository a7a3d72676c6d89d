package istio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"graygate/tests/istio/kustomize"
)

// The directories under istio/base of one kind and place, each on its own.
func TestTheBasesStandWhereTheirNamesSay(t *testing.T) {
	scopes := map[string]string{
		"inbound": "workload", "outbound": "namespace", "gateway": "workload", "waypoint": "workload",
	}
	for _, kind := range kinds {
		for _, place := range places {
			directory := "base/" + kind + "/" + place
			if kind != "wasmplugin" && kind != "trafficextension" && place == "waypoint" {
				continue
			}
			t.Run(directory, func(t *testing.T) {
				stood(t, kind, scopes[place], place, policyOf(t, place), subsets, publicGateway, built(t, directory))
			})
		}
	}
}

// overlays, and what they say of themselves.
var overlays = []struct {
	directory, scope, place, mode string
	percent, weight               float64
}{
	{"workload", "workload", "inbound", "", 0, 0},
	{"gateway", "workload", "gateway", "", 0, 0},
	{"waypoint", "workload", "waypoint", "", 0, 0},
	{"namespace", "namespace", "outbound", "enforce", 100, 0},
	{"mesh", "mesh", "outbound", "shadow", 100, 0},
	{"rollout/workload", "workload", "outbound", "shadow", 100, 0},
	{"rollout/shadow", "mesh", "outbound", "shadow", 100, 0},
	{"rollout/percent-1", "mesh", "outbound", "enforce", 1, 0},
	{"rollout/percent-10", "mesh", "outbound", "enforce", 10, 0},
	{"rollout/percent-50", "mesh", "outbound", "enforce", 50, 0},
	{"rollout/percent-100", "mesh", "outbound", "enforce", 100, 0},
	{"rollout/weight-1", "mesh", "outbound", "enforce", 100, 1},
	{"rollout/weight-10", "mesh", "outbound", "enforce", 100, 10},
	{"rollout/weight-50", "mesh", "outbound", "enforce", 100, 50},
	{"rollout/weight-100", "mesh", "outbound", "enforce", 100, 100},
	{"rollout/revision", "mesh", "outbound", "enforce", 100, 0},
}

func TestTheOverlaysStandWhereTheirNamesSayAndAreAsFarAsTheySay(t *testing.T) {
	for _, kind := range kinds {
		directory := overlaysOf(t, kind)
		for _, overlay := range overlays {
			// A policy within an EnvoyFilter is text, which no component can change; nor does a waypoint have one.
			if strings.HasPrefix(kind, "envoyfilter") && overlay.directory != "workload" && overlay.directory != "gateway" {
				continue
			}
			t.Run(kind+"/"+overlay.directory, func(t *testing.T) {
				policy := policyOf(t, overlay.place)
				if overlay.mode != "" {
					policy["mode"], policy["rollout"] = overlay.mode, map[string]any{"percent": overlay.percent}
				}
				if overlay.weight > 0 {
					change(policy, func(node map[string]any) {
						switch node["name"] {
						case "v1":
							node["weight"] = 100 - overlay.weight
						case "v2":
							node["weight"] = overlay.weight
						}
					})
				}
				texts := []string{kustomize.Build(t, filepath.Join(directory, "overlays", overlay.directory))}
				if overlay.place != "gateway" {
					texts = append(texts, publicGateway)
				}
				stood(t, kind, overlay.scope, overlay.place, policy, texts...)
			})
		}
	}
}

// overlaysOf is a copy of istio/ in which the overlays are made of another kind of manifest, as they say one can.
func overlaysOf(t *testing.T, kind string) string {
	t.Helper()
	directory := t.TempDir()
	if err := os.CopyFS(directory, os.DirFS(manifests)); err != nil {
		t.Fatal(err)
	}
	for _, overlay := range overlays {
		file := filepath.Join(directory, "overlays", overlay.directory, "kustomization.yaml")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.ReplaceAll(string(text), "base/wasmplugin/", "base/"+kind+"/"))
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

func TestTheModuleIsNamedInOnePlaceForAllOverlays(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(manifests, "components/module/kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	if err := os.CopyFS(directory, os.DirFS(manifests)); err != nil {
		t.Fatal(err)
	}
	zeros, ones := strings.Repeat("0", 64), strings.Repeat("1", 64)
	own := strings.NewReplacer("registry.example.com/graygate:0.1.0", "own.example.com/g:2", "registry.example.com/graygate-requests:0.1.0", "own.example.com/g:2", zeros, ones, "# - {", "- {").Replace(string(text))
	if err := os.WriteFile(filepath.Join(directory, "components/module/kustomization.yaml"), []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, overlay := range []string{"workload", "namespace", "mesh", "gateway", "waypoint", "rollout/percent-10", "rollout/revision"} {
		text := kustomize.Build(t, filepath.Join(directory, "overlays", overlay))
		if !strings.Contains(text, "url: oci://own.example.com/g:2") || !strings.Contains(text, ones) || strings.Contains(text, zeros) {
			t.Errorf("%s has another module:\n%s", overlay, text)
		}
		if !strings.Contains(text, "imagePullSecret: registry-credentials") {
			t.Errorf("%s has no pull secret:\n%s", overlay, text)
		}
	}
}

// composed is an overlay of an operator's own: manifests, and a component of istio/ over them.
func composed(t *testing.T, text, component string) string {
	t.Helper()
	directory := t.TempDir()
	if err := os.CopyFS(directory, os.DirFS(filepath.Join(manifests, "components"))); err != nil {
		t.Fatal(err)
	}
	kustomization := "kind: Kustomization\nresources: [manifests.yaml]\ncomponents: [" + component + "]\n"
	for name, text := range map[string]string{"manifests.yaml": text, "kustomization.yaml": kustomization} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return kustomize.Build(t, directory)
}

func TestAStepOfARolloutLeavesPluginsOfOthersAlone(t *testing.T) {
	const others = `---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: others, namespace: shop}
spec: {url: oci://registry.example.com/others:1, pluginConfig: {mode: theirs}}
`
	ours := manifest(t, "wasmplugin", "outbound", policyOf(t, "outbound"))
	for _, step := range []string{"shadow", "percent-1", "percent-10", "percent-50", "percent-100"} {
		text := composed(t, ours+others, "rollout/"+step)
		if !strings.Contains(text, "mode: theirs") || strings.Count(text, "rollout:") != 1 {
			t.Errorf("%s:\n%s", step, text)
		}
	}
}
