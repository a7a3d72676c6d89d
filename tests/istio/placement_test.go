package istio

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"istio.io/istio/pilot/pkg/model"
)

// small is a policy that is told apart by its name.
func small(name string) document {
	return document{"name": name, "probes": map[string]any{"liveness": map[string]any{"path": "/livez"}}}
}

// proxies are all there are in a world, by the names of the tests.
func (c *controlPlane) proxies(w world) map[string]*model.Proxy {
	all := map[string]*model.Proxy{
		"reviews": c.reviews(), "productpage": c.productpage(), "stranger": c.stranger(), "gateway": c.gateway(),
	}
	if w.Waypoint {
		all["waypoint"] = c.waypoint()
	}
	return all
}

// selected is the workload that the manifests for a place are for, as Istio's own policies name it.
var selected = map[string]string{
	"inbound":  "selector: {matchLabels: {app: reviews}}",
	"outbound": "selector: {matchLabels: {app: productpage}}",
	"gateway":  "selector: {matchLabels: {istio: ingressgateway}}",
	"waypoint": "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]",
}

// stands says whether the filter is to stand in a chain with an HTTP connection manager. It is in each of its proxy
// and direction, so also in the one for ports that no service declares; what ends tunnels for a waypoint sees no
// request, and has none.
func stands(place, proxy string, in chain) bool {
	switch place {
	case "inbound":
		return proxy == "reviews" && in.direction == core.TrafficDirection_INBOUND
	case "outbound":
		return proxy == "productpage" && in.direction == core.TrafficDirection_OUTBOUND
	case "gateway":
		return proxy == "gateway"
	default:
		return proxy == "waypoint" && in.listener == "main_internal"
	}
}

// neighbours of the filter, where Istio's own policies stand as well: those before it and those after it.
func neighbours(kind, place string) (before, after []string) {
	const jwt, rbac, stats, router = "envoy.filters.http.jwt_authn", "envoy.filters.http.rbac",
		"envoy.filters.http.grpc_stats", "envoy.filters.http.router"
	switch {
	case strings.HasPrefix(kind, "envoyfilter"):
		return nil, []string{router}
	case place == "inbound":
		return []string{"istio.metadata_exchange"}, []string{jwt, rbac, router}
	case place == "outbound":
		return []string{"istio.metadata_exchange"}, []string{stats, router}
	case place == "gateway":
		return []string{jwt, rbac}, []string{stats, router}
	default:
		return []string{jwt, rbac, "envoy.filters.http.cors"}, []string{router}
	}
}

func TestTheFilterStandsOnceWhereItsManifestSaysAndNowhereElse(t *testing.T) {
	for _, kind := range kinds {
		for _, place := range places {
			t.Run(kind+"/"+place, func(t *testing.T) {
				w := ordinary()
				w.Waypoint = place == "waypoint"
				c := start(t, w, subsets, publicGateway,
					strings.ReplaceAll(authentication, "SELECTS", selected[place]), manifest(t, kind, place, small("placed")))
				found := 0
				for name, proxy := range c.proxies(w) {
					http, tcp := c.chains(proxy)
					for _, one := range http {
						if stands(place, name, one) {
							found++
							c.placed(one, kind, place)
						} else if len(one.plugins) > 0 {
							t.Errorf("%s: it stands where it must not: %v", name, one)
						}
					}
					for _, one := range tcp {
						if slices.ContainsFunc(one.network, func(name string) bool { return strings.Contains(name, ours) }) {
							t.Errorf("%s: it stands in a chain without HTTP: %v", name, one.network)
						}
					}
				}
				if found == 0 {
					t.Error("there is no chain for it to stand in")
				}
			})
		}
	}
}

// placed asserts that the filter stands in a chain once, between its neighbours, and with its policy.
func (c *controlPlane) placed(in chain, kind, place string) {
	c.t.Helper()
	if len(in.plugins) != 1 {
		c.t.Errorf("it stands %d times, not once: %v", len(in.plugins), in)
		return
	}
	at := slices.Index(in.http, ours)
	before, after := neighbours(kind, place)
	for _, name := range before {
		if i := slices.Index(in.http, name); i < 0 || i > at {
			c.t.Errorf("%s is not before it: %v", name, in)
		}
	}
	for _, name := range after {
		if slices.Index(in.http, name) < at {
			c.t.Errorf("%s is not after it: %v", name, in)
		}
	}
	if strings.HasPrefix(kind, "envoyfilter") && at != 0 {
		c.t.Errorf("it is not the first: %v", in)
	}
	same(c.t, in.plugins[0].policy(c.t), small("placed"))
}

// same asserts that a policy, as JSON, is the one that was written.
func same(t *testing.T, text string, want document) {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("the policy is no JSON: %v: %s", err, text)
	}
	written, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]any
	if err := json.Unmarshal(written, &expected); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, expected) {
		t.Errorf("the policy is %s, not %s", text, written)
	}
}
