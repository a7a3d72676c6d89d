package probes

import (
	"net/http"
	"testing"
)

// The kubelet's requests, as the injector rewrote them.
const (
	kubeletStartup   = "http://" + podAddress + ":15020/app-health/app/startupz"
	kubeletReadiness = "http://" + podAddress + ":15020/app-health/app/readyz"
	kubeletLiveness  = "http://" + podAddress + ":15020/app-health/app/livez"
)

func TestWithAListenerForProbes(t *testing.T) {
	example := built(t, exampleShop)
	pod := startPod(t, example.one(t, "Deployment"), example.istioConfig()+"\n---\n"+strict)

	t.Run("the kubelet gets graygate's answers by the agent", func(t *testing.T) {
		pod.eventually(t, kubeletStartup, http.StatusOK)
		pod.eventually(t, kubeletReadiness, http.StatusOK)
	})
}
