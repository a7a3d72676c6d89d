package istio

import (
	"maps"
	"slices"
	"strings"
	"testing"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

const waypointReviews = "inbound-vip|9080|http|reviews.shop.svc.cluster.local/inbound|http|9080"

// steeredBy is a shipped policy's release and nothing else, that steers by this.
func steeredBy(t *testing.T, place, kind, header string) document {
	t.Helper()
	policy := shipped(t, place)
	delete(policy, "gates")
	release := policy["releases"].([]any)[0].(map[string]any)
	release["steer"] = map[string]any{kind: header}
	delete(release, "schedule")
	delete(release, "rollback")
	delete(release, "startsAt")
	delete(release, "trustIncoming")
	return policy
}

// renderedRoutes are the routes to `reviews` in a proxy of the place, with all that the tool prints for the policy.
func renderedRoutes(t *testing.T, place string, policy document, more ...string) []*route.Route {
	t.Helper()
	text, err := render(t, "envoyfilter", place, policy, append(scoped("workload", place), "--routes")...)
	if err != nil {
		t.Fatal(err)
	}
	w := ordinary()
	w.Waypoint = place == "waypoint"
	c := start(t, w, append(more, text)...)
	if w.Waypoint {
		return c.host(c.waypoint(), waypointReviews).GetRoutes()
	}
	return c.host(c.productpage(), "9080/"+reviews).GetRoutes()
}

func TestRenderedRoutesGoByTheHeaderOfTheVersion(t *testing.T) {
	for place, clusters := range map[string][2]string{
		"outbound": {v1Cluster, v2Cluster},
		"waypoint": {
			"inbound-vip|9080|http/v1|reviews.shop.svc.cluster.local",
			"inbound-vip|9080|http/v2|reviews.shop.svc.cluster.local",
		},
	} {
		t.Run(place, func(t *testing.T) {
			routes := renderedRoutes(t, place, steeredBy(t, place, "header", "x-gray-version"))
			steered(t, &route.VirtualHost{Name: place, Routes: routes}, clusters[0], clusters[1])
		})
	}
}

func TestARenderedRouteGoesByTheClustersHeaderAndIsFirst(t *testing.T) {
	for _, place := range []string{"outbound", "waypoint"} {
		t.Run(place, func(t *testing.T) {
			routes := renderedRoutes(t, place, steeredBy(t, place, "clusterHeader", "x-gray-cluster"))
			if got := routes[0].GetRoute().GetClusterHeader(); got != "x-gray-cluster" {
				t.Errorf("the first route leads where %q says", got)
			}
			headers := routes[0].GetMatch().GetHeaders()
			if len(headers) != 1 || headers[0].GetName() != "x-gray-cluster" || !headers[0].GetPresentMatch() {
				t.Errorf("the first route goes by %v", headers)
			}
			if len(routes) != 2 {
				t.Errorf("there are %d routes, not 2", len(routes))
			}
		})
	}
}

// Hence the tool prints no weights for a waypoint, and says of the route by a cluster's name when it is there.
func TestNoEnvoyFilterChangesWhatAVirtualServiceMakesOfAWaypointsRoutes(t *testing.T) {
	const service = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  http: [{name: all, route: [{destination: {host: reviews.shop.svc.cluster.local}}]}]
`
	policy := steeredBy(t, "waypoint", "clusterHeader", "x-gray-cluster")
	routes := renderedRoutes(t, "waypoint", policy, service)
	if len(routes) != 1 || routes[0].GetName() != "all" {
		t.Errorf("the routes are %v", routes)
	}
}

func TestRenderedWeightsGoByTheNumberInTheHeader(t *testing.T) {
	policy := steeredBy(t, "outbound", "randomValueHeader", "x-gray-random")
	change(policy, func(node map[string]any) {
		switch node["name"] {
		case "v1":
			node["weight"] = 90
		case "v2":
			node["weight"] = 10
		}
	})
	routes := renderedRoutes(t, "outbound", policy)
	weights := routes[0].GetRoute().GetWeightedClusters()
	if got := weights.GetHeaderName(); got != "x-gray-random" || len(routes) != 1 {
		t.Errorf("the header is %q, in %d routes", got, len(routes))
	}
	got := map[string]uint32{}
	var order []string
	for _, one := range weights.GetClusters() {
		got[one.GetName()] = one.GetWeight().GetValue()
		order = append(order, one.GetName())
	}
	if !maps.Equal(got, map[string]uint32{v1Cluster: 90, v2Cluster: 10}) || !slices.Equal(order, []string{v1Cluster, v2Cluster}) {
		t.Errorf("the weights are %v, in the order %s", got, strings.Join(order, ", "))
	}
}
