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

// placed is a policy that may stand anywhere.
const placed = `
name: placed
onWrongPolicy: lastGood
upstreams: {reviews: {cluster: outbound|9080||reviews.shop.svc.cluster.local}}
gates: [{upstream: reviews, match: [{hosts: [reviews.shop]}]}]
`

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

// Filters of Istio's and Envoy's, in the order in which they stand.
const (
	metadata = "istio.metadata_exchange"
	jwt      = "envoy.filters.http.jwt_authn"
	rbac     = "envoy.filters.http.rbac"
	stats    = "envoy.filters.http.grpc_stats"
	cors     = "envoy.filters.http.cors"
	router   = "envoy.filters.http.router"
)

var workloads = map[string]string{
	"inbound": "reviews", "outbound": "productpage", "gateway": "gateway", "waypoint": "waypoint",
}

// stands says whether the filter is to stand in a chain with an HTTP connection manager. It is in each of its proxy
// and direction, so also in the one for ports that no service declares; what ends tunnels for a waypoint sees no
// request, and has none. To a WasmPlugin and a TrafficExtension a gateway is a client like any sidecar's app.
func stands(kind, scope, place, proxy string, in chain) bool {
	if scope == "workload" && proxy != workloads[place] || scope == "namespace" && proxy == "stranger" {
		return false
	}
	switch place {
	case "inbound":
		return proxy != "gateway" && in.direction == core.TrafficDirection_INBOUND
	case "outbound":
		isClient := proxy != "gateway" || !strings.HasPrefix(kind, "envoyfilter")
		return isClient && in.direction == core.TrafficDirection_OUTBOUND
	case "gateway":
		return proxy == "gateway"
	default:
		return proxy == "waypoint" && in.listener == "main_internal"
	}
}

// neighbours of the filter in a chain: those that must be before it and those that must be after it, if they are there.
func neighbours(kind, place string) (before, after []string) {
	switch {
	case strings.HasPrefix(kind, "envoyfilter") && place == "inbound":
		return nil, []string{metadata, jwt, rbac, stats, cors, router}
	case strings.HasPrefix(kind, "envoyfilter"):
		return []string{metadata, jwt, rbac, stats, cors}, []string{router}
	case place == "inbound":
		return []string{metadata}, []string{jwt, rbac, stats, cors, router}
	case place == "waypoint":
		return []string{jwt, rbac, stats, cors}, []string{router}
	default:
		return []string{metadata, jwt, rbac}, []string{stats, cors, router}
	}
}

// refused says whether the tool prints nothing for a scope: what it would print could not be held to that place.
func refused(kind, scope, place string) bool {
	return scope != "workload" && (place == "waypoint" || place == "gateway" && !strings.HasPrefix(kind, "envoyfilter"))
}

// What the tool prints for a release of Istio is for that release and all later ones. Mostly it is the same for both,
// and is then loaded once.
func TestTheFilterStandsOnceWhereItsManifestSaysAndNowhereElse(t *testing.T) {
	for _, kind := range kinds {
		for _, scope := range []string{"workload", "namespace", "mesh"} {
			for _, place := range places {
				t.Run(strings.Join([]string{kind, scope, place}, "/"), func(t *testing.T) {
					loaded := map[string]bool{}
					for _, release := range []string{"1.30", "1.31"} {
						text, err := render(t, kind, place, parsed(t, placed),
							append(scoped(scope, place), "--istio", release)...)
						if (err != nil) != refused(kind, scope, place) {
							t.Fatalf("for %s: %v", scope, err)
						}
						if err == nil && !loaded[text] {
							loaded[text] = true
							stood(t, kind, scope, place, parsed(t, placed), subsets, publicGateway, text)
						}
					}
				})
			}
		}
	}
}

// scoped are the options for one of the scopes. For the mesh, the namespace is the tool's own to know.
func scoped(scope, place string) []string {
	options := []string{"--scope", scope}
	if scope != "mesh" {
		options = append(options, "--namespace", "shop")
	}
	if scope == "workload" {
		options = append(options, selectors[place]...)
	}
	return options
}

// stood loads manifests together with Istio's own policies, and looks at every chain of every proxy.
func stood(t *testing.T, kind, scope, place string, policy document, texts ...string) {
	t.Helper()
	w := ordinary()
	w.Waypoint = place == "waypoint"
	c := start(t, w, append(texts, strings.ReplaceAll(authentication, "SELECTS", selected[place]))...)
	found, authenticated := 0, false
	for name, proxy := range c.proxies(w) {
		http, tcp := c.chains(proxy)
		for _, one := range http {
			if stands(kind, scope, place, name, one) {
				found++
				authenticated = authenticated || slices.Contains(one.http, jwt) && slices.Contains(one.http, rbac)
				c.placed(one, kind, place, policy)
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
	if place != "outbound" && !authenticated {
		t.Error("no chain has Istio's own policies, so the order says nothing")
	}
}

// placed asserts that the filter stands in a chain once, between its neighbours, and with its policy.
func (c *controlPlane) placed(in chain, kind, place string, policy document) {
	c.t.Helper()
	if len(in.plugins) != 1 {
		c.t.Errorf("it stands %d times, not once: %v", len(in.plugins), in)
		return
	}
	at := slices.Index(in.http, ours)
	before, after := neighbours(kind, place)
	for _, name := range before {
		if slices.Index(in.http, name) > at {
			c.t.Errorf("%s is not before it: %v", name, in)
		}
	}
	for _, name := range after {
		if i := slices.Index(in.http, name); 0 <= i && i < at {
			c.t.Errorf("%s is not after it: %v", name, in)
		}
	}
	same(c.t, in.plugins[0].policy(c.t), policy)
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
