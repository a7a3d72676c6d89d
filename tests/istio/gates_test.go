package istio

import "testing"

// checked has v1 checked from the caller's side, and its requests stopped while it is not ready.
const checked = `
name: reviews
upstreams:
  reviews-v1:
    cluster: outbound|9080|v1|reviews.shop.svc.cluster.local
    readinessProbe: {httpGet: {path: /healthz}, periodSeconds: 0.1, failureThreshold: 2}
gates:
- upstream: reviews-v1
  reply: {status: 503, retryAfterSeconds: 7, headers: {x-gate: closed}}
`

func TestAGateAnswersWhileChecksFailAndOpensWhenTheyPass(t *testing.T) {
	for _, kind := range twoWays {
		for _, place := range []string{"outbound", "gateway"} {
			t.Run(kind+"/"+place, func(t *testing.T) {
				v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
				address := ownAddress(t, 9080, gatewayPort)
				routes, who, caller := built(t, "base/steering/header"), callerNode, newClient(t, address+":9080", "reviews:9080")
				if place == "gateway" {
					routes, who = gatewayAt(t, address, built(t, "base/steering/gateway")), gatewayNode
					caller = newClient(t, address+":8080", "reviews.example.com")
				}
				c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), routes,
					local(t, manifest(t, kind, place, parsed(t, checked))))
				e := c.envoy(who)
				e.until("checks have come", func() bool { return v1.checks.Load() > 1 })
				if got := caller.ask("/"); got.status != 200 || got.body != "v1" {
					t.Fatalf("while it is ready: %v", got)
				}
				v1.unwell.Store(true)
				e.until("the gate is closed", func() bool { return caller.ask("/").status == 503 })
				before := v1.requests.Load()
				for range 100 {
					got := caller.ask("/")
					if got.status != 503 || got.header.Get("x-gate") != "closed" || got.header.Get("retry-after") != "7" {
						t.Fatalf("while it is not: %v", got)
					}
				}
				if came := v1.requests.Load() - before; came != 0 {
					t.Errorf("%d requests have come through a closed gate", came)
				}
				v1.unwell.Store(false)
				e.until("the gate is open", func() bool { return caller.ask("/").body == "v1" })
			})
		}
	}
}
