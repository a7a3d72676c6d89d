package istio

import (
	_ "github.com/google/go-containerregistry/pkg/registry"
	_ "github.com/google/go-containerregistry/pkg/v1/layout"
	_ "github.com/google/go-containerregistry/pkg/v1/remote"
	_ "istio.io/istio/pilot/cmd/pilot-agent/status"
	_ "istio.io/istio/pilot/test/xds"
	_ "istio.io/istio/pilot/test/xdstest"
	_ "istio.io/istio/pkg/kube/inject"
	_ "istio.io/istio/pkg/wasm"
	_ "sigs.k8s.io/kustomize/api/krusty"
	_ "sigs.k8s.io/kustomize/kyaml/filesys"
	_ "sigs.k8s.io/yaml"
)
