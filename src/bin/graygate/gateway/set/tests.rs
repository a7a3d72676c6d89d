use graygate::policy::document::Node;
use serde_json::{Value, json};

use super::*;

/// A policy with two versions for rules 0 and 1, and a probe.
fn config() -> Value {
    json!({
        "name": "reviews",
        "upstreams": {
            "one": {"cluster": "httproute/shop/reviews/rule/0"},
            "two": {"cluster": "httproute/shop/reviews/rule/1"}},
        "probes": {"liveness": {"path": "/livez"}},
        "releases": [{"name": "r", "steer": {"header": "x-v"}, "versions": [
            {"name": "v1", "upstream": "one", "weight": 90, "default": true},
            {"name": "v2", "upstream": "two", "weight": 10}]}]})
}

fn extension(config: &Value) -> Value {
    json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyExtensionPolicy",
        "metadata": {"name": "graygate", "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "reviews"}],
            "wasm": [{
                "name": "graygate", "rootID": "graygate", "failOpen": true, "config": config,
                "code": {"type": "Image", "image": {"url": "r/graygate-requests:1", "sha256": "0".repeat(64)}}}]}})
}

fn rule(matches: Value, service: &str) -> Value {
    json!({"matches": matches, "backendRefs": [{"name": service, "port": 80}]})
}

fn by_header(value: &str) -> Value {
    json!([{"headers": [{"name": "X-V", "value": value}]}])
}

fn route(rules: &[Value]) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {"parentRefs": [{"name": "eg"}], "rules": rules}})
}

fn good_rules() -> Vec<Value> {
    vec![
        rule(json!([{"path": {"type": "PathPrefix", "value": "/"}}]), "v1"),
        rule(by_header("v2"), "v2"),
        rule(json!([{"path": {"type": "Exact", "value": "/livez"}}]), "v1"),
    ]
}

/// Returns the findings about these objects that are not notes, each as severity, path and message.
fn findings(objects: &[Value]) -> Vec<String> {
    let all = every_finding(objects).into_iter().filter(|line| !line.starts_with("Note "));
    all.collect()
}

fn every_finding(objects: &[Value]) -> Vec<String> {
    let nodes: Vec<Node> =
        objects.iter().map(|object| serde_json::from_value(object.clone()).unwrap()).collect();
    let objects: Vec<Object<'_>> = nodes.iter().flat_map(|node| Object::all(node, "f.yaml")).collect();
    let line = |found: GatewayFinding| format!("{:?} {}: {}", found.severity, found.path, found.message);
    check(&objects).into_iter().map(line).collect()
}

#[test]
fn resources_that_fit_have_no_problem_and_notes_say_what_differs_from_istio() {
    let all = every_finding(&[extension(&config()), route(&good_rules())]);
    assert!(all.iter().all(|line| line.starts_with("Note ")), "{all:#?}");
    let has = |words: &str| all.iter().any(|line| line.contains(words));
    assert!(has("no FAIL_RELOAD") && has("drains its connections"), "{all:#?}");
    assert!(every_finding(&[route(&good_rules())]).is_empty());
}

#[test]
fn a_probe_path_without_a_route_is_a_problem() {
    let mut rules = good_rules();
    rules[0] = rule(json!([{"path": {"type": "PathPrefix", "value": "/api"}}]), "v1");
    rules[2] = rule(json!([{"path": {"type": "Exact", "value": "/healthz"}}]), "v1");
    let found = findings(&[extension(&config()), route(&rules)]);
    assert_eq!(
        found,
        [
            "Error spec.wasm[0].config.probes.liveness.path: \"/livez\": no rule of HTTPRoute shop/reviews takes each GET of this path. The filter is on by route, so Envoy responds 404. Add a rule with matches: [{path: {type: Exact, value: /livez}}]"
        ]
    );
}

#[test]
fn a_probe_path_on_a_route_for_hosts_is_a_warning() {
    let mut route = route(&good_rules());
    route["spec"]["hostnames"] = json!(["reviews.example.com"]);
    let found = findings(&[extension(&config()), route]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("Warning spec.wasm[0].config.probes.liveness.path: \"/livez\": HTTPRoute shop/reviews is for reviews.example.com alone"), "{found:#?}");
}

#[test]
fn a_cluster_whose_number_no_longer_fits_the_rules_is_a_problem() {
    let mut rules = good_rules();
    rules.insert(0, rule(json!([{"path": {"type": "PathPrefix", "value": "/new"}}]), "new"));
    let found = findings(&[extension(&config()), route(&rules)]);
    assert_eq!(
        found,
        [
            "Error spec.wasm[0].config.upstreams.two.cluster: \"httproute/shop/reviews/rule/1\": the requests of version v2 (x-v: v2) meet rule 2 of HTTPRoute shop/reviews in f.yaml. Envoy Gateway names clusters by the number of the rule; allowed: httproute/shop/reviews/rule/2"
        ]
    );
    rules.swap(0, 1);
    rules.truncate(2);
    rules[1] = rule(by_header("v2"), "v2");
    let mut config = config();
    config["upstreams"]["two"]["cluster"] = json!("httproute/shop/reviews/rule/7");
    let found = findings(&[extension(&config), route(&rules)]);
    assert!(
        found[0]
            .ends_with("has 2 rules, which are counted from 0; allowed: httproute/shop/reviews/rule/0 to 1"),
        "{found:#?}"
    );
}

#[test]
fn a_version_without_a_rule_is_a_problem() {
    let mut rules = good_rules();
    rules[1] = rule(by_header("v3"), "v2");
    let found = findings(&[extension(&config()), route(&rules)]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("Error spec.wasm[0].config.releases[0].versions[1]: v2: no rule of HTTPRoute shop/reviews matches x-v: v2"), "{found:#?}");
}

#[test]
fn the_name_of_a_cluster_that_envoy_gateway_does_not_give_is_a_warning() {
    let mut config = config();
    config["upstreams"]["one"]["cluster"] = json!("outbound|80||reviews.shop.svc.cluster.local");
    let found = findings(&[extension(&config), route(&good_rules())]);
    assert!(found[0].starts_with("Warning spec.wasm[0].config.upstreams.one.cluster: \"outbound|80||reviews.shop.svc.cluster.local\": Envoy Gateway makes no cluster of this name"), "{found:#?}");
}

#[test]
fn a_rule_without_a_backend_or_with_filters_of_one_has_another_cluster() {
    let mut rules = good_rules();
    rules[1] = json!({"matches": by_header("v2")});
    let found = findings(&[extension(&config()), route(&rules)]);
    assert!(found[0].contains("rule 1 of HTTPRoute shop/reviews in f.yaml has no backendRefs"), "{found:#?}");
    let mut rules = good_rules();
    rules[1]["backendRefs"][0]["filters"] = json!([{"type": "RequestHeaderModifier"}]);
    let found = findings(&[extension(&config()), route(&rules)]);
    assert!(found[0].ends_with("allowed: httproute/shop/reviews/rule/1/backend/0 to 0"), "{found:#?}");
}

#[test]
fn a_filter_that_fails_closed_is_a_warning_and_fail_reload_is_no_field() {
    let mut closed = extension(&config());
    closed["spec"]["wasm"][0].as_object_mut().unwrap().remove("failOpen");
    closed["spec"]["wasm"][0]["failStrategy"] = json!("FAIL_RELOAD");
    let found = findings(&[closed, route(&good_rules())]);
    assert!(found[0].starts_with("Error spec.wasm[0].failStrategy: an EnvoyExtensionPolicy has no such field; allowed: name, rootID, code, config, failOpen, env. Envoy Gateway has no FAIL_RELOAD. Write failOpen: true"), "{found:#?}");
    assert!(
        found[1].starts_with("Warning spec.wasm[0]: failOpen: missing, which means false:"),
        "{found:#?}"
    );
}

#[test]
fn a_module_that_is_not_pinned_or_not_named_is_told() {
    let mut unpinned = extension(&config());
    unpinned["spec"]["wasm"][0]["code"]["image"].as_object_mut().unwrap().remove("sha256");
    let found = findings(&[unpinned.clone(), route(&good_rules())]);
    assert!(
        found[0]
            .starts_with("Warning spec.wasm[0].code.image.url: \"r/graygate-requests:1\": without sha256"),
        "{found:#?}"
    );
    unpinned["spec"]["wasm"][0]["code"] = json!({"type": "Image"});
    let found = findings(&[unpinned, route(&good_rules())]);
    assert!(found[0].starts_with("Error spec.wasm[0]: code: names no module"), "{found:#?}");
}

#[test]
fn routes_in_another_namespace_are_not_those_of_the_target() {
    let mut other = route(&good_rules());
    other["metadata"]["namespace"] = json!("edge");
    let found = findings(&[extension(&config()), other]);
    assert!(
        found[0].starts_with("Error spec.targetRefs: HTTPRoute reviews is looked for in namespace shop"),
        "{found:#?}"
    );
    assert!(
        found[1].contains("is in another namespace; allowed: httproute/edge/reviews/rule/0"),
        "{found:#?}"
    );
}

#[test]
fn without_the_route_a_note_says_that_it_was_not_checked() {
    let all = every_finding(&[extension(&config())]);
    assert!(all.iter().all(|line| line.starts_with("Note ")), "{all:#?}");
    assert!(all.iter().any(|line| line.contains("no file has HTTPRoute shop/reviews")), "{all:#?}");
}

#[test]
fn a_filter_at_a_gateway_is_on_for_its_routes_and_another_policy_takes_a_route_away() {
    let mut at_gateway = extension(&config());
    at_gateway["spec"]["targetRefs"][0] = json!({"kind": "Gateway", "name": "eg"});
    let lua = json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyExtensionPolicy",
        "metadata": {"name": "lua", "namespace": "shop"},
        "spec": {"targetRefs": [{"kind": "HTTPRoute", "name": "reviews"}], "lua": []}});
    assert!(findings(&[at_gateway.clone(), route(&good_rules())]).is_empty());
    let found = findings(&[at_gateway.clone(), route(&good_rules()), lua.clone()]);
    assert_eq!(
        found,
        [
            "Error spec: replaces EnvoyExtensionPolicy shop/graygate in f.yaml on HTTPRoute reviews, so the filter is off there. Add mergeType: StrategicMerge"
        ]
    );
    let mut merged = lua;
    merged["spec"]["mergeType"] = json!("StrategicMerge");
    assert!(findings(&[at_gateway, route(&good_rules()), merged]).is_empty());
}

#[test]
fn two_policies_for_one_target_are_a_problem() {
    let mut second = extension(&config());
    second["metadata"]["name"] = json!("second");
    let found = findings(&[extension(&config()), second, route(&good_rules())]);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("Envoy Gateway uses only the older one"), "{found:#?}");
}

#[test]
fn a_proxy_that_merges_backends_names_clusters_otherwise() {
    let proxy = |spec: Value| {
        json!({"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyProxy",
            "metadata": {"name": "p", "namespace": "shop"}, "spec": spec})
    };
    let found = findings(&[extension(&config()), route(&good_rules()), proxy(json!({"mergeBackends": {}}))]);
    assert!(found[0].contains("the EnvoyProxy has mergeBackends"), "{found:#?}");
    let mut merged = config();
    merged["upstreams"]["one"]["cluster"] = json!("service/shop/v1/80");
    merged["upstreams"]["two"]["cluster"] = json!("service/shop/v2/80");
    let found = findings(&[extension(&merged), route(&good_rules()), proxy(json!({}))]);
    assert!(found[0].contains("only with spec.mergeBackends of the EnvoyProxy"), "{found:#?}");
}

#[test]
fn a_proxy_without_the_labels_or_the_metrics_is_a_warning() {
    let rendered: Value = serde_json::to_value(crate::stats_tags::envoy_proxy().unwrap()).unwrap();
    let with = |proxy: &Value| findings(&[extension(&config()), route(&good_rules()), proxy.clone()]);
    assert!(with(&rendered).is_empty());
    let mut bare = rendered.clone();
    bare["spec"] = json!({"telemetry": {"metrics": {"matches": [{"type": "Prefix", "value": "cluster."}]}}});
    let found = with(&bare);
    assert!(found[0].starts_with("Warning spec: the bootstrap lacks the rules for the labels"), "{found:#?}");
    assert!(
        found[1].starts_with("Warning spec.telemetry.metrics.matches: leaves graygate's metrics out"),
        "{found:#?}"
    );
    bare["spec"]["bootstrap"] = rendered["spec"]["bootstrap"].clone();
    bare["spec"]["telemetry"]["metrics"]["matches"][0]["value"] = json!("wasmcustom.");
    assert!(with(&bare).is_empty());
}

#[test]
fn steering_that_no_rule_can_follow_is_a_warning() {
    let mut config = config();
    config["releases"][0]["steer"] = json!({"filterState": "envoy.string"});
    let found = findings(&[extension(&config), route(&good_rules())]);
    assert!(
        found[0]
            .starts_with("Warning spec.wasm[0].config.releases[0].steer: no rule of an HTTPRoute reads it"),
        "{found:#?}"
    );
}
