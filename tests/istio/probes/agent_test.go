package probes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/cmd/pilot-agent/app"
	"istio.io/istio/pilot/pkg/features"
	xdsfake "istio.io/istio/pilot/test/xds"
	istioagent "istio.io/istio/pkg/istio-agent"
	"istio.io/istio/pkg/security"
	"istio.io/istio/pkg/test"
	"istio.io/istio/security/pkg/nodeagent/sds"
	pki "istio.io/istio/security/pkg/pki/util"
)

// The test's own binary is Istio's agent, too: in the image of the sidecar, both containers run it.
const runAsAgent = "GRAYGATE_TEST_PILOT_AGENT"

func init() {
	if os.Getenv(runAsAgent) == "" {
		return
	}
	// Its Envoy is of the same process group. Both end with the test, however that ends.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = syscall.Kill(0, syscall.SIGKILL)
	}()
	os.Args[0] = "pilot-agent"
	command := app.NewRootCommand(
		func(
			options *security.Options, secrets security.SecretManager, keys *meshconfig.PrivateKeyProvider,
		) istioagent.SDSService {
			return sds.NewServer(options, secrets, keys)
		})
	if err := command.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// meshPod is a Pod of the example with all of Istio's parts but Kubernetes: injected, its traffic captured by Istio's
// rules, its Envoy started and configured by Istio's agent from Istio's control plane.
type meshPod struct {
	network, node *network
	directory     string
	spec          *corev1.PodTemplateSpec
	app           *checkedApp
	agent         *exec.Cmd
	ended         chan struct{}
	log           string
	authority     *authority
}

// checkedApp is the app's container.
type checkedApp struct {
	mutex  sync.Mutex
	status int
	seen   map[string]int
}

func (a *checkedApp) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	client, _, _ := net.SplitHostPort(request.RemoteAddr)
	a.seen[request.Method+" "+request.URL.Path+" from "+client]++
	status := http.StatusOK
	if request.URL.Path == "/healthz" {
		status = a.status
	}
	response.WriteHeader(status)
	_, _ = io.WriteString(response, "the app\n")
}

func (a *checkedApp) answerChecks(status int) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.status = status
}

// requests are those it has seen, by what they asked and whence.
func (a *checkedApp) requests() map[string]int {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return maps.Clone(a.seen)
}

// checks is how often it was asked whether it is well.
func (a *checkedApp) checks() int {
	count := 0
	for request, times := range a.requests() {
		if strings.HasPrefix(request, "GET /healthz ") {
			count += times
		}
	}
	return count
}

// authority signs the certificates of a mesh.
type authority struct{ certificate, key []byte }

func newAuthority(t *testing.T) *authority {
	t.Helper()
	certificate, key, err := pki.GenCertKeyFromOptions(pki.CertOptions{
		TTL: time.Hour, Org: "test", IsCA: true, IsSelfSigned: true, ECSigAlg: pki.EcdsaSigAlg,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key}
}

func (a *authority) issue(t *testing.T, identity string) (certificate, key []byte) {
	t.Helper()
	signer, err := pki.ParsePemEncodedCertificate(a.certificate)
	if err != nil {
		t.Fatal(err)
	}
	signerKey, err := pki.ParsePemEncodedKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err = pki.GenCertKeyFromOptions(pki.CertOptions{
		Host: identity, TTL: time.Hour, SignerCert: signer, SignerPriv: signerKey, ECSigAlg: pki.EcdsaSigAlg,
		IsClient: true, IsServer: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

const sidecarReady = "http://" + podAddress + ":15021/healthz/ready"

const shopCluster = `
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  selector: {app: reviews}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-1, namespace: shop, labels: {app: reviews, version: v1, security.istio.io/tlsMode: istio}}
spec: {serviceAccountName: default, nodeName: node, containers: [{name: app, ports: [{containerPort: 8080}]}]}
status:
  phase: Running
  podIP: ` + podAddress + `
  podIPs: [{ip: ` + podAddress + `}]
  conditions: [{type: Ready, status: "True"}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews-1, namespace: shop, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- addresses: [` + podAddress + `]
  conditions: {ready: true}
  targetRef: {kind: Pod, name: reviews-1, namespace: shop}
`

const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
`

// onDisk puts the module in the place of the one that a volume would bring.
func onDisk(t *testing.T, config string) string {
	t.Helper()
	module, err := filepath.Abs("../../../dist/graygate.wasm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(module); err != nil {
		t.Fatalf("%v: `make wasm` builds it", err)
	}
	return strings.ReplaceAll(config, "/etc/istio/extensions/graygate.wasm", module)
}

// startPod is a Pod whose sidecar is ready, and whose app is well.
func startPod(t *testing.T, deployment, config string) *meshPod {
	t.Helper()
	p := newPod(t, deployment, config)
	p.eventually(t, sidecarReady, http.StatusOK)
	p.app.answerChecks(http.StatusOK)
	return p
}

// newPod starts the Deployment with this configuration of Istio's. Its app is not well yet.
func newPod(t *testing.T, deployment, config string) *meshPod {
	t.Helper()
	nativeSidecars(t, features.NativeSidecarModeDisabled)
	// These two filters are in Istio's Envoy alone.
	test.SetForTest(t, &features.MetadataExchange, false)
	test.SetForTest(t, &features.ALPNFilter, false)

	// Not in that of the test, which is root's alone.
	directory, err := os.MkdirTemp("", "pod")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	app := &checkedApp{status: http.StatusServiceUnavailable, seen: map[string]int{}}
	p := &meshPod{directory: directory, authority: newAuthority(t), app: app}
	p.network, p.node = podAndNode(t)
	p.spec = injected(t, deployment)
	discovery := p.node.listen(t, nodeAddress+":0")
	xdsfake.NewFakeDiscoveryServer(t, xdsfake.FakeOptions{
		KubernetesObjectString: shopCluster,
		ConfigString:           onDisk(t, config),
		ListenerBuilder:        func() (net.Listener, error) { return discovery, nil },
	})

	server := &http.Server{Handler: p.app}
	listener := p.network.listen(t, "0.0.0.0:8080")
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })

	// As the runtime does: first the rules, then the sidecar.
	rules := containerOf(t, p.spec, "istio-init")
	if said, err := p.run(t, 0, rules.Args, environment(rules)).CombinedOutput(); err != nil {
		t.Fatalf("Istio's rules: %v: %s", err, said)
	}
	p.startAgent(t, discovery.Addr().String())
	return p
}

// run is Istio's agent with these arguments, in the Pod's network.
func (p *meshPod) run(t *testing.T, user uint32, arguments []string, values map[string]string) *podCommand {
	t.Helper()
	command := exec.Command("/proc/self/exe", arguments...)
	command.Dir = p.directory
	command.Env = []string{"PATH=" + os.Getenv("PATH"), runAsAgent + "=1"}
	for name, value := range values {
		command.Env = append(command.Env, name+"="+value)
	}
	command.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Credential: &syscall.Credential{Uid: user, Gid: user},
	}
	if user != 0 {
		// So that Envoy and the module are found wherever the tests are; of the network it allows nothing.
		command.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_DAC_READ_SEARCH}
	}
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close() })
	return &podCommand{command, p.network}
}

// podCommand is a command that starts in a namespace.
type podCommand struct {
	*exec.Cmd
	network *network
}

func (c *podCommand) Start() (err error) {
	c.network.do(func() { err = c.Cmd.Start() })
	return err
}

func (c *podCommand) CombinedOutput() ([]byte, error) {
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		return nil, err
	}
	err := c.Wait()
	return said.Bytes(), err
}

func (p *meshPod) startAgent(t *testing.T, discovery string) {
	t.Helper()
	proxy := containerOf(t, p.spec, "istio-proxy")
	values := environment(proxy)
	var config map[string]any
	if err := json.Unmarshal([]byte(values["PROXY_CONFIG"]), &config); err != nil {
		t.Fatalf("PROXY_CONFIG: %v", err)
	}
	// Where things are here, and no TLS to the control plane.
	maps.Copy(config, map[string]any{
		"discoveryAddress":           discovery,
		"controlPlaneAuthPolicy":     "NONE",
		"configPath":                 filepath.Join(p.directory, "etc/istio/proxy"),
		"binaryPath":                 envoyBinary(t),
		"proxyBootstrapTemplatePath": filepath.Join(istioSource(t), "tools/packaging/common/envoy_bootstrap.json"),
		"concurrency":                1,
	})
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	// What Kubernetes fills in.
	maps.Copy(values, map[string]string{
		"PROXY_CONFIG": string(text), "CLOUD_PLATFORM": "none", "POD_NAME": "reviews-1", "POD_NAMESPACE": "shop",
		"INSTANCE_IP": podAddress, "HOST_IP": nodeAddress, "SERVICE_ACCOUNT": "default",
	})
	certificate, key := p.authority.issue(t, "spiffe://cluster.local/ns/shop/sa/default")
	for file, content := range map[string]string{
		"etc/istio/pod/labels":                                       downward(p.spec.Labels),
		"etc/istio/pod/annotations":                                  downward(p.spec.Annotations),
		"var/run/secrets/workload-spiffe-credentials/cert-chain.pem": string(certificate),
		"var/run/secrets/workload-spiffe-credentials/key.pem":        string(key),
		"var/run/secrets/workload-spiffe-credentials/root-cert.pem":  string(p.authority.certificate),
	} {
		path := filepath.Join(p.directory, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	giveTo(t, p.directory, 1337)

	agent := p.run(t, 1337, proxy.Args, values)
	log, err := os.Create(filepath.Join(t.TempDir(), "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	agent.Stdout, agent.Stderr = log, log
	if err := agent.Start(); err != nil {
		t.Fatalf("Istio's agent: %v", err)
	}
	p.agent = agent.Cmd
	p.log = log.Name()
	p.ended = make(chan struct{})
	go func() {
		_ = agent.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-agent.Process.Pid, syscall.SIGKILL)
		<-p.ended
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("Istio's agent and Envoy: %s", said[max(0, len(said)-20000):])
		}
	})
}

// downward is how Kubernetes writes a Pod's labels and annotations into its volume.
func downward(values map[string]string) string {
	text := ""
	for _, name := range slices.Sorted(maps.Keys(values)) {
		text += fmt.Sprintf("%s=%q\n", name, values[name])
	}
	return text
}

func giveTo(t *testing.T, directory string, user int) {
	t.Helper()
	err := filepath.WalkDir(directory, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, user, user)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func envoyBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ENVOY")
	if path == "" {
		path = "../../../.venv/bin/envoy"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: `make venv` installs it; or set ENVOY", err)
	}
	return path
}

// istioSource is the directory of Istio's source that these tests are built with.
func istioSource(t *testing.T) string {
	t.Helper()
	entry := reflect.ValueOf(app.NewRootCommand).Pointer()
	file, _ := runtime.FuncForPC(entry).FileLine(entry)
	root, _, found := strings.Cut(file, "/pilot/cmd/")
	if !found {
		t.Fatalf("Istio's source is not found from %q; was the test built with -trimpath?", file)
	}
	return root
}

type answer struct {
	status int
	body   string
}

func ask(client *http.Client, method, url string) (answer, error) {
	request, err := http.NewRequest(method, url, nil)
	if err != nil {
		return answer{}, err
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, string(body)}, err
}

// eventually asks from the node until the answer has this status.
func (p *meshPod) eventually(t *testing.T, url string, status int) answer {
	t.Helper()
	return until(t, p.node.client(), url, status, "")
}

// until asks until the answer is this one.
func until(t *testing.T, client *http.Client, url string, status int, body string) answer {
	t.Helper()
	var last answer
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		last, err = ask(client, http.MethodGet, url)
		if err == nil && last.status == status && strings.Contains(last.body, body) {
			return last
		}
	}
	t.Fatalf("GET %s: %v, %v after 20 s, expected %d with %q", url, last, err, status, body)
	return last
}
