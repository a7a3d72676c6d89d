package istio

import (
	"maps"
	"slices"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
)

// What is true of Istio and stands in no manifest's own words: facts that the manifests, the tool and the documents
// rest on. Where a release of Istio changes one, the test of that name fails.

// where are the chains of a proxy in which the filter stands, and how often in each.
func (c *controlPlane) where(proxy *model.Proxy) map[string]int {
	c.t.Helper()
	found := map[string]int{}
	http, _ := c.chains(proxy)
	for _, one := range http {
		if len(one.plugins) > 0 {
			found[one.listener+"/"+one.name] = len(one.plugins)
		}
	}
	return found
}

func wants(t *testing.T, got map[string]int, places ...string) {
	t.Helper()
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, places) {
		t.Errorf("it stands in %q, not %q", names, places)
	}
}

// edited is a manifest with one piece of its text replaced, which must be there.
func edited(t *testing.T, text, old, new string) string {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("there is no %q in\n%s", old, text)
	}
	return strings.ReplaceAll(text, old, new)
}

func TestAPortIsThePodsInboundAndTheServicesOutbound(t *testing.T) {
	for _, kind := range []string{"wasmplugin", "trafficextension"} {
		t.Run(kind, func(t *testing.T) {
			of := func(place, port string) *controlPlane {
				text, err := render(t, kind, place, parsed(t, placed), append(scoped("workload", place), "--port", port)...)
				if err != nil {
					t.Fatal(err)
				}
				return start(t, ordinary(), text)
			}
			c := of("inbound", "9092")
			wants(t, c.where(c.reviews()), "virtualInbound/0.0.0.0_9092")
			c = of("inbound", "80")
			wants(t, c.where(c.reviews()))
			c = of("outbound", "80")
			wants(t, c.where(c.productpage()), "0.0.0.0_80/")
			c = of("outbound", "9092")
			wants(t, c.where(c.productpage()))
		})
	}
}

func TestAtAWaypointNoPortMatches(t *testing.T) {
	for _, kind := range []string{"wasmplugin", "trafficextension"} {
		for _, port := range []string{"9080", "15008"} {
			t.Run(kind+"/"+port, func(t *testing.T) {
				text := manifest(t, kind, "waypoint", parsed(t, placed))
				w := ordinary()
				w.Waypoint = true
				c := start(t, w, edited(t, text, "- mode: SERVER", "- mode: SERVER\n    ports: [{number: "+port+"}]"))
				wants(t, c.where(c.waypoint()))
			})
		}
	}
}

// A selector finds no waypoint, not even that of the whole mesh.
func TestNoWaypointIsReachedWithoutTargets(t *testing.T) {
	for _, kind := range []string{"wasmplugin", "trafficextension", "envoyfilter"} {
		for _, scope := range []string{"namespace", "mesh"} {
			t.Run(kind+"/"+scope, func(t *testing.T) {
				text, err := render(t, kind, "inbound", parsed(t, placed), scoped(scope, "inbound")...)
				if err != nil {
					t.Fatal(err)
				}
				w := ordinary()
				w.Waypoint = true
				c := start(t, w, text)
				wants(t, c.where(c.waypoint()))
				if len(c.where(c.reviews())) == 0 {
					t.Error("nor is a sidecar")
				}
			})
		}
	}
}

func TestAnEnvoyFilterFindsAWaypointByInboundAndItsListenersName(t *testing.T) {
	text := manifest(t, "envoyfilter", "waypoint", parsed(t, placed))
	requests := []string{
		"main_internal/direct-http",
		"main_internal/inbound-vip|80|http|reviews.shop.svc.cluster.local",
		"main_internal/inbound-vip|9080|http|reviews.shop.svc.cluster.local",
		"main_internal/inbound-vip|9091|http|reviews.shop.svc.cluster.local",
	}
	w := ordinary()
	w.Waypoint = true
	c := start(t, w, text)
	wants(t, c.where(c.waypoint()), requests...)

	t.Run("without the name it stands before the tunnels' end, too", func(t *testing.T) {
		c := start(t, w, edited(t, text, "name: main_internal\n", "\n"))
		wants(t, c.where(c.waypoint()), append([]string{"connect_terminate/default"}, requests...)...)
	})
	t.Run("the context WAYPOINT is taken, and finds nothing", func(t *testing.T) {
		c := start(t, w, edited(t, text, "SIDECAR_INBOUND", "WAYPOINT"))
		wants(t, c.where(c.waypoint()))
	})
}

// Envoy would run both, one after the other.
func TestAWasmPluginAndATrafficExtensionStandTwice(t *testing.T) {
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			w := ordinary()
			w.Waypoint = place == "waypoint"
			c := start(t, w, publicGateway, manifest(t, "wasmplugin", place, parsed(t, placed)),
				manifest(t, "trafficextension", place, parsed(t, placed)))
			found := c.where(c.proxies(w)[workloads[place]])
			for name, times := range found {
				if times != 2 {
					t.Errorf("%s: %d times, not 2", name, times)
				}
			}
			if len(found) == 0 {
				t.Error("it stands nowhere")
			}
		})
	}
}

// The names are Istio's own, and change with its releases: nothing may go by them.
func TestTheFiltersNamesAreOfTheTrafficExtensionThatIstioMakesOfEither(t *testing.T) {
	for kind, suffix := range map[string]string{"wasmplugin": "~istio-translated-wasmplugin", "trafficextension": ""} {
		t.Run(kind, func(t *testing.T) {
			c := start(t, ordinary(), manifest(t, kind, "inbound", parsed(t, placed)))
			http, _ := c.chains(c.reviews())
			for _, one := range http {
				for _, mine := range one.plugins {
					name := "shop.graygate-placed-inbound" + suffix
					if mine.filterName != "extensions.istio.io/trafficextension/"+name {
						t.Errorf("the filter is %q", mine.filterName)
					}
					if mine.config.GetName() != name || mine.config.GetRootId() != "graygate" {
						t.Errorf("the plugin is %q, its root %q", mine.config.GetName(), mine.config.GetRootId())
					}
					// Istio's control plane takes a file by itself; what is from elsewhere is the agent's to fetch.
					if file := mine.config.GetVmConfig().GetCode().GetLocal().GetFilename(); file != moduleFile {
						t.Errorf("the module is %q", file)
					}
					if id := mine.config.GetVmConfig().GetVmId(); id != "" {
						t.Errorf("the VM is %q", id)
					}
				}
			}
			if len(c.where(c.reviews())) == 0 {
				t.Error("it stands nowhere")
			}
		})
	}
}

// With no phase it stands behind those who ask who is there: a probe without a token would not reach it.
func TestWithoutAPhaseItStandsAfterAuthorization(t *testing.T) {
	text := edited(t, manifest(t, "wasmplugin", "inbound", parsed(t, placed)), "phase: AUTHN", "phase: UNSPECIFIED_PHASE")
	c := start(t, ordinary(), strings.ReplaceAll(authentication, "SELECTS", selected["inbound"]), text)
	http, _ := c.chains(c.reviews())
	for _, one := range http {
		if one.direction != core.TrafficDirection_INBOUND {
			continue
		}
		if at := slices.Index(one.http, ours); slices.Index(one.http, rbac) != at-1 {
			t.Errorf("it is not right after %s: %v", rbac, one)
		}
	}
}

// asked is an authorizer of somebody else's, who is asked before all else.
const asked = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: asked, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  action: CUSTOM
  provider: {name: authorizer}
  rules: [{}]
`

func TestAnAuthorizerOfSomebodyElsesIsAskedBeforeAPluginAndAfterAnEnvoyFilter(t *testing.T) {
	settings := mesh.DefaultMeshConfig()
	settings.ExtensionProviders = append(settings.ExtensionProviders, &meshconfig.MeshConfig_ExtensionProvider{
		Name: "authorizer",
		Provider: &meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp{
			EnvoyExtAuthzHttp: &meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider{
				Service: "productpage.shop.svc.cluster.local", Port: 9080,
			},
		},
	})
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			c := startWith(t, ordinary(), xds.FakeOptions{MeshConfig: settings}, asked,
				manifest(t, kind, "inbound", parsed(t, placed)))
			http, _ := c.chains(c.reviews())
			for _, one := range http {
				if one.direction != core.TrafficDirection_INBOUND {
					continue
				}
				at := slices.Index(one.http, "envoy.filters.http.ext_authz")
				before := at < slices.Index(one.http, ours)
				if at < 0 || before == strings.HasPrefix(kind, "envoyfilter") {
					t.Errorf("the authorizer is asked before it: %v: %v", before, one)
				}
			}
		})
	}
}

// Inbound there is a chain for requests to any other port. Outbound, what goes to a port of no service is bytes.
func TestWhatGoesToAPortOfNoServiceIsSeenInboundAlone(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			c := start(t, ordinary(), manifest(t, kind, "inbound", parsed(t, placed)),
				manifest(t, kind, "outbound", parsed(t, placed)))
			if c.where(c.reviews())["virtualInbound/virtualInbound-catchall-http"] != 1 {
				t.Errorf("inbound it stands in %v", c.where(c.reviews()))
			}
			http, tcp := c.chains(c.productpage())
			isCatchAll := func(one chain) bool { return one.listener == "virtualOutbound" }
			if slices.ContainsFunc(http, isCatchAll) || !slices.ContainsFunc(tcp, isCatchAll) {
				t.Error("outbound there is a chain of requests for any other port")
			}
		})
	}
}
