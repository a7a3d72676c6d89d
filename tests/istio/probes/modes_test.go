package probes

import (
	"net/http"
	"strings"
	"testing"
)

// A mode and a rollout are about traffic. Were probes not answered, the kubelet would restart every Pod.
func TestTheKubeletIsAnsweredInShadowAndWhereTheRolloutHasNotCome(t *testing.T) {
	for name, keys := range map[string]string{
		"shadow":  `"mode": "shadow",`,
		"rollout": `"mode": "enforce", "rollout": {"percent": 0},`,
	} {
		t.Run(name, func(t *testing.T) {
			example := built(t, exampleShop)
			config := strings.Replace(quicker(example.istioConfig()), `"name": "reviews-probes",`, keys+` "name": "reviews-probes",`, 1)
			p := startPod(t, example.one(t, "Deployment"), config+"\n---\n"+strict)
			p.eventually(t, kubeletStartup, http.StatusOK)
			p.eventually(t, kubeletReadiness, http.StatusOK)
			kubelet, app := p.node.client(), p.network.client()
			expect(t, kubelet, http.MethodGet, kubeletLiveness, http.StatusOK, "policy reviews-probes: liveness passed")
			p.app.answerChecks(http.StatusInternalServerError)
			p.eventually(t, kubeletReadiness, http.StatusServiceUnavailable)
			p.app.answerChecks(http.StatusOK)
			p.eventually(t, kubeletReadiness, http.StatusOK)
			expect(t, app, http.MethodPost, "http://127.0.0.1:15099/drainz", http.StatusOK, "draining")
			p.eventually(t, kubeletReadiness, http.StatusServiceUnavailable)
		})
	}
}
