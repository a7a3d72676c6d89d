package image

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	extensions "istio.io/api/extensions/v1alpha1"
	meshconfig "istio.io/api/mesh/v1alpha1"

	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	meshdefaults "istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/config/schema/gvk"
	"istio.io/istio/pkg/envoy"
	istioagent "istio.io/istio/pkg/istio-agent"
	"istio.io/istio/pkg/security"
	"istio.io/istio/pkg/util/sets"
	"istio.io/istio/pkg/wasm"
	"istio.io/istio/security/pkg/nodeagent/sds"

	"graygate/tests/istio/wait"
)

// Runs a test again in a mount namespace of its own, where the agent's directory for modules, whose path is fixed, is
// an empty one that goes with it. Whether this is the run in there.
func inAgentsPlace(t *testing.T) bool {
	t.Helper()
	const mark = "GRAYGATE_TEST_IN_NAMESPACE"
	if os.Getenv(mark) != "" {
		// However the test outside ends, this one and its Envoy end with it.
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		return true
	}
	enter := []string{"--mount"}
	if os.Getuid() != 0 {
		enter = append(enter, "--map-root-user")
	}
	const place = "mount -t tmpfs none /var/lib && mkdir -p /var/lib/istio/data && "
	if said, err := exec.Command("unshare", append(enter, "sh", "-c", place+"true")...).CombinedOutput(); err != nil {
		t.Skipf("no mount namespace to be had: %v: %s", err, said)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	again := append(enter, "sh", "-c", place+`exec "$0" "$@"`, self, "-test.run", "^"+t.Name()+"$", "-test.v")
	command := exec.Command("unshare", again...)
	command.Env = append(os.Environ(), mark+"=1")
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if said, err := command.CombinedOutput(); err != nil || !bytes.Contains(said, []byte("--- PASS: "+t.Name())) {
		t.Errorf("%v\n%s", err, said)
	}
	return false
}

// Istiod's end of its connections, which can be cut as istiod does by itself when one is half an hour old.
type connections struct {
	net.Listener
	mutex sync.Mutex
	open  []net.Conn
}

func (c *connections) Accept() (net.Conn, error) {
	accepted, err := c.Listener.Accept()
	if err == nil {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.open = append(c.open, accepted)
	}
	return accepted, err
}

func (c *connections) cut() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, each := range c.open {
		_ = each.Close()
	}
	c.open = nil
}

// Istio's agent, between istiod and Envoy. Its socket for Envoy.
func startAgent(t *testing.T, istiod string) string {
	t.Helper()
	// Where it makes its other sockets.
	t.Chdir(t.TempDir())
	config := meshdefaults.DefaultProxyConfig()
	config.DiscoveryAddress = istiod
	config.ControlPlaneAuthPolicy = meshconfig.AuthenticationPolicy_NONE
	socket := filepath.Join(t.TempDir(), "XDS")
	agent := istioagent.NewAgent(config, &istioagent.AgentOptions{
		XdsUdsPath:                 socket,
		WorkloadIdentitySocketFile: security.DefaultWorkloadIdentitySocketFile,
		WASMOptions: wasm.Options{
			InsecureRegistries: sets.New("*"), HTTPRequestMaxRetries: 2, HTTPRequestTimeout: 5 * time.Second,
		},
		SDSFactory: func(
			options *security.Options, secrets security.SecretManager, keys *meshconfig.PrivateKeyProvider,
		) istioagent.SDSService {
			return sds.NewServer(options, secrets, keys)
		},
	}, &security.Options{FileMountedCerts: true}, envoy.ProxyConfig{TestOnly: true})
	if _, err := agent.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(agent.Close)
	return socket
}

// mesh is Istio's control plane with one WasmPlugin.
type mesh struct {
	istiod *xds.FakeDiscoveryServer
	links  *connections
}

func startMesh(t *testing.T, plugin wasmPlugin) *mesh {
	t.Helper()
	links := &connections{}
	istiod := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{
		ConfigString: plugin.yaml(),
		ListenerBuilder: func() (net.Listener, error) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			links.Listener = listener
			return links, err
		},
	})
	return &mesh{istiod, links}
}

// apply changes the plugin, as `kubectl apply` does.
func (m *mesh) apply(t *testing.T, change func(*extensions.WasmPlugin)) {
	t.Helper()
	known := m.istiod.Store().Get(gvk.WasmPlugin, "graygate", "shop").DeepCopy()
	change(known.Spec.(*extensions.WasmPlugin))
	if _, err := m.istiod.Store().Update(known); err != nil {
		t.Fatal(err)
	}
}

// startProxy starts an agent and its Envoy, whose listener has the filter with this name.
func (m *mesh) startProxy(t *testing.T, binary, filter string) *proxy {
	t.Helper()
	socket := startAgent(t, m.links.Addr().String())
	listener, err := protojson.Marshal(listenerWith(t, filter, "0s", wasmType, rbacType))
	if err != nil {
		t.Fatal(err)
	}
	return startWith(t, binary, fmt.Sprintf(`{
		"node": {"id": "sidecar~127.0.0.1~reviews-1.shop~shop.svc.cluster.local", "cluster": "reviews.shop",
			"metadata": {"NAMESPACE": "shop", "CLUSTER_ID": "Kubernetes"}},
		"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
		"dynamic_resources": {"ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
			"grpc_services": [{"envoy_grpc": {"cluster_name": "agent"}}]}},
		"static_resources": {"listeners": [%s], "clusters": [%s]}}`,
		listener, http2Cluster("agent", fmt.Sprintf(`{"pipe": {"path": %q}}`, socket))))
}

// The whole way: a WasmPlugin, istiod, the agent, a registry, Envoy; and what brings the agent to ask the registry.
func TestFromAWasmPluginToARequest(t *testing.T) {
	if !inAgentsPlace(t) {
		return
	}
	image, digest := moduleImage(t, modulePath)
	registry := serveModules(t)
	plugin := wasmPlugin{url: registry.image("1.0.0"), sha256: digest, failStrategy: "FAIL_RELOAD", policy: livenessOnly}
	binary := envoyBinary(t)
	m := startMesh(t, plugin)
	links, istiod, apply := m.links, m.istiod, m.apply
	p := m.startProxy(t, binary, plugin.resource(t).Name)
	says := func(status int, body string) func() bool {
		return func() bool {
			have, text := p.get("/livez")
			return have == status && strings.HasPrefix(text, body)
		}
	}
	wait.Until(t, "LIVE", p.live)
	p.wants(t, "/livez", 403, denied)

	registry.push(t, image, "1.0.0")
	asked := registry.requests.Load()
	istiod.Discovery.ConfigUpdate(&model.PushRequest{Reason: model.NewReasonStats(model.ConfigUpdate)})
	// More than twice as long as the first wait before a second attempt within a fetch.
	time.Sleep(2500 * time.Millisecond)
	if more := registry.requests.Load() - asked; more != 0 {
		t.Errorf("asked %d times with no push of the filter", more)
	}
	p.wants(t, "/livez", 403, denied)

	links.cut()
	wait.Until(t, "the module, asked for when the proxy comes back to istiod", says(200, alive))

	registry.down()
	apply(t, func(plugin *extensions.WasmPlugin) {
		policy := map[string]any{"name": "other", "probes": map[string]any{"liveness": map[string]any{"path": "/livez"}}}
		plugin.PluginConfig, _ = structpb.NewStruct(policy)
	})
	wait.Until(t, "another policy, by the module in the cache", says(200, "policy other: liveness passed"))

	apply(t, func(plugin *extensions.WasmPlugin) { plugin.Sha256 = strings.Repeat("1", 64) })
	wait.Until(t, "nothing let through, as another module is not to be had", says(403, denied))

	apply(t, func(plugin *extensions.WasmPlugin) { plugin.Sha256 = digest })
	wait.Until(t, "the module in the cache", says(200, "policy other: liveness passed"))
}
