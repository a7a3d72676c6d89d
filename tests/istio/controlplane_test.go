package istio

import (
	"net"
	"testing"

	"istio.io/istio/pilot/pkg/features"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/test"
)

// controlPlane is Istio's own, in this process, over a world and the manifests of one test. Some of what it does is
// switched by global variables, so no test of this package may run in parallel with another.
type controlPlane struct {
	*xds.FakeDiscoveryServer
	t *testing.T
}

func start(t *testing.T, w world, texts ...string) *controlPlane {
	t.Helper()
	return startWith(t, w, xds.FakeOptions{}, texts...)
}

func startWith(t *testing.T, w world, options xds.FakeOptions, texts ...string) *controlPlane {
	t.Helper()
	if w.Waypoint {
		test.SetForTest(t, &features.EnableAmbient, true)
		test.SetForTest(t, &features.EnableAmbientWaypoints, true)
	}
	istio, kubernetes := divide(t, documents(t, append([]string{w.text(t)}, texts...)...))
	options.ConfigString = joined(t, istio)
	options.KubernetesObjectString = joined(t, kubernetes)
	if options.MeshConfig == nil {
		options.MeshConfig = mesh.DefaultMeshConfig()
	}
	return &controlPlane{xds.NewFakeDiscoveryServer(t, options), t}
}

// listen gives the control plane a port of its own, for a real Envoy to come to.
func listen() (net.Listener, error) {
	return net.Listen("tcp", "127.0.0.1:0")
}

// istioVersion is what the proxies say they are; the older of the two that the tests run on.
const istioVersion = "1.30.0"

func (c *controlPlane) proxy(kind model.NodeType, namespace, name, ip string, labels map[string]string) *model.Proxy {
	return c.SetupProxy(&model.Proxy{
		Type:            kind,
		ID:              name + "." + namespace,
		ConfigNamespace: namespace,
		Labels:          labels,
		IPAddresses:     []string{ip},
		Metadata: &model.NodeMetadata{
			Namespace: namespace, Labels: labels, IstioVersion: istioVersion, ClusterID: "Kubernetes",
		},
	})
}

var firstVersion = map[string]string{"app": "reviews", "version": "v1"}

func (c *controlPlane) reviews() *model.Proxy {
	return c.proxy(model.SidecarProxy, "shop", "reviews-v1", "10.1.0.1", firstVersion)
}

func (c *controlPlane) productpage() *model.Proxy {
	return c.proxy(model.SidecarProxy, "shop", "productpage", "10.1.0.3", map[string]string{"app": "productpage"})
}

// stranger has the labels of `reviews`, in another namespace.
func (c *controlPlane) stranger() *model.Proxy {
	return c.proxy(model.SidecarProxy, "other", "reviews", "10.1.0.4", firstVersion)
}

func (c *controlPlane) gateway() *model.Proxy {
	return c.proxy(model.Router, "shop", "ingress", "10.1.0.5", map[string]string{"istio": "ingressgateway"})
}

func (c *controlPlane) waypoint() *model.Proxy {
	return c.proxy(model.Waypoint, "shop", "waypoint", "10.1.0.6", map[string]string{
		"gateway.networking.k8s.io/gateway-name": "waypoint",
		"gateway.istio.io/managed":               "istio.io-mesh-controller",
	})
}
