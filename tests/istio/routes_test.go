package istio

import (
	"maps"
	"slices"
	"testing"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"istio.io/istio/pilot/pkg/model"
)

const (
	v1Cluster = "outbound|9080|v1|reviews.shop.svc.cluster.local"
	v2Cluster = "outbound|9080|v2|reviews.shop.svc.cluster.local"
	reviews   = "reviews.shop.svc.cluster.local:9080"
)

func (c *controlPlane) clusters(proxy *model.Proxy) []string {
	var names []string
	for _, one := range c.Clusters(proxy) {
		names = append(names, one.GetName())
	}
	return names
}

// hosts are the virtual hosts of a proxy by name, those of inline route tables as well.
func (c *controlPlane) hosts(proxy *model.Proxy) map[string]*route.VirtualHost {
	c.t.Helper()
	tables := c.Routes(proxy)
	for _, one := range c.Listeners(proxy) {
		for _, filters := range one.GetFilterChains() {
			for _, filter := range filters.GetFilters() {
				var manager hcm.HttpConnectionManager
				if filter.GetTypedConfig().UnmarshalTo(&manager) == nil && manager.GetRouteConfig() != nil {
					tables = append(tables, manager.GetRouteConfig())
				}
			}
		}
	}
	found := map[string]*route.VirtualHost{}
	for _, table := range tables {
		for _, host := range table.GetVirtualHosts() {
			found[table.GetName()+"/"+host.GetName()] = host
		}
	}
	return found
}

func (c *controlPlane) host(proxy *model.Proxy, name string) *route.VirtualHost {
	c.t.Helper()
	all := c.hosts(proxy)
	host := all[name]
	if host == nil {
		c.t.Fatalf("%s is none of the virtual hosts: %q", name, slices.Sorted(maps.Keys(all)))
	}
	return host
}

func TestSubsetsAreTheClustersThatPoliciesName(t *testing.T) {
	w := ordinary()
	w.Waypoint = true
	c := start(t, w, publicGateway, built(t, "base/steering/subsets"))
	for place, proxy := range map[string]*model.Proxy{
		"outbound": c.productpage(), "gateway": c.gateway(), "waypoint": c.waypoint(),
	} {
		names := c.clusters(proxy)
		upstreams, _ := shipped(t, place)["upstreams"].(map[string]any)
		for name, upstream := range upstreams {
			wanted := upstream.(map[string]any)["cluster"].(string)
			if !slices.Contains(names, wanted) {
				t.Errorf("%s: policies/%s.yaml has the cluster %q, which is none of %q", name, place, wanted, names)
			}
		}
		if len(upstreams) == 0 {
			t.Errorf("policies/%s.yaml has no upstreams", place)
		}
	}
}

// A filter's own request has no destination but the cluster's, and Istio's cluster for the app has none.
func TestChecksOfTheAppWantAClusterOfTheirOwn(t *testing.T) {
	c := start(t, ordinary(), built(t, "base/callout"))
	kinds := map[string]cluster.Cluster_DiscoveryType{}
	for _, one := range c.Clusters(c.reviews()) {
		kinds[one.GetName()] = one.GetType()
	}
	if kind, ok := kinds["inbound|9080||"]; !ok || kind != cluster.Cluster_ORIGINAL_DST {
		t.Errorf("inbound|9080|| is %v", kind)
	}
	if kind, ok := kinds["graygate-app"]; !ok || kind != cluster.Cluster_STATIC {
		t.Errorf("graygate-app is %v, there: %v", kind, ok)
	}
	if slices.Contains(c.clusters(c.productpage()), "graygate-app") {
		t.Error("another workload has graygate-app, too")
	}
}

// steered asserts the routes of the shipped VirtualServices: v2 by the header, v1 without.
func steered(t *testing.T, host *route.VirtualHost, v1, v2 string) {
	t.Helper()
	routes := host.GetRoutes()
	if len(routes) != 2 {
		t.Fatalf("%s has %d routes, not 2", host.GetName(), len(routes))
	}
	headers := routes[0].GetMatch().GetHeaders()
	if len(headers) != 1 || headers[0].GetName() != "x-gray-version" || headers[0].GetStringMatch().GetExact() != "v2" {
		t.Errorf("the first route goes by %v", headers)
	}
	if got := routes[0].GetRoute().GetCluster(); got != v2 {
		t.Errorf("with the header to %q, not %q", got, v2)
	}
	if got := routes[1].GetRoute().GetCluster(); got != v1 || len(routes[1].GetMatch().GetHeaders()) > 0 {
		t.Errorf("without it to %q, not %q", got, v1)
	}
}

func TestAVirtualServiceRoutesByTheHeaderOfTheVersion(t *testing.T) {
	t.Run("sidecar", func(t *testing.T) {
		c := start(t, ordinary(), built(t, "base/steering/header"))
		steered(t, c.host(c.productpage(), "9080/"+reviews), v1Cluster, v2Cluster)
	})
	t.Run("gateway", func(t *testing.T) {
		c := start(t, ordinary(), built(t, "base/steering/gateway"))
		steered(t, c.host(c.gateway(), "http.80/reviews.example.com:80"), v1Cluster, v2Cluster)
	})
	t.Run("waypoint", func(t *testing.T) {
		w := ordinary()
		w.Waypoint = true
		c := start(t, w, built(t, "base/steering/header"))
		steered(t, c.host(c.waypoint(), "inbound-vip|9080|http|reviews.shop.svc.cluster.local/inbound|http|9080"),
			"inbound-vip|9080|http/v1|reviews.shop.svc.cluster.local",
			"inbound-vip|9080|http/v2|reviews.shop.svc.cluster.local")
	})
}

// changed are the virtual hosts that a manifest makes other than they are without it.
func changed(t *testing.T, base, whole *controlPlane) []string {
	t.Helper()
	before, after := base.hosts(base.productpage()), whole.hosts(whole.productpage())
	if len(before) != len(after) {
		t.Errorf("there are %d virtual hosts, not %d", len(after), len(before))
	}
	var names []string
	for name, host := range after {
		if !proto.Equal(host, before[name]) {
			names = append(names, name)
		}
	}
	return names
}

// without is a directory's manifests less those of some kinds.
func without(t *testing.T, directory string, kinds ...string) string {
	t.Helper()
	return joined(t, slices.DeleteFunc(documents(t, built(t, directory)), func(one document) bool {
		return slices.Contains(kinds, one.kind().Kind)
	}))
}

// followed asserts a first route to whatever cluster the header names.
func followed(t *testing.T, host *route.VirtualHost) {
	t.Helper()
	first := host.GetRoutes()[0]
	headers := first.GetMatch().GetHeaders()
	if len(headers) != 1 || headers[0].GetName() != "x-gray-cluster" || !headers[0].GetPresentMatch() {
		t.Errorf("the first route goes by %v", headers)
	}
	if got := first.GetRoute().GetClusterHeader(); got != "x-gray-cluster" {
		t.Errorf("it leads where %q says", got)
	}
}

// numbered asserts a first route by weight, where the number in the header is the choice.
func numbered(t *testing.T, host *route.VirtualHost) {
	t.Helper()
	weights := host.GetRoutes()[0].GetRoute().GetWeightedClusters()
	if got := weights.GetHeaderName(); got != "x-gray-random" {
		t.Errorf("the header is %q", got)
	}
	got := map[string]uint32{}
	for _, one := range weights.GetClusters() {
		got[one.GetName()] = one.GetWeight().GetValue()
	}
	if !maps.Equal(got, map[string]uint32{v1Cluster: 90, v2Cluster: 10}) {
		t.Errorf("the weights are %v", got)
	}
}

// An EnvoyFilter on routes is for one virtual host: all others stay as they are.
func TestAnEnvoyFilterOnRoutesChangesOneHostAlone(t *testing.T) {
	for directory, as := range map[string]func(*testing.T, *route.VirtualHost){
		"cluster-header": followed, "random-value-header": numbered,
	} {
		t.Run(directory, func(t *testing.T) {
			directory := "base/steering/" + directory
			before := start(t, ordinary(), without(t, directory, "EnvoyFilter"))
			after := start(t, ordinary(), built(t, directory))
			as(t, after.host(after.productpage(), "9080/"+reviews))
			if got := changed(t, before, after); !slices.Equal(got, []string{"9080/" + reviews}) {
				t.Errorf("changed are %q", got)
			}
		})
	}
}
