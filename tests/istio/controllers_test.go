package istio

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	besideFlagger = "../../docs/how-to/beside-flagger.md"
	besideArgo    = "../../docs/how-to/beside-argo-rollouts.md"
)

// step is one of a controller's, with all that it has written by then.
type step struct {
	Name    string `json:"step"`
	Objects []document
}

// weights runs the command of tests/controllers, which is Flagger's and Argo Rollouts' own code, on a manifest of a
// document. The command takes minutes to build, so it is named in the environment, as .ci/controllers does.
func weights(t *testing.T, controller, manifest string, options ...string) []step {
	t.Helper()
	program := os.Getenv("WEIGHTS")
	if program == "" {
		t.Skip("WEIGHTS is empty; .ci/controllers builds the command that it names")
	}
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, append([]string{controller, file}, options...)...)
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	var states []step
	if err := json.Unmarshal(output, &states); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return states
}

// blockWith is the only block of a document that has this text in it.
func blockWith(t *testing.T, file, text string) string {
	t.Helper()
	var found []string
	for _, s := range sections(t, file) {
		for _, one := range s.blocks {
			if strings.Contains(one.text, text) {
				found = append(found, one.text)
			}
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks with %q, not 1", file, len(found), text)
	}
	return found[0]
}

// flaggersServices are the two Services that Flagger adds to `reviews`, each with the Pods of one version.
func flaggersServices(primary, canary endpoint) string {
	var text strings.Builder
	for i, one := range []struct {
		name, pod string
		endpoint
	}{{"reviews-primary", "reviews-v1", primary}, {"reviews-canary", "reviews-v2", canary}} {
		fmt.Fprintf(&text, `
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: shop}
spec: {clusterIP: 10.2.1.%[2]d, selector: {app: %[1]s}, ports: [{name: http, port: 9080, targetPort: 9080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, namespace: shop, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
endpoints:
- {addresses: [%[3]s], conditions: {ready: true}, targetRef: {kind: Pod, name: %[4]s, namespace: shop}}
ports: [{name: http, port: %[5]d}]
`, one.name, i+1, one.IP, one.pod, one.Port)
	}
	return text.String()
}

// stickyUsers returns those of 500 users who are on v2, once they are about as many as the weight says, and the same ones
// twice in a row: workers take new routes one after the other. From then on, each must stay.
func stickyUsers(e *envoy, caller *client, step string, percent int) (users map[string]bool) {
	e.t.Helper()
	// Of 500 users, the deviation is at most 12, and five of them are allowed. None and all are exact.
	least, most := 5*percent-60, 5*percent+60
	if percent == 0 || percent == 100 {
		least, most = 5*percent, 5*percent
	}
	e.until(step+": v2 has its share", func() bool {
		before := users
		users = caller.onV2()
		return maps.Equal(before, users) && len(users) >= least && len(users) <= most
	})
	if again := caller.onV2(); !maps.Equal(again, users) {
		e.t.Errorf("%s: %d users on v2, and then %d or other ones", step, len(users), len(again))
	}
	return users
}

// grown asserts that all who were on v2 still are.
func grown(t *testing.T, step string, before, now map[string]bool) {
	t.Helper()
	for user := range before {
		if !now[user] {
			t.Errorf("%s: %s lost v2 as the weight rose", step, user)
		}
	}
}

// applied are the objects of a step as manifests. In a cluster, Istio completes short names of hosts by the cluster's
// domain. The control plane of the tests reads manifests without one, so they are completed here.
func applied(t *testing.T, state step) string {
	t.Helper()
	complete := func(name any) any {
		if text, ok := name.(string); ok && !strings.Contains(text, ".") {
			return text + ".shop.svc.cluster.local"
		}
		return name
	}
	for _, one := range state.Objects {
		change(one, func(node map[string]any) {
			if host, ok := node["host"]; ok {
				node["host"] = complete(host)
			}
			hosts, _ := node["hosts"].([]any)
			for i := range hosts {
				hosts[i] = complete(hosts[i])
			}
		})
	}
	return joined(t, state.Objects)
}

func TestTheWeightsThatFlaggerWritesAreStickyAndMoveOnlyNewUsers(t *testing.T) {
	states := weights(t, "flagger", blockWith(t, besideFlagger, "provider: istio"), "0", "10", "50", "100", "0")
	v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	address := ownAddress(t, 9080)
	policy := parsed(t, blockWith(t, besideFlagger, "# file: policy.yaml"))
	c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), flaggersServices(v1.endpoint, v2.endpoint),
		blockWith(t, besideFlagger, "kind: EnvoyFilter"), applied(t, states[0]), local(t, manifest(t, "wasmplugin", "outbound", policy)))
	e := c.envoy(callerNode)
	caller := newClient(t, address+":9080", "reviews.shop:9080")
	requests := caller.load(1)
	before := map[string]bool{}
	for i, percent := range []int{0, 10, 50, 100, 0} {
		c.apply(applied(t, states[i]))
		now := stickyUsers(e, caller, states[i].Name, percent)
		if percent > 0 {
			grown(t, states[i].Name, before, now)
		}
		t.Logf("%s: %d of 500 users on v2", states[i].Name, len(now))
		before = now
	}
	requests.finished(e)
}

func TestTheStepsOfArgoRolloutsAreStickyAndMoveOnlyNewUsers(t *testing.T) {
	objects := blockWith(t, besideArgo, "kind: DestinationRule")
	states := weights(t, "argo", blockWith(t, besideArgo, "trafficRouting:")+"\n---\n"+objects)
	for i := range states {
		for _, one := range states[i].Objects {
			// The Pods of this world have the label `version` for their hash.
			change(one, func(node map[string]any) {
				if hash, ok := node["rollouts-pod-template-hash"]; ok {
					delete(node, "rollouts-pod-template-hash")
					node["version"] = hash
				}
			})
		}
	}
	v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	address := ownAddress(t, 9080)
	policy := parsed(t, blockWith(t, besideArgo, "# file: policy.yaml"))
	filter, err := os.ReadFile(manifests + "base/steering/random-value-header/envoy-filter.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), string(filter), applied(t, states[0]),
		local(t, manifest(t, "wasmplugin", "outbound", policy)))
	e := c.envoy(callerNode)
	caller := newClient(t, address+":9080", "reviews.shop:9080")
	tester := func() string { return caller.ask("/", "x-user-id", "user-0", "x-tester", "true").body }
	before := map[string]bool{}
	for i, wanted := range []struct {
		step, tester string
		percent      int
	}{
		{"begin", "v1", 0},
		{"setHeaderRoute testers", "v2", 0},
		{"setWeight 10", "v2", 10},
		{"setWeight 50", "v2", 50},
		// The canary's Pods are the stable ones, so both subsets lead to them.
		{"end", "v2", 100},
	} {
		if states[i].Name != wanted.step {
			t.Fatalf("step %d is %q, not %q", i, states[i].Name, wanted.step)
		}
		c.apply(applied(t, states[i]))
		now := stickyUsers(e, caller, wanted.step, wanted.percent)
		grown(t, wanted.step, before, now)
		e.until(wanted.step+": a tester gets "+wanted.tester, func() bool { return tester() == wanted.tester })
		t.Logf("%s: %d of 500 users on v2, a tester on %s", wanted.step, len(now), wanted.tester)
		before = now
	}
	if len(states) != 5 {
		t.Errorf("%d steps, not 5", len(states))
	}
}

// Who holds the weights does not matter to a gate with a match.
func TestTheWeightsThatFlaggerWritesLeaveAGateAlone(t *testing.T) {
	states := weights(t, "flagger", blockWith(t, besideFlagger, "provider: istio"), "50")
	v1, v2 := serve(t, "v1", "127.0.0.2"), serve(t, "v2", "127.0.0.3")
	address := ownAddress(t, 9080)
	policy := parsed(t, blockWith(t, besideFlagger, "# file: policy.yaml"))
	primary := policy["upstreams"].(map[string]any)["primary"].(map[string]any)
	primary["readinessProbe"] = map[string]any{"httpGet": map[string]any{"path": "/healthz"}, "periodSeconds": 0.1, "failureThreshold": 2}
	policy["gates"] = []any{map[string]any{"upstream": "primary", "match": []any{map[string]any{"hosts": []any{"reviews.shop"}}}}}
	c := startForEnvoy(t, world{V1: v1.endpoint, V2: v2.endpoint}, egress(address), flaggersServices(v1.endpoint, v2.endpoint),
		blockWith(t, besideFlagger, "kind: EnvoyFilter"), applied(t, states[0]), local(t, manifest(t, "wasmplugin", "outbound", policy)))
	e := c.envoy(callerNode)
	caller := newClient(t, address+":9080", "reviews.shop:9080")
	before := stickyUsers(e, caller, "the gate is open", 50)
	v1.unwell.Store(true)
	e.until("the gate is closed", func() bool { return caller.ask("/").status == 503 })
	for user := range before {
		if got := caller.ask("/", "x-user-id", user); got.status != 503 {
			t.Fatalf("%s passes a closed gate: %v", user, got)
		}
	}
	v1.unwell.Store(false)
	e.until("the gate is open", func() bool { return caller.ask("/").status == 200 })
	grown(t, "the gate is open again", before, stickyUsers(e, caller, "the gate is open again", 50))
}
