package probes

import (
	"net/http"
	"strings"
	"testing"
)

// By Istio's bootstrap, whose patterns of names are Istio's own.
func TestCountersLeaveThePodWithTheirLabels(t *testing.T) {
	const (
		ofEnvoy  = "http://" + podAddress + ":15090/stats/prometheus"
		ofPod    = "http://" + podAddress + ":15020/stats/prometheus"
		labelled = `graygate_probe_answers_total{policy="reviews-probes",probe="readiness",code="200",result="passed"} `
	)
	example := built(t, exampleShop)
	t.Run("as the example asks for", func(t *testing.T) {
		pod := startPod(t, example.one(t, "Deployment"), quicker(example.istioConfig()))
		pod.eventually(t, kubeletReadiness, http.StatusOK)
		for _, from := range []string{ofEnvoy, ofPod} {
			until(t, pod.node.client(), from, http.StatusOK, labelled)
		}
		until(t, pod.node.client(), ofPod, http.StatusOK, `graygate_policy_enforced{policy="reviews-probes"} 1`)
	})
	t.Run("in the name, where nobody does", func(t *testing.T) {
		deployment := strings.ReplaceAll(example.one(t, "Deployment"), "extraStatTags", "unknown")
		pod := startPod(t, deployment, quicker(example.istioConfig()))
		pod.eventually(t, kubeletReadiness, http.StatusOK)
		until(t, pod.node.client(), ofPod, http.StatusOK, "graygate_probe_answers_total_policy___reviews_probes")
	})
}
