"""What a probe's checks come to: required, weighted and optional ones, groups, and what is stale."""

from __future__ import annotations

import pytest

from harness.client import get, get2
from harness.config import cluster_of, socket_address
from harness.envoy import replace_file
from harness.probe import all_pass, document, status, text
from harness.wait import until, until_all

WEIGHTS = {"database": 40, "cache": 30, "external-api": 20, "queue": 10}


@pytest.fixture
def weighted(policy):
    """Four upstreams with weights, 70 of 100 being enough; what differs is the path of their checks."""
    for name in WEIGHTS:
        check = {**policy["upstreams"]["reviews-v1"]["readinessProbe"], "httpGet": {"path": f"/{name}"}}
        policy["upstreams"][name] = {"cluster": "reviews-v1", "readinessProbe": check}
    checks = [{"upstream": name, "weight": weight} for name, weight in WEIGHTS.items()]
    policy["probes"]["readiness"].update(checks=checks, minimumScore=70)
    return policy


def take_down(envoy, upstream, *names, path="/readyz"):
    """Of the checks with paths of their own, these fail and no others, and all workers know."""
    for name in WEIGHTS:
        upstream.answer(500 if name in names else None, path=f"/{name}")

    def failing():
        checks = document(envoy, path)["checks"]
        return [name for name, [check] in checks.items() if check["status"] == "fail"]

    until_all(lambda: failing() == list(names), what=f"{names} down")


def test_the_score_of_those_that_do_not_fail_decides(start, weighted, v1):
    envoy = start(weighted)
    all_pass(envoy)
    assert "score 100 of 100, at least 70\n" in text(envoy, "/readyz?verbose")
    for down, score, verdict in [
        (["queue"], 90, "passed, degraded"),
        (["external-api"], 80, "passed, degraded"),
        (["cache"], 70, "passed, degraded"),
        (["external-api", "queue"], 70, "passed, degraded"),
        (["cache", "queue"], 60, "failed"),
        (["database"], 60, "failed"),
        (["cache", "external-api", "queue"], 40, "failed"),
        (["database", "cache", "external-api", "queue"], 0, "failed"),
        ([], 100, "passed"),
    ]:
        take_down(envoy, v1, *down)
        answer = get(envoy.port(), "/readyz?verbose")
        assert answer.status == (503 if verdict == "failed" else 200), down
        for name in down:
            line = f"[-]{name} failed: check-failed: status 500 (weight {WEIGHTS[name]})\n"
            assert line in answer.text, down
        end = f"\nscore {score} of 100, at least 70\npolicy reviews: readiness {verdict}; oldest"
        assert end in answer.text, down


def test_json_has_weights_and_the_score(start, weighted, v1):
    envoy = start(weighted)
    all_pass(envoy)
    take_down(envoy, v1, "cache", "queue")
    answer = document(envoy)
    assert (answer["status"], answer["output"]) == ("fail", "score 60 of 100, at least 70")
    assert list(answer["checks"]) == list(WEIGHTS)
    [cache] = answer["checks"]["cache"]
    assert (cache["weight"], cache["required"], cache["status"]) == (30, False, "fail")


def test_what_is_excluded_counts_toward_the_score(start, weighted, v1):
    envoy = start(weighted)
    all_pass(envoy)
    take_down(envoy, v1, "cache", "queue")
    answer = get(envoy.port(), "/readyz?exclude=cache")
    assert (answer.status, "score 90 of 100" in answer.text) == (200, True)


def test_a_required_check_fails_readiness_whatever_the_score_and_an_optional_one_never(start, weighted, v1):
    _first, second, third, fourth = weighted["probes"]["readiness"]["checks"]
    fourth["required"] = True
    del third["weight"], second["weight"]
    third["required"] = False
    weighted["probes"]["readiness"]["minimumScore"] = 10
    envoy = start(weighted)
    all_pass(envoy)
    for down, line, wanted in [
        ("queue", "(weight 10, required)", 503),
        ("cache", "", 503),
        ("external-api", "(optional)", 200),
        ("database", "(weight 40)", 200),
    ]:
        take_down(envoy, v1, down)
        answer = get(envoy.port(), "/readyz")
        assert answer.status == wanted, down
        assert f"[-]{down} failed: check-failed: status 500 {line}".strip() + "\n" in answer.text, down


def test_the_policys_own_statuses_are_told(start, weighted, v1):
    weighted["probes"]["readiness"]["statuses"] = {"passed": 201, "degraded": 299, "failed": 429}
    weighted["probes"]["liveness"]["statuses"] = {"passed": 202}
    envoy = start(weighted)
    all_pass(envoy)
    assert (status(envoy), status(envoy, "/livez"), status(envoy, "/readyz/cache")) == (201, 202, 201)
    for down, wanted in [(["cache"], 299), (["database"], 429)]:
        take_down(envoy, v1, *down)
        assert status(envoy) == wanted
        assert get(envoy.port(), "/readyz", method="HEAD").status == wanted
        assert (status(envoy, f"/readyz/{down[0]}"), status(envoy, "/livez")) == (429, 202)
    for code, result in [("299", "degraded"), ("429", "failed")]:
        assert envoy.counter("graygate_probe_answers_total", probe="readiness", code=code, result=result)


@pytest.mark.parametrize("passed", [204, 205, 304])
def test_a_status_that_has_no_body_gets_none(start, policy, passed):
    """A body would be read as the beginning of the next answer on the connection."""
    policy["probes"]["liveness"]["statuses"] = {"passed": passed}
    policy["probes"]["details"] = "always"
    answer = get2(start(policy).port(), "/livez")
    assert (answer.status, answer.body, answer.headers["content-length"] or "0") == (passed, b"", "0")


def test_groups_have_checks_and_statuses_of_their_own(start, weighted, v1, v2):
    """Neither startup nor drain, which hold readiness back, is asked."""
    probes = weighted["probes"]
    probes["startup"] = {"path": "/startupz", "checks": [{"upstream": "reviews-v2"}]}
    probes["drain"] = {"path": "/drainz"}
    probes["groups"] = {
        "deep": {"path": "/deepz", "checks": probes["readiness"]["checks"], "minimumScore": 100},
        "cache-only": {"path": "/cachez", "checks": [{"upstream": "cache"}], "statuses": {"failed": 500}},
        "none": {"path": "/nonez"},
    }
    v2.answer(500, path="/healthz")
    envoy = start(weighted)
    get(envoy.port(), "/drainz", method="POST")
    all_pass(envoy, "/deepz")
    until_all(lambda: "[-]drain" in text(envoy), what="draining")
    take_down(envoy, v1, "cache", path="/deepz")
    paths = ["/readyz", "/deepz", "/cachez", "/nonez"]
    assert [status(envoy, path) for path in paths] == [503, 503, 500, 200]
    assert [status(envoy, f"/deepz/{name}") for name in WEIGHTS] == [200, 503, 200, 200]
    assert text(envoy, "/nonez") == "policy reviews: none passed\n"
    assert document(envoy, "/deepz")["description"] == "deep"
    assert envoy.counter("graygate_probe_answers_total", probe="cache-only", code="500", result="failed") == 1


def test_an_upstream_on_trial_passes_with_a_reserve(start, policy, v1):
    upstream = policy["upstreams"]["reviews-v1"]
    del upstream["readinessProbe"]
    upstream["circuitBreaker"] = {"notReadyFor": "500ms", "consecutiveFailures": 1}
    envoy = start(policy, concurrency=1)
    all_pass(envoy)
    v1.answer(500)
    get(envoy.port(), "/", {"x-user-id": "alice"})
    until(lambda: "on trial" in text(envoy), what="a trial")
    assert text(envoy) == "[+]reviews-v1 ok: on trial\npolicy reviews: readiness passed, degraded\n"
    finding = {"status": "warn", "output": "on trial", "required": True}
    assert document(envoy)["checks"] == {"reviews-v1": [finding]}


by_default: tuple[dict[str, float], float] = ({}, 1.1)
as_given = ({"staleAfterSeconds": 1.0}, 1.0)


@pytest.mark.parametrize(("given", "stale_after"), [by_default, as_given], ids=["by-default", "as-given"])
def test_an_upstream_that_no_check_reaches_any_more_is_stale(start, policy, v1, tmp_path, given, stale_after):
    """It stays as it was known. The default is three periods and a timeout."""
    policy["upstreams"]["reviews-v1"]["cluster"] = "leaving"
    policy["probes"].update(given)

    def have(port):
        load = cluster_of("leaving", socket_address(port))["load_assignment"]
        kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
        resource = {"@type": kind, **load, **({} if port else {"endpoints": []})}
        replace_file(tmp_path / "hosts.json", {"version_info": str(port), "resources": [resource]})

    have(v1.port)
    source = {"path_config_source": {"path": str(tmp_path / "hosts.json")}, "resource_api_version": "V3"}
    leaving = {"name": "leaving", "type": "EDS", "eds_cluster_config": {"eds_config": source}}
    envoy = start(policy, clusters=[leaving])
    all_pass(envoy)
    have(0)
    until_all(lambda: "[+]reviews-v1 ok: stale, last answer " in text(envoy), what="stale")
    answer = get(envoy.port(), "/readyz")
    assert answer.status == 200
    age = float(answer.text.partition("last answer ")[2].split()[0])
    assert stale_after <= age < 6
    assert document(envoy)["checks"]["reviews-v1"][0]["status"] == "warn"
    until(lambda: int(get(envoy.port(), "/readyz").headers["age"]) >= 2, what="an age")
    have(v1.port)
    all_pass(envoy)


def probes(policy, **settings):
    return {**policy, "probes": {**policy["probes"], **settings}}


def readiness(policy, checks, **settings):
    names = [{"upstream": "reviews-v1", **check} for check in checks]
    return probes(policy, readiness={"path": "/readyz", "checks": names, **settings})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: probes(p, details="sometimes"), "probes.details: "),
        (lambda p: probes(p, match=[{}]), "probes.match[0]: "),
        (lambda p: probes(p, drain={"path": "/readyz"}), "probes: readiness and drain share the path"),
        (lambda p: probes(p, drain={"path": "/drainz", "from": ["10.0.0.0/33"]}), "probes.drain.from[0]: "),
        (lambda p: probes(p, groups={"drain": {"path": "/x"}}), "probes.groups.drain: "),
        (lambda p: probes(p, groups={"deep": {"path": "/x*"}}), "probes.groups.deep.path: "),
        (lambda p: probes(p, startup={"path": "/x", "statuses": {"passed": 503}}), "statuses.passed: 503"),
        (lambda p: readiness(p, [{"weight": 40}]), "probes.readiness.minimumScore: missing"),
        (lambda p: readiness(p, [{"weight": 40}], minimumScore=41), "probes.readiness.minimumScore: 41"),
        (lambda p: readiness(p, [{}], minimumScore=1), "probes.readiness.minimumScore: "),
        (lambda p: readiness(p, [{}, {}]), "probes.readiness.checks[1]: a second check"),
    ],
)
def test_a_policy_whose_probes_are_wrong_is_refused(start, policy, change, said):
    envoy = start(policy, delivery="ecds")
    why = envoy.publish(change(policy))
    assert "policy refused: " in why
    assert said in why
    assert status(envoy) == 200
