package image

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"graygate/tests/istio/wait"
)

const (
	listenerType  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	extensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	wasmType      = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
	managerType   = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	rbacType      = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
)

// Where a proxy's configuration comes from, resource by resource, so that a test says what arrives and what does not.
type source struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	address string

	mutex    sync.Mutex
	version  int
	set      map[string][]*anypb.Any
	asked    map[string]bool
	changed  chan struct{}
	refusals map[string][]string
	taken    map[string]string
}

func startSource(t *testing.T) *source {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &source{
		address: listener.Addr().String(), set: map[string][]*anypb.Any{}, asked: map[string]bool{},
		changed: make(chan struct{}), refusals: map[string][]string{}, taken: map[string]string{},
	}
	server := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(server, s)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return s
}

func (s *source) send(t *testing.T, kind string, resource proto.Message) {
	t.Helper()
	packed, err := anypb.New(resource)
	if err != nil {
		t.Fatal(err)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.version++
	s.set[kind] = []*anypb.Any{packed}
	s.wake()
}

func (s *source) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Whether the proxy has asked for resources of this kind.
func (s *source) askedFor(kind string) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.asked[kind]
}

// Why the proxy has refused resources of this kind.
func (s *source) refused(kind string) []string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.refusals[kind]
}

// Whether the proxy has taken, or refused, what was sent last.
func (s *source) settled() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.taken["latest"] == fmt.Sprint(s.version)
}

func (s *source) StreamAggregatedResources(
	stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer,
) error {
	go func() {
		for {
			request, err := stream.Recv()
			if err != nil {
				return
			}
			s.mutex.Lock()
			s.asked[request.TypeUrl] = true
			if request.ErrorDetail != nil {
				s.refusals[request.TypeUrl] = append(s.refusals[request.TypeUrl], request.ErrorDetail.Message)
			}
			if request.ResponseNonce != "" {
				s.taken["latest"] = request.ResponseNonce
			}
			s.wake()
			s.mutex.Unlock()
		}
	}()
	sent := map[string]*anypb.Any{}
	for {
		s.mutex.Lock()
		changed, version := s.changed, fmt.Sprint(s.version)
		var responses []*discovery.DiscoveryResponse
		for kind, resources := range s.set {
			if s.asked[kind] && sent[kind] != resources[0] {
				sent[kind] = resources[0]
				responses = append(responses, &discovery.DiscoveryResponse{
					TypeUrl: kind, VersionInfo: version, Nonce: version, Resources: resources,
				})
			}
		}
		s.mutex.Unlock()
		for _, response := range responses {
			if err := stream.Send(response); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// A real Envoy, whose listener and whose filter come from a source.
type proxy struct {
	*source
	directory string
	process   *exec.Cmd
}

// From where the tests run, and so before a test goes elsewhere.
func envoyBinary(t *testing.T) string {
	t.Helper()
	binary := os.Getenv("ENVOY")
	if binary == "" {
		binary = "../../../.venv/bin/envoy"
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// A cluster of one address that speaks HTTP/2, as configurations come by.
func http2Cluster(name, address string) string {
	return fmt.Sprintf(`{
		"name": %[1]q, "type": "STATIC", "connect_timeout": "1s",
		"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
			"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"explicit_http_config": {"http2_protocol_options": {}}}},
		"load_assignment": {"cluster_name": %[1]q, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": %[2]s}}]}]}}`,
		name, address)
}

func startProxy(t *testing.T) *proxy {
	t.Helper()
	source := startSource(t)
	_, port, _ := net.SplitHostPort(source.address)
	p := startWith(t, envoyBinary(t), fmt.Sprintf(`{
		"node": {"id": "sidecar", "cluster": "shop"},
		"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
		"dynamic_resources": {
			"ads_config": {"api_type": "GRPC", "transport_api_version": "V3",
				"grpc_services": [{"envoy_grpc": {"cluster_name": "source"}}]},
			"lds_config": {"ads": {}, "resource_api_version": "V3"}},
		"static_resources": {"clusters": [%s]}}`,
		http2Cluster("source", `{"socket_address": {"address": "127.0.0.1", "port_value": `+port+`}}`)))
	p.source = source
	return p
}

func startWith(t *testing.T, binary, bootstrap string) *proxy {
	t.Helper()
	p := &proxy{directory: t.TempDir()}
	if err := os.WriteFile(filepath.Join(p.directory, "bootstrap.json"), []byte(bootstrap), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(p.directory, "envoy.log"))
	if err != nil {
		t.Fatal(err)
	}
	p.process = exec.Command(binary, "-c", "bootstrap.json", "--admin-address-path", "admin.address",
		"--concurrency", "2", "--disable-hot-restart", "--log-level", "warning", "--file-flush-interval-msec", "50",
		"--drain-time-s", "1", "--drain-strategy", "immediate")
	// Should this process end in a panic, which skips the cleanup, Envoy is to end with it.
	p.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.process.Dir, p.process.Stderr, p.process.Stdout = p.directory, log, log
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.process.Process.Signal(syscall.SIGTERM)
		ended := time.AfterFunc(5*time.Second, func() { _ = p.process.Process.Kill() })
		_ = p.process.Wait()
		ended.Stop()
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(p.directory, "envoy.log"))
			lines := strings.Split(string(text), "\n")
			t.Logf("the end of Envoy's log:\n%s", strings.Join(lines[max(0, len(lines)-30):], "\n"))
		}
	})
	wait.Until(t, "Envoy's admin port", func() bool { return p.admin("/ready") != "" })
	return p
}

// "" while there is no answer.
func (p *proxy) admin(path string) string {
	address, err := os.ReadFile(filepath.Join(p.directory, "admin.address"))
	if err != nil {
		return ""
	}
	answer, err := http.Get("http://" + string(address) + path)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return string(text)
}

// Counters and gauges whose names have this in them, but those that are 0.
func (p *proxy) stats(part string) map[string]float64 {
	var answer struct {
		Stats []struct {
			Name  string
			Value any
		}
	}
	found := map[string]float64{}
	if json.Unmarshal([]byte(p.admin("/stats?format=json")), &answer) == nil {
		for _, each := range answer.Stats {
			if number, is := each.Value.(float64); is && number != 0 && strings.Contains(each.Name, part) {
				found[each.Name] = number
			}
		}
	}
	return found
}

func (p *proxy) live() bool { return strings.TrimSpace(p.admin("/ready")) == "LIVE" }

// The port of the listener, or 0 while it isn't bound.
func (p *proxy) port() int {
	var answer struct {
		Statuses []struct {
			Address struct {
				Socket struct {
					Port int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if json.Unmarshal([]byte(p.admin("/listeners?format=json")), &answer) != nil || len(answer.Statuses) == 0 {
		return 0
	}
	return answer.Statuses[0].Address.Socket.Port
}

// The status and the body of an answer, on a connection of its own; 0 where none is to be had.
func (p *proxy) get(path string) (int, string) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", p.port(), path))
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body)
}

func (p *proxy) accessLog() string {
	text, _ := os.ReadFile(filepath.Join(p.directory, "access.log"))
	return string(text)
}

// A listener that answers each request by itself, with the filter as istiod has it if it has a name.
func listenerWith(t *testing.T, filter string, fetchTimeout string, types ...string) *listenerv3.Listener {
	t.Helper()
	var filters []any
	if filter != "" {
		filters = append(filters, map[string]any{"name": filter, "config_discovery": map[string]any{
			"config_source": map[string]any{
				"ads": map[string]any{}, "resource_api_version": "V3", "initial_fetch_timeout": fetchTimeout,
			},
			"type_urls": types,
		}})
	}
	filters = append(filters, map[string]any{"name": "router", "typed_config": map[string]any{
		"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
	}})
	answer := map[string]any{"status": 200, "body": map[string]any{"inline_string": "the app"}}
	logger := map[string]any{
		"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "access.log",
		"log_format": map[string]any{"text_format_source": map[string]any{
			"inline_string": "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n",
		}},
	}
	tree := map[string]any{
		"name":    "inbound",
		"address": map[string]any{"socket_address": map[string]any{"address": "127.0.0.1", "port_value": 0}},
		"filter_chains": []any{map[string]any{"filters": []any{map[string]any{
			"name": "http", "typed_config": map[string]any{
				"@type":        managerType,
				"stat_prefix":  "inbound",
				"http_filters": filters,
				"access_log":   []any{map[string]any{"name": "file", "typed_config": logger}},
				"route_config": map[string]any{"virtual_hosts": []any{map[string]any{
					"name": "all", "domains": []string{"*"},
					"routes": []any{map[string]any{"match": map[string]any{"prefix": "/"}, "direct_response": answer}},
				}}},
			},
		}}}},
	}
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	made := &listenerv3.Listener{}
	if err := protojson.Unmarshal(text, made); err != nil {
		t.Fatal(err)
	}
	return made
}

// Has the proxy take a filter, and waits until it has said whether it does.
func (p *proxy) sendFilter(t *testing.T, filter *core.TypedExtensionConfig) {
	t.Helper()
	p.send(t, extensionType, filter)
	wait.Until(t, "the proxy's word on the filter", p.settled)
}
