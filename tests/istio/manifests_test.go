package istio

import (
	"encoding/json"
	"strings"
	"testing"
)

// kinds of manifest that bring the filter to a proxy, and the places it may stand in.
var (
	kinds  = []string{"wasmplugin", "trafficextension", "envoyfilter", "envoyfilter-ecds"}
	places = []string{"inbound", "outbound", "gateway", "waypoint"}
)

// manifest is one of `kinds` for one of `places`.
func manifest(t *testing.T, kind, place string, policy document) string {
	t.Helper()
	text, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	selects := map[string]string{
		"inbound":  "selector: {matchLabels: {app: reviews}}",
		"outbound": "selector: {matchLabels: {app: productpage}}",
		"gateway":  "selector: {matchLabels: {istio: ingressgateway}}",
		"waypoint": "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]",
	}[place]
	mode := map[string]string{"inbound": "SERVER", "waypoint": "SERVER"}[place]
	if mode == "" {
		mode = "CLIENT"
	}
	phase := map[string]string{"inbound": "phase: AUTHN"}[place]
	replaced := strings.NewReplacer(
		"SELECTS", selects, "MODE", mode, "PHASE", phase, "POLICY", string(text), "NAME", "graygate-"+place,
		"TEXT", "'"+strings.ReplaceAll(string(text), "'", "''")+"'",
		"WORKLOAD", strings.ReplaceAll(selects, "selector: {matchLabels:", "workloadSelector: {labels:"),
		"LISTENER", map[string]string{"waypoint": "name: main_internal, "}[place],
		"CONTEXT", map[string]string{
			"inbound": "SIDECAR_INBOUND", "outbound": "SIDECAR_OUTBOUND", "gateway": "GATEWAY", "waypoint": "SIDECAR_INBOUND",
		}[place],
	)
	return replaced.Replace(map[string]string{
		"wasmplugin":       wasmPlugin,
		"trafficextension": trafficExtension,
		"envoyfilter":      envoyFilter,
		"envoyfilter-ecds": envoyFilterECDS,
	}[kind])
}

const wasmPlugin = `
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: NAME, namespace: shop}
spec:
  SELECTS
  url: file:///etc/istio/extensions/graygate.wasm
  failStrategy: FAIL_OPEN
  PHASE
  match: [{mode: MODE}]
  pluginConfig: POLICY
`

const trafficExtension = `
apiVersion: extensions.istio.io/v1alpha1
kind: TrafficExtension
metadata: {name: NAME, namespace: shop}
spec:
  SELECTS
  PHASE
  match: [{mode: MODE}]
  wasm:
    url: file:///etc/istio/extensions/graygate.wasm
    failStrategy: FAIL_OPEN
    pluginConfig: POLICY
`

const envoyFilter = `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: NAME, namespace: shop}
spec:
  WORKLOAD
  priority: 10
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: CONTEXT
      listener: {LISTENERfilterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_FIRST
      value:
        name: graygate
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
          config:
            name: graygate
            failure_policy: FAIL_OPEN
            configuration:
              "@type": type.googleapis.com/google.protobuf.StringValue
              value: TEXT
            vm_config:
              vm_id: graygate
              runtime: envoy.wasm.runtime.v8
              code: {local: {filename: /etc/istio/extensions/graygate.wasm}}
`

const envoyFilterECDS = `
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: NAME, namespace: shop}
spec:
  WORKLOAD
  priority: 10
  configPatches:
  - applyTo: EXTENSION_CONFIG
    patch:
      operation: ADD
      value:
        name: NAME-ecds
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
          config:
            name: graygate
            failure_policy: FAIL_OPEN
            configuration:
              "@type": type.googleapis.com/google.protobuf.StringValue
              value: TEXT
            vm_config:
              vm_id: graygate
              runtime: envoy.wasm.runtime.v8
              code: {local: {filename: /etc/istio/extensions/graygate.wasm}}
  - applyTo: HTTP_FILTER
    match:
      context: CONTEXT
      listener: {LISTENERfilterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_FIRST
      value:
        name: NAME-ecds
        config_discovery:
          config_source: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}
          type_urls:
          - type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
          - type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
`
