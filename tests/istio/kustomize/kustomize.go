// Package kustomize builds what an operator applies.
package kustomize

import (
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Build is what `kubectl apply -k` would send for a directory.
func Build(t *testing.T, directory string) string {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directory)
	if err != nil {
		t.Fatalf("kustomize build %s: %v", directory, err)
	}
	text, err := resources.AsYaml()
	if err != nil {
		t.Fatalf("kustomize build %s: %v", directory, err)
	}
	return string(text)
}
