package apiserver

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// server is an API server with its store.
type server struct {
	t         *testing.T
	client    dynamic.Interface
	discovery discovery.DiscoveryInterface
}

func port(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// run starts a program for the time of the test. Its output is printed if the test fails.
func run(t *testing.T, name string, arguments ...string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	log, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(name, arguments...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		_ = log.Close()
		if text, err := os.ReadFile(path); err == nil && t.Failed() {
			t.Logf("%s: …%s", name, text[max(0, len(text)-4000):])
		}
	})
}

// start runs etcd and kube-apiserver, which `make apiserver` builds.
func start(t *testing.T) *server {
	t.Helper()
	program := os.Getenv("KUBE_APISERVER")
	if program == "" {
		t.Skip("`make apiserver` builds an API server for this test, which takes minutes")
	}
	directory := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	keyFile, tokens := filepath.Join(directory, "key.pem"), filepath.Join(directory, "tokens.csv")
	for path, text := range map[string][]byte{keyFile: pem.EncodeToMemory(block), tokens: []byte("token,admin,admin,system:masters\n")} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store := fmt.Sprintf("http://127.0.0.1:%d", port(t))
	peer := fmt.Sprintf("http://127.0.0.1:%d", port(t))
	run(t, "etcd", "--data-dir", filepath.Join(directory, "etcd"), "--listen-client-urls", store, "--advertise-client-urls", store,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	secure := port(t)
	run(t, program, "--etcd-servers", store, "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(secure),
		"--cert-dir", filepath.Join(directory, "certificates"), "--token-auth-file", tokens, "--authorization-mode", "AlwaysAllow",
		"--service-account-issuer", "https://shop", "--service-account-key-file", keyFile, "--service-account-signing-key-file", keyFile,
		"--service-cluster-ip-range", "10.0.0.0/24", "--disable-admission-plugins", "ServiceAccount",
		// Debian's etcd cannot tell how far a watch is, which the cache waits for.
		"--watch-cache=false")
	config := &rest.Config{
		Host: fmt.Sprintf("https://127.0.0.1:%d", secure), BearerToken: "token", QPS: 1000, Burst: 1000,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	types, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &server{t, client, types}
}

// until tries again for two minutes.
func (server *server) until(what string, try func() error) {
	server.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			server.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// apply does what `kubectl apply --server-side` does.
func (server *server) apply(object map[string]any) error {
	it := &unstructured.Unstructured{Object: object}
	kind := it.GroupVersionKind()
	plural := strings.ToLower(kind.Kind) + "s"
	if strings.HasSuffix(plural, "cys") || strings.HasSuffix(plural, "rys") {
		plural = strings.TrimSuffix(plural, "ys") + "ies"
	}
	var client dynamic.ResourceInterface
	resource := server.client.Resource(schema.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: plural})
	client = resource
	if it.GetNamespace() != "" {
		client = resource.Namespace(it.GetNamespace())
	}
	_, err := client.Apply(context.Background(), it.GetName(), it, metav1.ApplyOptions{FieldManager: "operator", Force: true})
	return err
}

// patch merges a change into a resource, as `kubectl patch --type merge` does.
func (server *server) patch(object map[string]any, change string) error {
	it := &unstructured.Unstructured{Object: object}
	kind := it.GroupVersionKind()
	resource := schema.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: strings.ToLower(kind.Kind) + "s"}
	client := server.client.Resource(resource).Namespace(it.GetNamespace())
	_, err := client.Patch(context.Background(), it.GetName(), types.MergePatchType, []byte(change), metav1.PatchOptions{})
	return err
}

func TestARealAPIServerRefusesEachMistakeAtApply(t *testing.T) {
	server := start(t)
	namespace := func(name string) map[string]any {
		return map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}
	}
	server.until("the API server", func() error { return server.apply(namespace("shop")) })
	if err := server.apply(namespace("istio-system")); err != nil {
		t.Fatal(err)
	}
	for _, definition := range documents(t, read(t, os.Getenv("ISTIO_CRDS"))) {
		if err := server.apply(definition); err != nil {
			t.Fatal(err)
		}
	}
	fresh := func(name string) map[string]any {
		resource := plugin("WasmPlugin", full(t))
		in(resource, "metadata")["name"] = name
		return resource
	}
	server.until("Istio's types", func() error { return server.apply(fresh("first")) })
	broken := fresh("older")
	delete(wasmOf(broken), "failStrategy")
	if err := server.apply(broken); err != nil {
		t.Fatal(err)
	}
	for _, document := range documents(t, read(t, "../../istio/base/admission/manifest.yaml")) {
		if err := server.apply(document); err != nil {
			t.Fatal(err)
		}
	}
	// The API server takes a second to see new rules.
	tries := 0
	server.until("the rules", func() error {
		// The same one again would be a change of nothing, which is not judged.
		tries++
		probe := fresh(fmt.Sprintf("probe-%d", tries))
		delete(wasmOf(probe), "failStrategy")
		if server.apply(probe) == nil {
			return fmt.Errorf("a resource without a strategy passes")
		}
		return nil
	})
	server.typeCheck()
	refused := 0
	refuses := func(kind, name string, resource map[string]any, says string) {
		t.Helper()
		err := server.apply(resource)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %s: %q is not in %v", kind, name, says, err)
			return
		}
		if !errors.IsInvalid(err) {
			t.Errorf("%s: %s: %v", kind, name, err)
		}
		refused++
		if refused%8 == 1 {
			t.Logf("%s: %v", name, err)
		}
	}
	for _, kind := range []string{"WasmPlugin", "TrafficExtension"} {
		for _, mistake := range mistakes {
			resource, says := mistake.with(t, kind)
			refuses(kind, mistake.name, resource, says)
		}
	}
	for _, mistake := range envoyFilterMistakes {
		refuses("EnvoyFilter", mistake.name, envoyFilter(mistake.change), mistake.says)
	}
	accepted := 0
	for path, objects := range shipped(t) {
		for _, object := range objects {
			apiVersion, _ := object["apiVersion"].(string)
			if kind, _ := object["kind"].(string); !strings.HasSuffix(strings.Split(apiVersion, "/")[0], "istio.io") || kind == "" {
				continue
			}
			if err := server.apply(object); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			accepted++
		}
	}
	t.Logf("%d refused, %d accepted", refused, accepted)
	// What is older than the rules can be stopped and marked, and is judged when it is changed.
	if err := server.patch(broken, `{"metadata": {"labels": {"team": "shop"}}}`); err != nil {
		t.Error(err)
	}
	if err := server.patch(broken, `{"spec": {"pluginConfig": {"rollout": {"percent": 1}}}}`); err == nil {
		t.Error("a change of a resource without a strategy passes")
	}
	if err := server.patch(broken, `{"spec": {"pluginConfig": {"mode": "off"}}}`); err != nil {
		t.Error(err)
	}
	// The label of a resource takes it out.
	exempt := fresh("exempt")
	delete(wasmOf(exempt), "failStrategy")
	in(exempt, "metadata")["labels"] = map[string]any{"graygate/admission": "off"}
	if err := server.apply(exempt); err != nil {
		t.Error(err)
	}
}

// typeCheck fails if Kubernetes would warn about the rules, given Istio's types. The controller manager does that.
func (server *server) typeCheck() {
	server.t.Helper()
	groups, err := restmapper.GetAPIGroupResources(server.discovery)
	if err != nil {
		server.t.Fatal(err)
	}
	checker := validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: server.discovery},
		RestMapper:     restmapper.NewDiscoveryRESTMapper(groups),
	}
	for _, rule := range rules(server.t, oldest) {
		for _, warning := range checker.Check(rule.policy) {
			server.t.Errorf("%s: %s: %s", rule.policy.Name, warning.FieldRef, warning.Warning)
		}
	}
}
