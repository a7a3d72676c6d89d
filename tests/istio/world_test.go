package istio

import (
	"bytes"
	_ "embed"
	"testing"
	"text/template"
)

//go:embed testdata/world.yaml
var worldText string

var worldTemplate = template.Must(template.New("world.yaml").Parse(worldText))

// world is what testdata/world.yaml leaves open.
type world struct {
	// Where the two versions of `reviews` listen. With a real Envoy these are servers of the test.
	V1, V2 endpoint
	// Payments is another service in the namespace, if it has an address.
	Payments endpoint
	// Waypoint puts `reviews` behind a waypoint of ambient mode.
	Waypoint bool
}

type endpoint struct {
	IP   string
	Port int
}

// ordinary is a world in which nothing has to answer.
func ordinary() world {
	return world{V1: endpoint{"10.1.0.1", 9080}, V2: endpoint{"10.1.0.2", 9080}}
}

func (w world) text(t *testing.T) string {
	t.Helper()
	var text bytes.Buffer
	if err := worldTemplate.Execute(&text, w); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// subsets are the two versions, as callers name them.
const subsets = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews.shop.svc.cluster.local
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
`

// publicGateway is what an ingress gateway has to have before it listens at all.
const publicGateway = `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ["*"]
`

// policies that put the filters of Istio's own in front of requests to `reviews`.
const authentication = `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: reviews, namespace: shop}
spec:
  SELECTS
  jwtRules: [{issuer: issuer, jwks: '{"keys":[]}'}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: shop}
spec:
  SELECTS
  action: ALLOW
  rules: [{when: [{key: "request.headers[x-user-id]", notValues: [nobody]}]}]
`
