"""`graygate render --kind envoyextensionpolicy`: its resources fit together, and wrong options get plain errors."""

from __future__ import annotations

import json

import pytest
import yaml

from harness.tool import run

DIGEST = "1" * 64
MODULE = ["--module", "oci://registry.test:5000/team/{module}:1", "--sha256", DIGEST]
BACKENDS = ["--backend", "reviews-v1=reviews-v1:9080", "--backend", "reviews-v2=edge/reviews-v2:80"]
KIND = ["--kind", "envoyextensionpolicy"]


@pytest.fixture
def file(policy, tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    return path


def rendered(*arguments):
    """Returns the resources by kind, and what standard error has."""
    done = run("render", *KIND, *arguments)
    assert done.returncode == 0, done.stderr
    return {resource["kind"]: resource for resource in yaml.safe_load_all(done.stdout)}, done.stderr


def refused(*arguments):
    """Returns the lines of standard error, without the count."""
    done = run("render", *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    return [line.removeprefix("graygate: ") for line in lines if not line.endswith((" problem", " problems"))]


def wasm(resources):
    (item,) = resources["EnvoyExtensionPolicy"]["spec"]["wasm"]
    return item


def test_the_policy_names_the_clusters_of_the_rules(file):
    resources, _ = rendered(file, "--namespace", "shop", *BACKENDS, *MODULE)
    route = resources["HTTPRoute"]
    rules = route["spec"]["rules"]
    for upstream in wasm(resources)["config"]["upstreams"]:
        cluster = wasm(resources)["config"]["upstreams"][upstream]["cluster"]
        number = int(cluster.removeprefix("httproute/shop/graygate-reviews/rule/"))
        assert [backend["name"] for backend in rules[number]["backendRefs"]] == [upstream]
    assert rules[1]["matches"] == [{"headers": [{"name": "x-gray-version", "value": "v2"}]}]
    assert [match["path"]["value"] for match in rules[2]["matches"]] == ["/livez", "/readyz"]


def test_the_module_is_chosen_and_pinned(file):
    image = wasm(rendered(file, *BACKENDS, *MODULE)[0])["code"]
    assert image == {"type": "Image", "image": {"url": "registry.test:5000/team/graygate-requests:1", "sha256": DIGEST}}
    secret = wasm(rendered(file, *BACKENDS, *MODULE, "--pull-secret", "login")[0])["code"]
    assert secret["image"]["pullSecretRef"] == {"name": "login"}
    by_http = ["--module", "https://files.test/{module}.wasm", "--sha256", DIGEST]
    code = wasm(rendered(file, *BACKENDS, *by_http)[0])["code"]
    assert code == {"type": "HTTP", "http": {"url": "https://files.test/graygate-requests.wasm", "sha256": DIGEST}}


def test_a_policy_that_needs_responses_gets_the_full_module(policy, tmp_path):
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {"consecutiveFailures": 5}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    resources, _ = rendered(tmp_path / "policy.json", *BACKENDS, *MODULE)
    assert wasm(resources)["code"]["image"]["url"] == "registry.test:5000/team/graygate:1"


def test_the_filter_fails_open_unless_told_otherwise(file):
    assert wasm(rendered(file, *BACKENDS, *MODULE)[0])["failOpen"] is True
    assert wasm(rendered(file, *BACKENDS, *MODULE, "--fail", "closed")[0])["failOpen"] is False
    assert refused(file, *KIND, *BACKENDS, *MODULE, "--fail", "reload") == [
        "--fail: reload is not allowed there: Envoy Gateway has no FAIL_RELOAD, only failOpen; allowed: open, closed"
    ]


def test_it_is_attached_to_its_routes_or_to_a_gateway(file):
    def targets(*options):
        resources, _ = rendered(file, *BACKENDS, *MODULE, *options)
        refs = resources["EnvoyExtensionPolicy"]["spec"]["targetRefs"]
        return resources, [(ref["kind"], ref["name"]) for ref in refs]

    resources, own = targets("--gateway", "edge/public")
    assert own == [("HTTPRoute", "graygate-reviews")]
    assert resources["HTTPRoute"]["spec"]["parentRefs"] == [{"name": "public", "namespace": "edge"}]
    assert resources["EnvoyProxy"]["metadata"]["namespace"] == "edge"
    resources, gateway = targets("--target", "Gateway/public")
    assert gateway == [("Gateway", "public")]
    assert resources["HTTPRoute"]["spec"]["parentRefs"] == [{"name": "public"}]


def test_a_route_of_your_own_is_not_printed(policy, tmp_path):
    for number, upstream in enumerate(policy["upstreams"].values()):
        upstream["cluster"] = f"httproute/default/mine/rule/{number}"
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(policy))
    resources, _ = rendered(file, *MODULE, "--target", "HTTPRoute/mine")
    assert set(resources) == {"EnvoyExtensionPolicy", "EnvoyProxy"}
    assert wasm(resources)["config"]["upstreams"] == policy["upstreams"]


def test_a_policy_with_hosts_is_for_these_hostnames(policy, tmp_path):
    del policy["probes"]
    hosted = {**policy, "hosts": ["reviews.example.com", "*.reviews.example.com"]}
    (tmp_path / "hosted.json").write_text(json.dumps(hosted))
    resources, _ = rendered(tmp_path / "hosted.json", *BACKENDS, *MODULE)
    assert resources["HTTPRoute"]["spec"]["hostnames"] == ["reviews.example.com", "*.reviews.example.com"]


def test_several_policies_have_a_route_each_and_one_filter(policy, tmp_path):
    other = {**policy, "name": "ratings", "hosts": ["ratings.example"]}
    del other["probes"]
    files = []
    for document in (other, policy):
        file = tmp_path / f"{document['name']}.json"
        file.write_text(json.dumps(document))
        files.append(file)
    done = run("render", *KIND, *files, *BACKENDS, *MODULE)
    assert done.returncode == 0, done.stderr
    resources = list(yaml.safe_load_all(done.stdout))
    assert [resource["kind"] for resource in resources] == ["HTTPRoute"] * 2 + ["EnvoyExtensionPolicy", "EnvoyProxy"]
    extension = resources[2]
    assert [ref["name"] for ref in extension["spec"]["targetRefs"]] == ["graygate-ratings", "graygate-reviews"]
    config = extension["spec"]["wasm"][0]["config"]
    clusters = [policy["upstreams"]["reviews-v1"]["cluster"] for policy in config["policies"]]
    assert clusters == ["httproute/default/graygate-ratings/rule/0", "httproute/default/graygate-reviews/rule/0"]


def test_what_it_prints_has_no_problem(file):
    done = run("render", *KIND, file, *BACKENDS, *MODULE)
    checked = run("check", "-", stdin=done.stdout)
    assert (checked.returncode, checked.stdout.startswith("standard input: policy reviews: no problems")) == (0, True)
    assert "warning" not in checked.stderr


def test_a_name_of_istio_tells_the_service(policy, tmp_path):
    for name, upstream in policy["upstreams"].items():
        upstream["cluster"] = f"outbound|9080||{name}.shop.svc.cluster.local"
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    resources, warnings = rendered(tmp_path / "policy.json", "--namespace", "edge", *MODULE)
    backend = resources["HTTPRoute"]["spec"]["rules"][1]["backendRefs"]
    assert backend == [{"name": "reviews-v2", "namespace": "shop", "port": 9080}]
    assert "responds 500 unless shop has a ReferenceGrant for it" in warnings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            "\"reviews-v1\": its Service is not known. Add --backend 'reviews-v1=SERVICE:PORT'",
        ),
        (
            [*BACKENDS, "--backend", "other=a:80"],
            '--backend: "other": the policy has no such cluster. It has: reviews-v1, reviews-v2',
        ),
        ([*BACKENDS, *BACKENDS[:2]], '--backend: "reviews-v1": given twice. Keep one'),
        (
            [*BACKENDS, "--at", "gateway"],
            "--at: is only for Istio and has no effect with --kind envoyextensionpolicy. Remove it",
        ),
        (
            [*BACKENDS, "--target", "Service/reviews"],
            "Envoy Gateway attaches no EnvoyExtensionPolicy to a Service; allowed: HTTPRoute/NAME, Gateway/NAME",
        ),
        (
            ["--target", "HTTPRoute/mine"],
            "allowed: httproute/default/mine/rule/0, with the number of the rule that leads there, from 0",
        ),
        (
            [*BACKENDS, "--target", "Gateway/eg", "--gateway", "edge/eg"],
            "a policy is in the namespace of its target, and --gateway is in edge; allowed: with --namespace edge",
        ),
        (
            [*BACKENDS, "--endpoint", "reviews-v1=127.0.0.1:80"],
            "--endpoint: has no effect without --kind envoy. Add that, or remove the option",
        ),
    ],
)
def test_an_option_that_does_not_fit_is_refused(file, options, message):
    assert any(line.endswith(message) for line in refused(file, *KIND, *MODULE, *options))


def test_the_module_must_be_one_that_envoy_gateway_can_fetch(file):
    (line,) = refused(file, *KIND, *BACKENDS, "--module", "file:///etc/graygate.wasm")
    assert line.startswith(
        '--module: "file:///etc/graygate.wasm" is not allowed there: Envoy Gateway fetches the module itself'
    )


def test_options_for_envoy_gateway_need_its_kind(file):
    for kind in ("wasmplugin", "envoy"):
        lines = refused(file, "--kind", kind, *BACKENDS[:2])
        expected = "--backend: has no effect without --kind envoyextensionpolicy. Add that, or remove the option"
        assert expected in lines
    assert any(
        "Istio attaches no resource to a route" in line
        for line in refused(file, "--at", "gateway", "--target", "HTTPRoute/mine")
    )


def test_a_policy_that_an_http_route_cannot_follow_is_refused(policy, tmp_path):
    policy["releases"][0]["steer"] = {"filterState": "envoy.string"}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    (line,) = refused(tmp_path / "policy.json", *KIND, *BACKENDS, *MODULE)
    assert line.endswith(
        "releases[0].steer: an HTTPRoute cannot read filter state; allowed: header, clusterHeader, baggage"
    )
