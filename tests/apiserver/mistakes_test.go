package apiserver

import (
	"slices"
	"strings"
	"testing"
)

// mistake is one thing that an operator gets wrong.
type mistake struct {
	name string
	// change makes the mistake in a resource and its policy.
	change func(wasm, policy map[string]any)
	// says is the message.
	says string
}

func first(list any) map[string]any { return list.([]any)[0].(map[string]any) }

func in(object map[string]any, keys ...string) map[string]any {
	for _, key := range keys {
		object = object[key].(map[string]any)
	}
	return object
}

// set returns a change of the policy: the value of a key of the object that is found.
func set(find func(policy map[string]any) map[string]any, key string, value any) func(_, policy map[string]any) {
	return func(_, policy map[string]any) { find(policy)[key] = value }
}

func gate(policy map[string]any) map[string]any    { return first(policy["gates"]) }
func release(policy map[string]any) map[string]any { return first(policy["releases"]) }
func version(policy map[string]any) map[string]any { return first(release(policy)["versions"]) }
func root(policy map[string]any) map[string]any    { return policy }

const (
	failClose = "every request would be denied. Use FAIL_OPEN or FAIL_RELOAD."
	// The names follow, in no order.
	upstreams = "allowed: the name of an upstream: "
)

// mistakes has one of each kind. Their messages are those of a WasmPlugin.
var mistakes = []mistake{
	{"a misspelt key", set(root, "gatse", []any{}), "spec.pluginConfig.gatse: unknown field; allowed: name, hosts, mode, "},
	{"a misspelt key of a gate", set(gate, "repyl", map[string]any{}), "spec.pluginConfig.gates[0].repyl: unknown field; allowed: match, upstream, "},
	{"a misspelt key of a match", func(_, policy map[string]any) { first(gate(policy)["match"])["urii"] = map[string]any{"prefix": "/"} },
		"spec.pluginConfig.gates[0].match[0].urii: unknown field; allowed: name, uri, "},
	{"a misspelt key of a version's match", func(_, policy map[string]any) {
		second := release(policy)["versions"].([]any)[1].(map[string]any)
		in(first(second["match"]), "headers", "x-tester")["exakt"] = "true"
	}, "spec.pluginConfig.releases[0].versions[1].match[0].headers.x-tester.exakt: unknown field; allowed: exact, prefix, regex"},
	{"a gate on an unknown upstream", set(gate, "upstream", "ap"), "spec.pluginConfig.gates[0].upstream: ap is not allowed; " + upstreams},
	{"a version of an unknown upstream", set(version, "upstream", "reviews-v3"), "spec.pluginConfig.releases[0].versions[0].upstream: reviews-v3 is not allowed; " + upstreams},
	{"a probe of an unknown upstream", func(_, policy map[string]any) { first(in(policy, "probes", "readiness")["checks"])["upstream"] = "ap" },
		"spec.pluginConfig.probes.readiness.checks[0].upstream: ap is not allowed; " + upstreams},
	{"a fallback to an unknown upstream", func(_, policy map[string]any) { in(gate(policy), "fallback")["upstream"] = "cash" },
		"spec.pluginConfig.gates[0].fallback.upstream: cash is not allowed; " + upstreams},
	{"the app of a probe that is unknown", func(_, policy map[string]any) { in(policy, "probes", "liveness", "passThrough")["upstream"] = "ap" },
		"spec.pluginConfig.probes.liveness.passThrough.upstream: ap is not allowed; " + upstreams},
	{"a wrong mode", set(root, "mode", "on"), "spec.pluginConfig.mode: on is not allowed; allowed: enforce, shadow, off"},
	{"a name that is no DNS label", set(root, "name", "Reviews_App"), "spec.pluginConfig.name: Reviews_App is not allowed; allowed: a DNS label"},
	{"no name", func(_, policy map[string]any) { delete(policy, "name") }, "spec.pluginConfig.name: missing; add a DNS label"},
	{"a version without a weight", func(_, policy map[string]any) { delete(version(policy), "weight") },
		"spec.pluginConfig.releases[0].versions[0].weight: missing; add a whole number from 0 to 4294967295"},
	{"a status in quotes", func(_, policy map[string]any) { in(gate(policy), "reply")["status"] = "503" },
		"spec.pluginConfig.gates[0].reply.status: 503 is not allowed; allowed: a whole number from 400 to 599"},
	{"a status out of range", func(_, policy map[string]any) { in(gate(policy), "reply")["status"] = int64(200) },
		"spec.pluginConfig.gates[0].reply.status: 200 is not allowed; allowed: a whole number from 400 to 599"},
	{"a list that is an object", set(root, "gates", map[string]any{"a": "b"}), "spec.pluginConfig.gates: the value is not allowed; allowed: a list"},
	{"an object that is a list", set(root, "upstreams", []any{"app"}), "spec.pluginConfig.upstreams: the value is not allowed; allowed: an object"},
	{"a duration without a unit", func(_, policy map[string]any) { in(policy, "upstreams", "app", "circuitBreaker")["window"] = "10" },
		"spec.pluginConfig.upstreams.app.circuitBreaker.window: 10 is not allowed; allowed: a duration such as"},
	{"a number that is a duration", func(_, policy map[string]any) { in(policy, "upstreams", "app", "circuitBreaker")["window"] = int64(10) },
		"spec.pluginConfig.upstreams.app.circuitBreaker.window: 10 is not allowed; allowed: a duration such as"},
	{"a key that has no effect alone", func(_, policy map[string]any) {
		delete(in(policy, "upstreams", "app", "circuitBreaker"), "slowerThan")
	}, "spec.pluginConfig.upstreams.app.circuitBreaker: slowPercent has no effect alone; add slowerThan"},
	{"a word that is no failure", func(_, policy map[string]any) {
		in(policy, "upstreams", "app", "circuitBreaker")["failOn"] = []any{"5XX"}
	}, "spec.pluginConfig.upstreams.app.circuitBreaker.failOn: the value is not allowed; allowed: a list of 5xx, 4xx, gateway-error, "},
	{"two ways to steer", func(_, policy map[string]any) { in(release(policy), "steer")["clusterHeader"] = "x-c" },
		"spec.pluginConfig.releases[0].steer: needs exactly one of header, clusterHeader, randomValueHeader, filterState, baggage"},
	{"a condition without a value", func(_, policy map[string]any) { first(gate(policy)["match"])["uri"] = map[string]any{} },
		"spec.pluginConfig.gates[0].match[0].uri: needs exactly one of exact, prefix, regex"},
	{"a match that holds always", func(_, policy map[string]any) { gate(policy)["match"] = []any{map[string]any{"name": "all"}} },
		"spec.pluginConfig.gates[0].match[0]: incomplete; add one of uri, "},
	{"a probe that a filter cannot send", func(_, policy map[string]any) {
		in(policy, "upstreams", "app", "readinessProbe")["tcpSocket"] = map[string]any{"port": int64(1)}
	}, "spec.pluginConfig.upstreams.app.readinessProbe.tcpSocket: not supported: a filter cannot open a socket"},
	{"no strategy", func(wasm, _ map[string]any) { delete(wasm, "failStrategy") }, "spec.failStrategy: missing, which means FAIL_CLOSE: while the module cannot be fetched, or its VM has failed, " + failClose},
	{"FAIL_CLOSE", func(wasm, _ map[string]any) { wasm["failStrategy"] = "FAIL_CLOSE" }, "spec.failStrategy: FAIL_CLOSE: while the module cannot be fetched, or its VM has failed, " + failClose},
	{"no digest of an image", func(wasm, _ map[string]any) { delete(wasm, "sha256") }, "spec.sha256: missing, so each proxy takes whatever is under the url at the time. Write the digest that `make image` prints"},
	{"no digest of a file by https", func(wasm, _ map[string]any) {
		wasm["url"] = "https://shop/graygate.wasm"
		delete(wasm, "sha256")
	}, "spec.sha256: missing, so each proxy takes whatever is under the url at the time. Write the digest that `make image` prints"},
	{"zeros for a digest", func(wasm, _ map[string]any) { wasm["sha256"] = strings.Repeat("0", 64) },
		"spec.sha256: zeros stand for the digest of your module, which no module has. Write the digest that `make image` prints"},
	{"zeros in the name of an image", func(wasm, _ map[string]any) {
		wasm["url"] = "oci://registry.shop/graygate@sha256:" + strings.Repeat("0", 64)
		delete(wasm, "sha256")
	}, "spec.sha256: zeros stand for the digest of your module, which no module has. Write the digest that `make image` prints"},
	{"no policy", func(wasm, _ map[string]any) { delete(wasm, "pluginConfig") }, "spec.pluginConfig: missing; add a policy"},
}

// wasmOf returns the part of a resource that names the module.
func wasmOf(resource map[string]any) map[string]any {
	if resource["kind"] == "TrafficExtension" {
		return in(resource, "spec", "wasm")
	}
	return in(resource, "spec")
}

// with returns a resource with this mistake, and the message that it gets.
func (mistake mistake) with(t testing.TB, kind string) (map[string]any, string) {
	policy := full(t)
	resource := plugin(kind, policy)
	mistake.change(wasmOf(resource), policy)
	if kind == "TrafficExtension" {
		return resource, strings.Replace(mistake.says, "spec.", "spec.wasm.", 1)
	}
	return resource, mistake.says
}

func TestEachMistakeIsRefusedByItsPathAndWhatIsAllowed(t *testing.T) {
	rules := rules(t, oldest)
	for _, kind := range []string{"WasmPlugin", "TrafficExtension"} {
		for _, mistake := range mistakes {
			resource, says := mistake.with(t, kind)
			found := judge(t, rules, attributes(resource, nil))
			if !slices.ContainsFunc(found.refused, func(message string) bool { return strings.HasPrefix(message, says) }) {
				t.Errorf("%s: %s: %q is not in %q; failed: %q", kind, mistake.name, says, found.refused, found.failed)
			}
		}
	}
}

// patch is a filter in a patch of an EnvoyFilter.
func patch(config map[string]any) map[string]any {
	return map[string]any{
		"applyTo": "HTTP_FILTER",
		"patch": map[string]any{
			"operation": "INSERT_FIRST",
			"value": map[string]any{
				"name": "graygate",
				"typed_config": map[string]any{
					"@type":  "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
					"config": config,
				},
			},
		},
	}
}

// envoyFilter returns an EnvoyFilter with two patches. The second is graygate's, with this change.
func envoyFilter(change func(config map[string]any)) map[string]any {
	code := map[string]any{"remote": map[string]any{
		"http_uri": map[string]any{"uri": "oci://registry.shop/graygate:1"},
		"sha256":   digest,
	}}
	config := map[string]any{
		"root_id":        "graygate",
		"failure_policy": "FAIL_OPEN",
		"configuration":  map[string]any{"@type": "x", "value": " {}"},
		"vm_config":      map[string]any{"code": code},
	}
	change(config)
	return map[string]any{
		"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
		"metadata": map[string]any{"name": "graygate-reviews", "namespace": "shop"},
		"spec": map[string]any{"configPatches": []any{
			patch(map[string]any{"root_id": "other"}), patch(config),
		}},
	}
}

var envoyFilterMistakes = []struct {
	name   string
	change func(config map[string]any)
	says   string
}{
	{"no failure_policy", func(config map[string]any) { delete(config, "failure_policy") },
		"failure_policy: missing, which means FAIL_CLOSED: while the module cannot be fetched, or its VM has failed, " + failClose},
	{"FAIL_CLOSED", func(config map[string]any) { config["failure_policy"] = "FAIL_CLOSED" },
		"failure_policy: FAIL_CLOSED: while the module cannot be fetched, or its VM has failed, " + failClose},
	{"no digest", func(config map[string]any) { delete(in(config, "vm_config", "code", "remote"), "sha256") }, "sha256: missing, so"},
	{"zeros for a digest", func(config map[string]any) {
		in(config, "vm_config", "code", "remote")["sha256"] = strings.Repeat("0", 64)
	},
		"sha256: zeros stand for"},
	{"a policy that is no string", func(config map[string]any) { in(config, "configuration")["value"] = map[string]any{"name": "x"} },
		"configuration.value: not a JSON object. Write the policy as JSON"},
	{"no policy", func(config map[string]any) { delete(config, "configuration") }, "configuration.value: not a JSON object. Write the policy as JSON"},
}

func TestEachMistakeInAnEnvoyFilterIsRefusedWithTheIndexOfThePatch(t *testing.T) {
	rules := rules(t, oldest)
	for _, mistake := range envoyFilterMistakes {
		found := judge(t, rules, attributes(envoyFilter(mistake.change), nil))
		says := "spec.configPatches[1].patch.value: " + mistake.says
		if len(found.refused) != 1 || !strings.HasPrefix(found.refused[0], says) || len(found.failed) > 0 {
			t.Errorf("%s: %q is not in %+v", mistake.name, says, found)
		}
	}
	for name, change := range map[string]func(config map[string]any){
		"good":            func(map[string]any) {},
		"deprecated word": func(config map[string]any) { delete(config, "failure_policy"); config["fail_open"] = true },
		"local file": func(config map[string]any) {
			config["vm_config"] = map[string]any{"code": map[string]any{"local": map[string]any{"filename": "/graygate.wasm"}}}
		},
	} {
		found := judge(t, rules, attributes(envoyFilter(change), nil))
		if !found.judged || len(found.refused)+len(found.failed) > 0 {
			t.Errorf("%s: %+v", name, found)
		}
	}
	stopped := envoyFilter(func(config map[string]any) {
		delete(config, "failure_policy")
		in(config, "configuration")["value"] = `{"mode": "off"}`
	})
	old := envoyFilter(func(config map[string]any) { delete(config, "failure_policy") })
	if found := judge(t, rules, attributes(stopped, old)); found.judged {
		t.Errorf("stopped: %+v", found)
	}
}

func TestEveryProblemOfAPartIsInItsMessage(t *testing.T) {
	policy := full(t)
	gate(policy)["repyl"] = true
	gate(policy)["upstream"] = "ap"
	found := judge(t, rules(t, oldest), attributes(plugin("WasmPlugin", policy), nil))
	if len(found.refused) != 1 || strings.Count(found.refused[0], "spec.pluginConfig.gates[0].") != 2 {
		t.Errorf("%q", found.refused)
	}
}

func TestAnotherTeamsPolicyInADocumentOfSeveralIsNamedByItsPosition(t *testing.T) {
	policy := full(t)
	gate(policy)["repyl"] = true
	document := map[string]any{"policies": []any{full(t), policy}}
	found := judge(t, rules(t, oldest), attributes(plugin("WasmPlugin", document), nil))
	if len(found.refused) != 1 || !strings.HasPrefix(found.refused[0], "spec.pluginConfig.policies[1].gates[0].repyl: unknown field") {
		t.Errorf("%+v", found)
	}
}

func TestADocumentOfSeveralPoliciesHasOnlyItsOwnKeys(t *testing.T) {
	rules := rules(t, oldest)
	document := map[string]any{"policies": []any{full(t)}, "mode": "shadow", "onWrongPolicy": "lastGood"}
	if found := judge(t, rules, attributes(plugin("WasmPlugin", document), nil)); len(found.refused)+len(found.failed) > 0 {
		t.Errorf("%+v", found)
	}
	document["onWrongPolicy"], document["gates"] = "last", []any{}
	found := judge(t, rules, attributes(plugin("WasmPlugin", document), nil))
	for _, says := range []string{
		"spec.pluginConfig.onWrongPolicy: last is not allowed; allowed: refuse, lastGood",
		"spec.pluginConfig.gates: unknown field; allowed: policies, mode, onWrongPolicy",
	} {
		if len(found.refused) != 1 || !strings.Contains(found.refused[0], says) {
			t.Errorf("%q is not in %+v", says, found)
		}
	}
}

func TestResourcesThatAreNotOfGraygateAreNotJudged(t *testing.T) {
	rules := rules(t, oldest)
	other := plugin("WasmPlugin", map[string]any{"anything": true})
	wasm := wasmOf(other)
	wasm["url"], wasm["pluginName"] = "oci://registry.shop/auth:1", "auth"
	delete(wasm, "failStrategy")
	bare := map[string]any{"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin", "metadata": map[string]any{"name": "x"}}
	lua := map[string]any{
		"apiVersion": "extensions.istio.io/v1alpha1", "kind": "TrafficExtension", "metadata": map[string]any{"name": "x"},
		"spec": map[string]any{"lua": map[string]any{"inlineCode": "x"}},
	}
	filter := map[string]any{
		"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": map[string]any{"name": "x"},
		"spec": map[string]any{"configPatches": []any{
			map[string]any{"applyTo": "CLUSTER", "patch": map[string]any{"operation": "MERGE", "value": map[string]any{"name": "x"}}},
			map[string]any{"applyTo": "HTTP_FILTER"},
		}},
	}
	for _, object := range []map[string]any{other, bare, lua, filter} {
		if found := judge(t, rules, attributes(object, nil)); found.judged || len(found.refused)+len(found.failed) > 0 {
			t.Errorf("%v: %+v", object["spec"], found)
		}
	}
}

func TestAnOperatorCanAlwaysStopAndMarkAResourceThatIsWrong(t *testing.T) {
	rules := rules(t, oldest)
	for _, kind := range []string{"WasmPlugin", "TrafficExtension"} {
		wrong := func() (map[string]any, map[string]any) {
			policy := full(t)
			gate(policy)["repyl"] = true
			resource := plugin(kind, policy)
			wasmOf(resource)["failStrategy"] = "FAIL_CLOSE"
			return resource, policy
		}
		old, _ := wrong()
		stopped, policy := wrong()
		policy["mode"] = "off"
		marked, _ := wrong()
		in(marked, "metadata")["finalizers"] = []any{}
		changed, policy := wrong()
		policy["maxGatedPercent"] = int64(10)
		for name, test := range map[string]struct {
			now    map[string]any
			judged bool
		}{"stopped": {stopped, false}, "marked": {marked, false}, "changed": {changed, true}} {
			found := judge(t, rules, attributes(test.now, old))
			if found.judged != test.judged || (len(found.refused) > 0) != test.judged || len(found.failed) > 0 {
				t.Errorf("%s: %s: %+v", kind, name, found)
			}
		}
	}
}
