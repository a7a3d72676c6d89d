package probes

import (
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"graygate/tests/istio/wait"
)

const onTheAppsPort = `
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: graygate, namespace: shop}
spec:
  selector:
    matchLabels: {app: reviews}
  url: file:///etc/istio/extensions/graygate.wasm
  phase: AUTHN
  failStrategy: FAIL_OPEN
  match: [{mode: SERVER, ports: [{number: 8080}]}]
`

// The app answers its own probes, and the sidecar asks the agent what it answers. The agent's cluster is in Istio's
// bootstrap, so this takes no EnvoyFilter.
const byTheAgent = onTheAppsPort + `  pluginConfig:
    name: reviews-app
    upstreams:
      app:
        cluster: agent
        readinessProbe: {httpGet: {path: /app-health/app/readyz}, periodSeconds: 0.2, failureThreshold: 2}
        assume: notReady
    gates:
    - match: [{uri: {prefix: /}}]
      upstream: app
      reply: {status: 503, body: "{upstream} is not ready: {reason}"}
`

func TestTheAppsOwnProbeIsAskedByTheAgentsCluster(t *testing.T) {
	deployment := edited(t, built(t, exampleShop).one(t, "Deployment"), func(pod *corev1.PodTemplateSpec) {
		app := &pod.Spec.Containers[0]
		for _, probe := range []*corev1.Probe{app.StartupProbe, app.ReadinessProbe, app.LivenessProbe} {
			probe.HTTPGet = &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}
		}
	})
	p := startPod(t, deployment, byTheAgent+"\n---\n"+strict)
	const service = "http://" + podAddress + ":8080/"
	peer := p.peer(t)
	until(t, peer, service, http.StatusOK, "the app")

	p.app.answerChecks(http.StatusInternalServerError)
	until(t, peer, service, http.StatusServiceUnavailable, "app is not ready: check-failed")
	// The kubelet's own probes go where they went before.
	expect(t, p.node.client(), http.MethodGet, kubeletReadiness, http.StatusInternalServerError, "the app")
	p.app.answerChecks(http.StatusOK)
	until(t, peer, service, http.StatusOK, "the app")
	// A container without that probe.
	const other = "http://" + podAddress + ":15020/app-health/other/readyz"
	expect(t, p.node.client(), http.MethodGet, other, http.StatusBadRequest, "")

	for request := range p.app.requests() {
		checked := request == "GET /healthz from 127.0.0.6"
		if served := strings.HasPrefix(request, "GET / from "); !checked && !served {
			t.Errorf("the app was asked: %s", request)
		}
	}
}

// A WasmPlugin has no vm_id, and the probe listener's filter has none; the document is the same.
func TestAPluginOnTheAppsPortSharesTheProbeListenersState(t *testing.T) {
	example := built(t, exampleShop)
	documents := policiesIn(t, example["EnvoyFilter"])
	if len(documents) != 1 {
		t.Fatalf("%d policies in the example, expected one", len(documents))
	}
	plugin := onTheAppsPort + "  pluginConfig: " + strings.Join(strings.Fields(documents[0]), " ")
	config := quicker(strings.Join([]string{example.istioConfig(), plugin, strict}, "\n---\n"))
	p := startPod(t, example.one(t, "Deployment"), config)
	const plugged = "http://" + podAddress + ":8080/readyz"
	peer, app := p.peer(t), p.network.client()
	p.eventually(t, kubeletReadiness, http.StatusOK)
	until(t, peer, plugged, http.StatusOK, "policy reviews-probes: readiness passed")

	// Checks of two would come twice as fast. A slow machine only makes this longer.
	since, first := time.Now(), p.app.checks()
	wait.Until(t, "ten more checks", func() bool { return p.app.checks() >= first+10 })
	if took := time.Since(since); took < 1500*time.Millisecond {
		t.Errorf("ten checks, one each 200 ms, came in %v: the app is checked twice", took)
	}

	expect(t, app, http.MethodPost, "http://127.0.0.1:15099/drainz", http.StatusOK, "draining")
	until(t, peer, plugged, http.StatusServiceUnavailable, "draining")
	expect(t, app, http.MethodDelete, "http://127.0.0.1:15099/drainz", http.StatusOK, "")
	until(t, peer, plugged, http.StatusOK, "readiness passed")

	p.app.answerChecks(http.StatusInternalServerError)
	p.eventually(t, kubeletReadiness, http.StatusServiceUnavailable)
	until(t, peer, plugged, http.StatusServiceUnavailable, "check-failed")
}
