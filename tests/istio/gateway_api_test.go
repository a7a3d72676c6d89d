package istio

import (
	_ "embed"
	"testing"

	"istio.io/istio/pilot/pkg/model"
)

//go:embed testdata/gateway-api.yaml
var gatewayAPI string

func (c *controlPlane) edge() *model.Proxy {
	return c.proxy(model.Router, "shop", "edge-istio", "10.1.0.7", map[string]string{
		"gateway.networking.k8s.io/gateway-name": "edge",
	})
}

func TestAGatewayOfTheGatewayAPIIsFoundByItsName(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			text, err := render(t, kind, "gateway", parsed(t, placed), "--namespace", "shop", "--target", "Gateway/edge")
			if err != nil {
				t.Fatal(err)
			}
			c := start(t, ordinary(), publicGateway, gatewayAPI, text)
			wants(t, c.where(c.edge()), "0.0.0.0_80/")
			wants(t, c.where(c.gateway()))
			wants(t, c.where(c.productpage()))
		})
	}
}

func TestARouteOfTheGatewayAPIGoesByTheHeaderOfTheVersion(t *testing.T) {
	c := start(t, ordinary(), gatewayAPI)
	steered(t, c.host(c.edge(), "http.80/reviews.example.com:80"),
		"outbound|9080||reviews-v1.shop.svc.cluster.local", "outbound|9080||reviews-v2.shop.svc.cluster.local")
}
