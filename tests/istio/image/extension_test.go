package image

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	wasmfilter "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/wasm"
)

// A WasmPlugin as a mesh operator writes it, as far as these tests are about it. What is empty is left out.
type wasmPlugin struct{ url, sha256, failStrategy, imagePullPolicy, policy string }

func (p wasmPlugin) yaml() string {
	text := "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\n" +
		"metadata: {name: graygate, namespace: shop}\nspec:\n"
	for _, each := range [][2]string{
		{"url", p.url}, {"sha256", quoted(p.sha256)}, {"failStrategy", p.failStrategy},
		{"imagePullPolicy", p.imagePullPolicy}, {"pluginConfig", p.policy},
	} {
		if each[1] != "" {
			text += fmt.Sprintf("  %s: %s\n", each[0], each[1])
		}
	}
	return text
}

const livenessOnly = `{name: reviews, probes: {liveness: {path: /livez}}}`

// What istiod sends to a sidecar for it: the resource that the agent converts.
func (p wasmPlugin) resource(t *testing.T) *core.TypedExtensionConfig {
	t.Helper()
	if p.policy == "" {
		p.policy = livenessOnly
	}
	server := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{ConfigString: p.yaml()})
	proxy := server.SetupProxy(&model.Proxy{ConfigNamespace: "shop", Metadata: &model.NodeMetadata{Namespace: "shop"}})
	var names []string
	for _, extensions := range server.PushContext().TrafficExtensions(proxy) {
		for _, extension := range extensions {
			names = append(names, extension.ResourceName)
		}
	}
	built := server.ConfigGen.BuildExtensionConfiguration(proxy, server.PushContext(), names, nil)
	if len(built) != 1 {
		t.Fatalf("%d extension configurations of %v; want 1", len(built), names)
	}
	return built[0]
}

// What the agent makes of a push with it.
func converted(t *testing.T, cache wasm.Cache, pushed *core.TypedExtensionConfig) *core.TypedExtensionConfig {
	t.Helper()
	resource, err := anypb.New(proto.Clone(pushed))
	if err != nil {
		t.Fatal(err)
	}
	resources := []*anypb.Any{resource}
	if err := wasm.MaybeConvertWasmExtensionConfig(resources, cache); err != nil {
		t.Fatalf("refused by the agent: %v", err)
	}
	made := &core.TypedExtensionConfig{}
	if err := resources[0].UnmarshalTo(made); err != nil {
		t.Fatal(err)
	}
	return made
}

// "wasm", "allow" or "deny".
func filterOf(t *testing.T, made *core.TypedExtensionConfig) string {
	t.Helper()
	value := string(made.TypedConfig.Value)
	switch {
	case strings.HasSuffix(made.TypedConfig.TypeUrl, ".wasm.v3.Wasm"):
		filter := &wasmfilter.Wasm{}
		if err := made.TypedConfig.UnmarshalTo(filter); err != nil {
			t.Fatal(err)
		}
		if filter.Config.GetVmConfig().GetCode().GetLocal().GetFilename() == "" {
			t.Fatalf("not from a local file: %v", filter)
		}
		return "wasm"
	case strings.Contains(value, wasm.DefaultAllowStatPrefix):
		return "allow"
	case strings.Contains(value, wasm.DefaultDenyStatPrefix):
		return "deny"
	}
	t.Fatalf("neither Wasm nor one of the agent's own: %v", made)
	return ""
}

// As the API server does at each change of the resource. What istiod is given in these tests has none.
func setResourceVersion(t *testing.T, pushed *core.TypedExtensionConfig, version string) {
	t.Helper()
	filter := &wasmfilter.Wasm{}
	if err := pushed.TypedConfig.UnmarshalTo(filter); err != nil {
		t.Fatal(err)
	}
	filter.Config.GetVmConfig().EnvironmentVariables.KeyValues[model.WasmResourceVersionEnv] = version
	changed, err := anypb.New(filter)
	if err != nil {
		t.Fatal(err)
	}
	pushed.TypedConfig = changed
}

func wasmFiles(t *testing.T, directory string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(directory, "*", "*.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A digest may look like a number.
func quoted(digest string) string {
	if digest == "" {
		return ""
	}
	return strconv.Quote(digest)
}
