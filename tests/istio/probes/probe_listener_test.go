package probes

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"graygate/tests/istio/wait"
)

// The kubelet's requests, as the injector rewrote them.
const (
	kubeletStartup   = "http://" + podAddress + ":15020/app-health/app/startupz"
	kubeletReadiness = "http://" + podAddress + ":15020/app-health/app/readyz"
	kubeletLiveness  = "http://" + podAddress + ":15020/app-health/app/livez"
)

// peer is another workload of the mesh, on another node: its sidecar speaks mTLS for it.
func (p *meshPod) peer(t *testing.T) *http.Client {
	t.Helper()
	certificate, err := tls.X509KeyPair(p.authority.issue(t, "spiffe://cluster.local/ns/shop/sa/peer"))
	if err != nil {
		t.Fatal(err)
	}
	// What a sidecar says it speaks within. Whom it speaks to is not what is tested here.
	config := &tls.Config{
		Certificates: []tls.Certificate{certificate}, NextProtos: []string{"istio-http/1.1"}, InsecureSkipVerify: true,
	}
	dial := func(ctx context.Context, kind, address string) (net.Conn, error) {
		connection, err := p.node.dial(ctx, kind, address)
		if err != nil {
			return nil, err
		}
		return tls.Client(connection, config), nil
	}
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

// saying is a client that says one thing more.
func saying(client *http.Client, name, value string) *http.Client {
	return &http.Client{Timeout: client.Timeout, Transport: headed{client.Transport, name, value}}
}

type headed struct {
	http.RoundTripper
	name, value string
}

func (h headed) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set(h.name, h.value)
	return h.RoundTripper.RoundTrip(request)
}

// expect asks once.
func expect(t *testing.T, client *http.Client, method, url string, status int, body string) {
	t.Helper()
	got, err := ask(client, method, url)
	if err != nil || got.status != status || !strings.Contains(got.body, body) {
		t.Errorf("%s %s: %v, %v; expected %d with %q", method, url, got, err, status, body)
	}
}

// expectRefusal asks once, and is cut off.
func expectRefusal(t *testing.T, client *http.Client, method, url string) {
	t.Helper()
	if got, err := ask(client, method, url); err == nil {
		t.Errorf("%s %s: %v, expected no answer at all", method, url, got)
	} else if timeout, is := err.(net.Error); is && timeout.Timeout() {
		t.Errorf("%s %s: %v, expected to be cut off at once", method, url, err)
	}
}

var counted = regexp.MustCompile(`^\[(\d+):`)

// captures is how many connections each of Istio's rules has met, by the rule.
func (p *meshPod) captures(t *testing.T) map[string]int {
	t.Helper()
	rules := map[string]int{}
	for _, line := range strings.Split(p.network.run(t, "iptables-save", "-c", "-t", "nat"), "\n") {
		if found := counted.FindStringSubmatch(line); found != nil {
			count, _ := strconv.Atoi(found[1])
			rules[line[strings.Index(line, "] ")+2:]] = count
		}
	}
	return rules
}

const (
	fromTheAgent = "-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN"
	toInbound    = "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006"
	toOutbound   = "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001"
)

// quicker has the app checked more often than one would in earnest.
func quicker(config string) string {
	return strings.ReplaceAll(config, `"periodSeconds": 2`, `"periodSeconds": 0.2`)
}

func TestProbesOnAListenerOfTheirOwn(t *testing.T) {
	example := built(t, exampleShop)
	p := newPod(t, example.one(t, "Deployment"), quicker(example.istioConfig())+"\n---\n"+strict)
	kubelet, app, peer := p.node.client(), p.network.client(), p.peer(t)
	const direct = "http://" + podAddress + ":15099"

	t.Run("an app that has not come up yet has not started, but is alive", func(t *testing.T) {
		p.eventually(t, sidecarReady, http.StatusOK)
		expect(t, kubelet, http.MethodGet, kubeletStartup, http.StatusServiceUnavailable, "startup failed")
		expect(t, kubelet, http.MethodGet, kubeletReadiness, http.StatusServiceUnavailable, "readiness failed")
		expect(t, kubelet, http.MethodGet, kubeletLiveness, http.StatusOK, "liveness passed")
		p.app.answerChecks(http.StatusOK)
		p.eventually(t, kubeletStartup, http.StatusOK)
		p.eventually(t, kubeletReadiness, http.StatusOK)
	})

	t.Run("the kubelet gets graygate's answers from the agent, uncaptured", func(t *testing.T) {
		before := p.captures(t)
		expect(t, kubelet, http.MethodGet, kubeletReadiness, http.StatusOK, "policy reviews-probes: readiness passed")
		expect(t, kubelet, http.MethodGet, kubeletLiveness, http.StatusOK, "policy reviews-probes: liveness passed")
		after := p.captures(t)
		if met := after[fromTheAgent] - before[fromTheAgent]; met != 2 {
			t.Errorf("%d connections met %q, expected the agent's two", met, fromTheAgent)
		}
		if met := after[toInbound] - before[toInbound]; met != 0 {
			t.Errorf("%d connections met %q, expected none", met, toInbound)
		}
	})

	t.Run("the app sees the checks alone, straight from the sidecar", func(t *testing.T) {
		for request := range p.app.requests() {
			if request != "GET /healthz from 127.0.0.1" {
				t.Errorf("the app was asked: %s", request)
			}
		}
		if len(p.app.requests()) == 0 {
			t.Error("the app was not checked")
		}
	})

	t.Run("an app that is not well is not ready, but alive", func(t *testing.T) {
		p.app.answerChecks(http.StatusInternalServerError)
		got := p.eventually(t, kubeletReadiness, http.StatusServiceUnavailable)
		if !strings.Contains(got.body, "[-]app failed: check-failed: status 500") {
			t.Errorf("readiness says %q, expected what is wrong", got.body)
		}
		expect(t, kubelet, http.MethodGet, kubeletLiveness, http.StatusOK, "liveness passed")
		expect(t, kubelet, http.MethodGet, kubeletStartup, http.StatusOK, "startup passed")
		p.app.answerChecks(http.StatusOK)
		p.eventually(t, kubeletReadiness, http.StatusOK)
	})

	t.Run("a peer without mTLS is captured and refused", func(t *testing.T) {
		before := p.captures(t)
		expectRefusal(t, kubelet, http.MethodGet, direct+"/readyz")
		expectRefusal(t, kubelet, http.MethodGet, "http://"+podAddress+":8080/")
		if met := p.captures(t)[toInbound] - before[toInbound]; met != 2 {
			t.Errorf("%d connections met %q, expected both", met, toInbound)
		}
	})

	t.Run("a peer with mTLS may look at probes, but orders no drain", func(t *testing.T) {
		expect(t, peer, http.MethodGet, "http://"+podAddress+":8080/", http.StatusOK, "the app")
		expect(t, peer, http.MethodGet, direct+"/readyz", http.StatusOK, "readiness passed")
		expect(t, peer, http.MethodPost, direct+"/drainz", http.StatusForbidden, "drain refused: 127.0.0.6 is not in drain.from")
		expect(t, saying(peer, "x-forwarded-for", "127.0.0.1"), http.MethodPost, direct+"/drainz", http.StatusForbidden, "")
		expect(t, peer, http.MethodGet, direct+"/", http.StatusNotFound, "")
		expect(t, kubelet, http.MethodGet, kubeletReadiness, http.StatusOK, "readiness passed")
	})

	t.Run("the preStop hook fails readiness and nothing else", func(t *testing.T) {
		if _, err := exec.LookPath("curl"); err != nil {
			t.Skipf("the hook wants curl: %v", err)
		}
		arguments := slices.Clone(containerOf(t, p.spec, "app").Lifecycle.PreStop.Exec.Command)
		before := p.captures(t)
		// All of it but the wait.
		last := len(arguments) - 1
		arguments[last] = strings.Replace(arguments[last], "sleep 15", "true", 1)
		said := p.network.run(t, arguments[0], arguments[1:]...)
		if !strings.Contains(said, "policy reviews-probes: draining") {
			t.Errorf("the hook was told %q", said)
		}
		after := p.captures(t)
		if captured := after[toInbound] - before[toInbound] + after[toOutbound] - before[toOutbound]; captured != 0 {
			t.Errorf("%d connections of the hook were captured", captured)
		}
		got := p.eventually(t, kubeletReadiness, http.StatusServiceUnavailable)
		if !strings.Contains(got.body, "draining") {
			t.Errorf("readiness says %q, expected why", got.body)
		}
		expect(t, kubelet, http.MethodGet, kubeletLiveness, http.StatusOK, "liveness passed")
		expect(t, peer, http.MethodGet, "http://"+podAddress+":8080/", http.StatusOK, "the app")
		expect(t, app, http.MethodDelete, "http://127.0.0.1:15099/drainz", http.StatusOK, "")
		p.eventually(t, kubeletReadiness, http.StatusOK)
	})

	// A native sidecar is told this way before the app ends, and gets its signal after.
	t.Run("an order to drain reaches the kubelet while Istio drains the sidecar", func(t *testing.T) {
		expect(t, app, http.MethodPost, "http://127.0.0.1:15020/drain", http.StatusOK, "")
		expect(t, kubelet, http.MethodGet, kubeletReadiness, http.StatusOK, "readiness passed")
		expect(t, app, http.MethodPost, "http://127.0.0.1:15099/drainz", http.StatusOK, "draining")
		p.eventually(t, kubeletReadiness, http.StatusServiceUnavailable)
		expect(t, kubelet, http.MethodGet, kubeletLiveness, http.StatusOK, "liveness passed")
		expect(t, peer, http.MethodGet, "http://"+podAddress+":8080/", http.StatusOK, "the app")
	})
}

// Without native sidecars, the sidecar gets its signal together with the app, which is then still at its hook.
func TestASidecarThatGetsItsSignalServesUntilItsDrainIsOverButTheKubeletHearsNothing(t *testing.T) {
	example := built(t, exampleShop)
	deployment := edited(t, example.one(t, "Deployment"), func(pod *corev1.PodTemplateSpec) {
		drainByHTTPGet(pod)
		// Shorter, as the test waits for the end.
		pod.Annotations["proxy.istio.io/config"] = `{"terminationDrainDuration":"5s"}`
	})
	p := startPod(t, deployment, quicker(example.istioConfig())+"\n---\n"+strict)
	p.eventually(t, kubeletReadiness, http.StatusOK)

	// Why the example has its hook by exec: this one can only look, and comes from where no order is taken.
	const hook = "http://" + podAddress + ":15020/app-lifecycle/app/prestopz"
	expect(t, p.node.client(), http.MethodGet, hook, http.StatusForbidden, "drain refused: 127.0.0.6 is not in drain.from")
	expect(t, p.node.client(), http.MethodGet, kubeletReadiness, http.StatusOK, "readiness passed")

	if err := p.agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "the agent leaves the kubelet without an answer", func() bool {
		_, err := ask(p.node.client(), http.MethodGet, kubeletReadiness)
		return err != nil
	})
	app := p.network.client()
	expect(t, app, http.MethodPost, "http://127.0.0.1:15099/drainz", http.StatusOK, "draining")
	expect(t, app, http.MethodGet, "http://127.0.0.1:15099/livez", http.StatusOK, "liveness passed")
	expect(t, p.peer(t), http.MethodGet, "http://"+podAddress+":8080/", http.StatusOK, "the app")
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
		t.Fatal("the sidecar still runs")
	}
	expectRefusal(t, p.peer(t), http.MethodGet, "http://"+podAddress+":8080/")
}

// Rewriting off, and the port left out of capture: the kubelet comes straight to the listener.
func TestAProbePortThatIsNotCapturedTakesPlaintextUnderStrict(t *testing.T) {
	example := built(t, exampleShop)
	deployment := edited(t, example.one(t, "Deployment"), func(pod *corev1.PodTemplateSpec) {
		pod.Annotations["sidecar.istio.io/rewriteAppHTTPProbers"] = "false"
		pod.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"] = "15099"
	})
	p := startPod(t, deployment, quicker(example.istioConfig())+"\n---\n"+strict)
	if probe := target(containerOf(t, p.spec, "app").ReadinessProbe); probe != (askedAt{"/readyz", 15099}) {
		t.Fatalf("the kubelet asks at %v", probe)
	}
	const direct = "http://" + podAddress + ":15099"
	p.eventually(t, direct+"/readyz", http.StatusOK)
	expect(t, p.node.client(), http.MethodGet, direct+"/livez", http.StatusOK, "liveness passed")
	// The port is everybody's now, but not the order to drain.
	expect(t, p.node.client(), http.MethodPost, direct+"/drainz", http.StatusForbidden, "drain refused: "+nodeAddress+" is not in drain.from")
	expectRefusal(t, p.node.client(), http.MethodGet, "http://"+podAddress+":8080/")
	expect(t, p.network.client(), http.MethodPost, "http://127.0.0.1:15099/drainz", http.StatusOK, "draining")
	p.eventually(t, direct+"/readyz", http.StatusServiceUnavailable)
}

func TestAPodWithoutTheModuleNeverBecomesReady(t *testing.T) {
	example := built(t, exampleShop)
	config := strings.ReplaceAll(example.istioConfig(), "/etc/istio/extensions/", "/nowhere/")
	p := newPod(t, example.one(t, "Deployment"), config+"\n---\n"+strict)
	// What it gets at first has come, and is refused for one listener of it.
	wait.Until(t, "the agent says that a listener was refused", func() bool {
		_, _ = ask(p.node.client(), http.MethodGet, sidecarReady)
		said, err := os.ReadFile(p.log)
		return err == nil && strings.Contains(string(said), "lds updates: 0 successful, 1 rejected")
	})
	got, err := ask(p.node.client(), http.MethodGet, sidecarReady)
	if err == nil && got.status == http.StatusOK {
		t.Errorf("the sidecar is ready: %v", got)
	}
	expect(t, p.node.client(), http.MethodGet, kubeletStartup, http.StatusInternalServerError, "")
}
