package istio

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// unlimited is a policy that says which upstream it is about, and nothing about the requests.
const unlimited = `
name: reviews
upstreams:
  reviews-v1:
    cluster: outbound|9080|v1|reviews.shop.svc.cluster.local
    circuitBreaker: {failOn: [5xx], consecutiveFailures: 5, notReadyFor: 60s}
  reviews-v2:
    cluster: outbound|9080|v2|reviews.shop.svc.cluster.local
    circuitBreaker: {failOn: [5xx], consecutiveFailures: 5, notReadyFor: 60s}
releases:
- name: reviews
  steer: {header: x-gray-version}
  hashOn: [{httpHeaderName: x-user-id}]
  versions:
  - {name: v1, upstream: reviews-v1, weight: 100, default: true}
  - {name: v2, upstream: reviews-v2, weight: 0}
gates:
- upstream: reviews-v1
`

// A namespace's policy, while its upstream is down, and a healthy service beside it.
func TestAPolicyWithoutMatchesLeavesOtherServicesAlone(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			v1, v2, payments := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3"), serve(t, "payments", "127.0.0.4")
			address := ownAddress(t, 9080)
			policy, err := render(t, kind, "outbound", parsed(t, unlimited), "--scope", "namespace", "--namespace", "shop")
			if err != nil {
				t.Fatal(err)
			}
			c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint, Payments: payments.endpoint}, egress(address),
				built(t, "base/steering/header"), local(t, policy))
			e := c.envoy(callerNode)
			toReviews, toPayments := newClient(t, address+":9080", "reviews:9080"), newClient(t, address+":9080", "payments:9080")
			if got := toReviews.ask("/", "x-user-id", "ann"); got.header.Get("x-seen-version") != "v1" {
				t.Fatalf("a request to reviews gets no version: %v", got)
			}
			v1.broken.Store(true)
			e.until("the gate of reviews is closed", func() bool { return toReviews.ask("/").status == 503 })
			for i := range 50 {
				got := toPayments.ask("/", "x-user-id", fmt.Sprintf("user-%d", i))
				if got.status != 200 || got.body != "payments" || got.header.Get("x-seen-version") != "" {
					t.Fatalf("a request to payments: %v", got)
				}
			}
		})
	}
}

// routesOfReviews are the routes and subsets of a release by header, as they should be.
const routesOfReviews = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews.shop.svc.cluster.local
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  http:
  - name: v2
    match: [{headers: {x-gray-version: {exact: v2}}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v2, port: {number: 9080}}}]
  - name: default
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v1, port: {number: 9080}}}]
`

// mistakenRoutes are mistakes in the routes, or in the policy's clusters, as one replacement each. With them, users of v2
// reach something else.
var mistakenRoutes = []struct {
	name, old, new string
	inPolicy       bool
}{
	{name: "route left out", old: `  - name: v2
    match: [{headers: {x-gray-version: {exact: v2}}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v2, port: {number: 9080}}}]
`},
	{name: "header misspelt", old: "{x-gray-version:", new: "{x-grey-version:"},
	{name: "value misspelt", old: "{exact: v2}", new: "{exact: V2}"},
	{name: "default route first", old: "    match: [{headers: {x-gray-version: {exact: v2}}}]\n    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v2,",
		new: "    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v1,"},
	{name: "other subset", old: "subset: v2, port", new: "subset: v1, port"},
	{name: "host of a cluster misspelt", old: "|v2|reviews.shop", new: "|v2|review.shop", inPolicy: true},
}

func TestAVersionWhoseRequestsGoElsewhereIsFoundBeforeAndWhenItIsApplied(t *testing.T) {
	half := strings.NewReplacer("weight: 100", "weight: 50", "weight: 0", "weight: 50").Replace(unlimited)
	// The release names its hosts, so that a cluster's host can't change which requests it is about.
	half = strings.Replace(half, "- name: reviews\n", "- name: reviews\n  match: [{hosts: [reviews.shop]}]\n", 1)
	v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	start := func(t *testing.T, policy, routes string) (*envoy, *client, string, error) {
		t.Helper()
		address := ownAddress(t, 9080)
		plugin := manifest(t, "wasmplugin", "outbound", parsed(t, policy))
		c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), routes, local(t, plugin))
		k := c.cluster(t.TempDir())
		for name, text := range map[string]string{"plugin.yaml": placeholders.Replace(plugin), "routes.yaml": routes} {
			if err := os.WriteFile(k.directory+"/"+name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		said, err := k.try("sed -i 's#^  url: .*#  url: oci://registry.internal/graygate:1\\n  sha256: " + strings.Repeat("1a", 32) + "#' plugin.yaml && graygate check --istio plugin.yaml routes.yaml")
		return c.envoy(callerNode), newClient(t, address+":9080", "reviews:9080"), said, err
	}
	misrouted := func(e *envoy) (count int) {
		for name, value := range e.counters("graygate_misrouted_requests_total") {
			if strings.Contains(name, "version=.=v2") {
				count += value
			}
		}
		return count
	}
	t.Run("no mistake", func(t *testing.T) {
		e, caller, said, err := start(t, half, routesOfReviews)
		if err != nil {
			t.Fatalf("the tool complains: %s", said)
		}
		for range 3 {
			if n := len(caller.onV2()); n < 150 {
				t.Fatalf("%d of 500 users on v2", n)
			}
		}
		e.until("the counter exists", func() bool { return len(e.counters("graygate_misrouted_requests_total")) > 0 })
		if n := misrouted(e); n > 0 {
			t.Errorf("%d requests are counted as misrouted", n)
		}
	})
	for _, mistake := range mistakenRoutes {
		t.Run(mistake.name, func(t *testing.T) {
			policy, routes := half, routesOfReviews
			if mistake.inPolicy {
				policy = strings.Replace(policy, mistake.old, mistake.new, 1)
			} else {
				routes = strings.Replace(routes, mistake.old, mistake.new, 1)
			}
			if policy == half && routes == routesOfReviews {
				t.Fatal("nothing is replaced")
			}
			e, caller, said, err := start(t, policy, routes)
			if err == nil {
				t.Errorf("the tool finds nothing: %s", said)
			}
			t.Logf("the tool: %s", said)
			caller.onV2()
			e.until("requests of v2 are counted as misrouted", func() bool { return misrouted(e) > 50 })
			log, _ := os.ReadFile(e.file("log"))
			if n := strings.Count(string(log), "requests of v2 go to "); n != 1 {
				t.Errorf("%d warnings about misrouted requests, not 1:\n%s", n, log)
			}
		})
	}
}
