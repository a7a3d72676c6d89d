package istio

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// kustomizations lists the directories under istio/ that can be built by themselves: components can't.
func kustomizations(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(manifests, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), "kind: Kustomization\n") {
			found = append(found, filepath.Dir(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 10 {
		t.Fatalf("%s: %d kustomizations; there are more", manifests, len(found))
	}
	return found
}

// istioctlBuilt is the program of the same Istio as the rest of these tests: GOFLAGS names the module file for both.
var istioctlBuilt = sync.OnceValues(func() (string, error) {
	path, err := exec.Command("go", "tool", "-n", "istioctl").Output()
	return strings.TrimSpace(string(path)), err
})

func istioctl(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	path, err := istioctlBuilt()
	if err != nil {
		t.Fatalf("go tool istioctl: %v", err)
	}
	output, err := exec.Command(path, arguments...).CombinedOutput()
	return string(output), err
}

func written(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestIstioctlFindsNothingWrongWithAnyKustomization(t *testing.T) {
	for _, directory := range kustomizations(t) {
		name, _ := filepath.Rel(manifests, directory)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := written(t, "built.yaml", built(t, name))
			if output, err := istioctl(t, "validate", "-f", file); err != nil {
				t.Errorf("istioctl validate: %v\n%s", err, output)
			}
			// What it says of every EnvoyFilter, whatever is in it, is the one thing let pass.
			output, _ := istioctl(t, "analyze", "-A", "--use-kube=false", file)
			for _, line := range strings.Split(output, "\n") {
				general := strings.Contains(line, "[IST0133]") && strings.Contains(line, "EnvoyFilter exposes internal")
				if strings.Contains(line, "[IST") && !general {
					t.Errorf("istioctl analyze: %s", line)
				}
			}
			if !strings.Contains(output, "No validation issues") && !strings.Contains(output, "[IST") {
				t.Errorf("istioctl analyze did not run:\n%s", output)
			}
		})
	}
}

// Both look at nothing at all when they are asked wrongly, such as analyze without -A.
func TestIstioctlFindsWhatIsWrong(t *testing.T) {
	misspelt := written(t, "misspelt.yaml", strings.ReplaceAll(
		built(t, "base/steering/header"), "subset: v2", "subsett: v2"))
	if output, err := istioctl(t, "validate", "-f", misspelt); err == nil {
		t.Errorf("istioctl validate let a misspelt field pass:\n%s", output)
	}
	unknown := written(t, "unknown.yaml", strings.ReplaceAll(
		built(t, "base/steering/gateway"), "- public", "- publik"))
	if output, err := istioctl(t, "analyze", "-A", "--use-kube=false", unknown); err == nil {
		t.Errorf("istioctl analyze let a gateway pass that nobody defines:\n%s", output)
	}
}

// check is the tool, asked about manifests that are applied together.
func check(t *testing.T, manifests string) (string, error) {
	t.Helper()
	command := exec.Command("../../target/release/graygate", "check", "--istio", "-", "--allow", "placeholder")
	command.Stdin = strings.NewReader(manifests)
	output, err := command.CombinedOutput()
	return string(output), err
}

func TestTheToolFindsNothingWrongWithAnyOverlay(t *testing.T) {
	for _, directory := range kustomizations(t) {
		name, _ := filepath.Rel(manifests, directory)
		text := built(t, name)
		adds := strings.Contains(text, "pluginConfig") || strings.Contains(text, "v3.Wasm")
		// The rules for an API server speak of both, and add no filter.
		if !adds || strings.Contains(text, "kind: ValidatingAdmissionPolicy") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if output, err := check(t, text); err != nil {
				t.Errorf("graygate check --istio: %v\n%s", err, output)
			}
		})
	}
}

func TestTheToolFindsAWasmPluginAndATrafficExtensionForTheSameProxies(t *testing.T) {
	output, err := check(t, built(t, "base/wasmplugin/outbound")+"---\n"+built(t, "base/trafficextension/outbound"))
	if err == nil || !strings.Contains(output, "twice") {
		t.Errorf("graygate check --istio: %v\n%s", err, output)
	}
}
