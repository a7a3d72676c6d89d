package probes

import (
	"net/http"
	"testing"
)

// One port of the Pod takes plaintext, and rewriting is off.
func TestProbesOnAPortThatTakesPlaintext(t *testing.T) {
	base := built(t, portLevelMTLS)
	p := startPod(t, base.one(t, "Deployment"), quicker(base.istioConfig())+"\n---\n"+strict)
	kubelet, app, peer := p.node.client(), p.network.client(), p.peer(t)
	const port = "http://" + podAddress + ":8081"

	t.Run("the kubelet is answered by the sidecar, which captures it", func(t *testing.T) {
		p.eventually(t, port+"/startupz", http.StatusOK)
		before := p.captures(t)
		expect(t, kubelet, http.MethodGet, port+"/readyz", http.StatusOK, "policy reviews-probes: readiness passed")
		expect(t, kubelet, http.MethodGet, port+"/livez", http.StatusOK, "policy reviews-probes: liveness passed")
		if met := p.captures(t)[toInbound] - before[toInbound]; met != 2 {
			t.Errorf("%d connections met %q, expected both", met, toInbound)
		}
	})

	t.Run("the other ports are as strict as before", func(t *testing.T) {
		expectRefusal(t, kubelet, http.MethodGet, "http://"+podAddress+":8080/")
		expectRefusal(t, kubelet, http.MethodGet, "http://"+podAddress+":8082/")
		expect(t, peer, http.MethodGet, "http://"+podAddress+":8080/", http.StatusOK, "the app")
		// Nor is the filter on them.
		expect(t, peer, http.MethodGet, "http://"+podAddress+":8080/livez", http.StatusOK, "the app")
	})

	t.Run("what is no probe gets nowhere by that port", func(t *testing.T) {
		expect(t, kubelet, http.MethodGet, port+"/", http.StatusServiceUnavailable, "upstream connect error")
	})

	t.Run("an app that is not well is not ready, but alive", func(t *testing.T) {
		p.app.answerChecks(http.StatusInternalServerError)
		p.eventually(t, port+"/readyz", http.StatusServiceUnavailable)
		expect(t, kubelet, http.MethodGet, port+"/livez", http.StatusOK, "liveness passed")
	})

	t.Run("from inside the Pod nobody reaches the sidecar by that port", func(t *testing.T) {
		expectRefusal(t, app, http.MethodGet, "http://127.0.0.1:8081/livez")
		expectRefusal(t, app, http.MethodGet, port+"/livez")
	})
}
