package istio

import (
	"fmt"
	"testing"
)

// What stands in these tests for the redirection of a Pod's traffic: listeners at an address of the proxy's own, with
// the ports that they have in a Pod.

// egress is where a caller's sidecar takes what the caller sends.
func egress(address string) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: productpage, namespace: shop}
spec:
  workloadSelector: {labels: {app: productpage}}
  egress:
  - port: {number: 9080, protocol: HTTP, name: http}
    bind: %s
    captureMode: NONE
    hosts: ["./*"]
`, address)
}

// ingress is where an app's sidecar takes what is for the app, and where the app is.
func ingress(address string, behind *app) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: reviews, namespace: shop}
spec:
  workloadSelector: {labels: {app: reviews}}
  ingress:
  - port: {number: 9080, protocol: HTTP, name: http}
    bind: %s
    captureMode: NONE
    defaultEndpoint: 127.0.0.1:%d
  egress:
  - hosts: ["~/*"]
`, address, behind.Port)
}

const gatewayPort = 8080

// gatewayAt gives the gateways in a text an address, and a port that any user may listen at.
func gatewayAt(t *testing.T, address, text string) string {
	t.Helper()
	all := documents(t, text)
	for _, one := range all {
		change(one, func(node map[string]any) {
			port, isServer := node["port"].(map[string]any)
			if isServer && one.kind().Kind == "Gateway" {
				node["bind"], port["number"] = address, gatewayPort
			}
		})
	}
	return joined(t, all)
}

// callout is the project's cluster for checks of an app in its own Pod, with the app where it is here.
func callout(t *testing.T, behind *app) string {
	t.Helper()
	all := documents(t, built(t, "base/callout"))
	for _, one := range all {
		change(one, func(node map[string]any) {
			if _, ok := node["port_value"]; ok {
				node["port_value"] = behind.Port
			}
		})
	}
	return joined(t, all)
}
