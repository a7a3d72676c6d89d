package apiserver

import (
	"fmt"
	"testing"

	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

type object = map[string]any

func many(count int, item func(i int) any) []any {
	all := []any{}
	for i := range count {
		all = append(all, item(i))
	}
	return all
}

func upstreamsOf(count int, upstream object) object {
	all := object{}
	for i := range count {
		all[fmt.Sprintf("u%d", i)] = upstream
	}
	return all
}

// The largest policies that the filter takes are judged, and the rules have as much again to spare.
func TestTheLargestPoliciesAreJudgedForHalfOfWhatTheRulesMayCost(t *testing.T) {
	rules := rules(t, oldest)
	bare := object{"cluster": "c"}
	checked := object{
		"cluster":        "c",
		"readinessProbe": object{"httpGet": object{"path": "/healthz"}, "periodSeconds": int64(5), "failureThreshold": int64(3)},
		"circuitBreaker": object{"consecutiveFailures": int64(5), "notReadyFor": "5s", "failOn": []any{"5xx"}},
	}
	entry := object{"uri": object{"prefix": "/api"}, "headers": object{"x-tester": object{"exact": "true"}}}
	plain := object{"uri": object{"exact": "/x"}}
	gates := func(count int, entries []any) []any {
		return many(count, func(i int) any { return object{"upstream": fmt.Sprintf("u%d", i), "match": entries[:2+i%2]} })
	}
	cases := map[string]struct {
		policy object
		// The first gate, in which a key is then misspelt.
		gate func(policy object) object
	}{
		"2000 upstreams with check and breaker": {
			object{"name": "a", "upstreams": upstreamsOf(2000, checked), "gates": []any{object{"upstream": "u0"}}}, gate,
		},
		"2000 gates with 5000 matches": {
			object{"name": "a", "upstreams": upstreamsOf(2000, bare), "gates": gates(2000, []any{entry, entry, plain})}, gate,
		},
		"500 releases with 2000 versions": {
			object{"name": "a", "upstreams": upstreamsOf(2000, bare), "gates": []any{object{"upstream": "u0"}}, "releases": many(500, func(i int) any {
				return object{
					"name": fmt.Sprintf("r%d", i), "steer": object{"header": "x-v"}, "match": []any{entry},
					"hashOn": []any{object{"httpHeaderName": "x-user"}},
					"versions": many(4, func(j int) any {
						return object{"name": fmt.Sprintf("v%d", j), "upstream": fmt.Sprintf("u%d", i*4+j), "weight": int64(25), "match": []any{entry}}
					}),
				}
			})}, gate,
		},
		"40 policies with 50 gates each": {
			object{"policies": many(40, func(i int) any {
				return object{"name": fmt.Sprintf("p%d", i), "upstreams": upstreamsOf(50, checked), "gates": gates(50, []any{entry, entry, plain})}
			})},
			func(policy object) object { return gate(first(policy["policies"])) },
		},
	}
	for name, test := range cases {
		resource := plugin("WasmPlugin", test.policy)
		validations, messages := costs(t, rules[0], attributes(resource, nil))
		t.Logf("%s: %d for the validations, %d for the messages", name, validations, messages)
		if total := validations + messages; total > celconfig.RuntimeCELCostBudget*6/10 {
			t.Errorf("%s: costs %d", name, total)
		}
		test.gate(test.policy)["repyl"] = true
		if found := judge(t, rules, attributes(resource, nil)); len(found.refused) != 1 {
			t.Errorf("%s: with a misspelt key: %+v", name, found)
		}
	}
}

// A rule that would cost too much lets the resource pass.
func TestAPolicyBeyondWhatTheRulesMayCostIsNotRefused(t *testing.T) {
	policy := full(t)
	gate(policy)["repyl"] = true
	found := judgeWithin(1_000, rules(t, oldest), attributes(plugin("WasmPlugin", policy), nil))
	if !found.judged || len(found.refused) > 0 || len(found.failed) == 0 {
		t.Errorf("%+v", found)
	}
}
