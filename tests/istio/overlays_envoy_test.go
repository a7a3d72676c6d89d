package istio

import (
	"fmt"
	"strings"
	"testing"
)

// startCaller starts a caller's sidecar with an overlay, over two versions. v2 has a weight of 10 of 100.
func startCaller(t *testing.T, overlay string) (e *envoy, caller *client, v1, v2 *app) {
	t.Helper()
	v1, v2 = serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	address := ownAddress(t, 9080)
	c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address),
		local(t, strings.NewReplacer("weight: 100", "weight: 90", "weight: 0", "weight: 10").Replace(built(t, "overlays/"+overlay))))
	return c.envoy(callerNode), newClient(t, address+":9080", "reviews:9080"), v1, v2
}

// users are some of each version.
func users(t *testing.T, caller *client) (ofV1, ofV2 []string) {
	t.Helper()
	for i := range 300 {
		user := fmt.Sprintf("user-%d", i)
		switch got := caller.ask("/", "x-user-id", user); got.body {
		case "v1":
			ofV1 = append(ofV1, user)
		case "v2":
			ofV2 = append(ofV2, user)
		default:
			t.Fatalf("%s: %v", user, got)
		}
	}
	return ofV1, ofV2
}

func TestInShadowAllCallersGetTheStableVersionAndTheDecisionsAreCounted(t *testing.T) {
	e, caller, _, _ := startCaller(t, "mesh")
	if _, ofV2 := users(t, caller); len(ofV2) > 0 {
		t.Errorf("%d of 300 users got v2", len(ofV2))
	}
	decided := 0
	e.until("all decisions are counted", func() bool {
		decided = 0
		for name, count := range e.counters("graygate_assignments_total") {
			if !strings.Contains(name, "mode=.=shadow") {
				t.Errorf("no decision of the shadow's: %s", name)
			}
			decided += count
		}
		return decided >= 300
	})
	if decided != 300 {
		t.Errorf("%d decisions are counted, not 300", decided)
	}
}

func TestCallersGetTheirVersionAndAreKeptFromOneThatFails(t *testing.T) {
	e, caller, v1, v2 := startCaller(t, "namespace")
	ofV1, ofV2 := users(t, caller)
	// 30 of 300 are expected; the deviation is 5, and four of them are allowed.
	if n := len(ofV2); n < 10 || n > 50 {
		t.Fatalf("%d of 300 users got v2, with a weight of 10 of 100", n)
	}
	if got := caller.ask("/", "x-user-id", ofV1[0], "x-gray-version", "v2"); got.body != "v2" {
		t.Errorf("a version that an earlier hop has chosen: %v", got)
	}
	v1.broken.Store(true)
	e.until("v1 is given up", func() bool { return caller.ask("/", "x-user-id", ofV1[0]).status == 503 })
	before := v1.requests.Load()
	for _, user := range ofV1[:50] {
		if got := caller.ask("/", "x-user-id", user); got.status != 503 || got.header.Get("retry-after") == "" {
			t.Fatalf("%s, of v1: %v", user, got)
		}
	}
	if came := v1.requests.Load() - before; came > 0 {
		t.Errorf("%d requests have come to v1 since", came)
	}
	before = v2.requests.Load()
	if got := caller.ask("/", "x-user-id", ofV2[0]); got.body != "v2" || v2.requests.Load() != before+1 {
		t.Errorf("%s, of v2: %v", ofV2[0], got)
	}
}

func TestAGatewayGivesUsersAKeyAndBelievesNoneOfTheirClaims(t *testing.T) {
	v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	address := ownAddress(t, gatewayPort)
	c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint},
		local(t, gatewayAt(t, address, built(t, "overlays/gateway"))))
	e := c.envoy(gatewayNode)
	user := newClient(t, fmt.Sprintf("%s:%d", address, gatewayPort), "reviews.example.com")
	e.until("the gateway is ready", func() bool { return user.ask("/edge-readyz").status == 200 })
	if n := v1.requests.Load() + v2.requests.Load(); n > 0 {
		t.Errorf("%d probes have come to an app", n)
	}
	versions := map[string]int{}
	for range 300 {
		first := user.ask("/")
		issued := first.header.Get("set-cookie")
		cookie, attributes, _ := strings.Cut(issued, ";")
		if first.status != 200 || !strings.HasPrefix(cookie, "gray-id=") || !strings.Contains(attributes, "HttpOnly") {
			t.Fatalf("a user with no key: %v", first)
		}
		// Whatever a user of the one version claims, it is not believed.
		other := map[string]string{"v1": "v2", "v2": "v1"}[first.body]
		again := user.ask("/", "cookie", cookie, "x-gray-version", other)
		if again.body != first.body || again.header.Get("set-cookie") != "" {
			t.Fatalf("%s: first %s, then %v", cookie, first.body, again)
		}
		versions[first.body]++
	}
	if n := versions["v2"]; n < 10 || n > 50 {
		t.Errorf("%d of 300 users got v2, with a weight of 10 of 100", n)
	}
}
