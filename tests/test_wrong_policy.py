"""A wrong policy with `onWrongPolicy: lastGood`: what a real Envoy does with running and new proxies, and back to good.

`tests/worlds/wrong_policy.rs` covers the workers and the cases. Refusals are in `test_policy_updates.py`.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from harness.client import get
from harness.config import bootstrap
from harness.envoy import Envoy, binary
from harness.load import Load, Request
from harness.wait import until, until_all

USERS = [Request("/", {"x-user-id": f"user-{number}"}) for number in range(200)]


@pytest.fixture
def good(policy) -> dict[str, Any]:
    return {**policy, "onWrongPolicy": "lastGood"}


def with_readyz(policy, path):
    readiness = {**policy["probes"]["readiness"], "path": path}
    return {**policy, "probes": {**policy["probes"], "readiness": readiness}}


def wrong(policy):
    """Has another path of readiness, by which tests would notice the document in use."""
    return {**with_readyz(policy, "/wrong"), "gatse": []}


def answers(envoy, path):
    return "policy reviews: readiness passed" in get(envoy.port(), path).text


def refused(envoy):
    return envoy.counter("graygate_policy_refused", plugin="graygate")


def in_use(envoy):
    """Returns whether the proxy has a document in use, and no wrong one after it.

    Only a document that was in use becomes the last good one.
    """
    return envoy.counter("graygate_build_info") == 1 and refused(envoy) == 0


def use(envoy, path="/readyz"):
    """Waits until the document with this path of readiness is in use, and kept as the last good one."""
    until_all(lambda: answers(envoy, path), what="answers by the document")
    until(lambda: in_use(envoy), what="the document in use")


@pytest.mark.parametrize("delivery", ["lds", "ecds"])
def test_a_running_proxy_keeps_the_last_good_policy_and_gets_back_to_a_good_one(start, good, delivery):
    envoy = start(good, delivery=delivery)
    with Load(envoy.port(), USERS, rate=200) as load:
        until(lambda: len(load.answers) > 50, what="load")
        until(lambda: in_use(envoy), what="the document in use")
        assert envoy.publish(wrong(good)) == ""
        until(lambda: refused(envoy) == 1, what="the gauge at 1")
        assert "policy refused: gatse: unknown field" in envoy.logs()
        until(
            lambda: "policy reviews: refused, and its last good document stays in use" in envoy.logs(), what="the line"
        )
        served = len(load.answers)
        until(lambda: len(load.answers) > served + 100, what="load under the wrong policy")
        until_all(lambda: answers(envoy, "/readyz"), what="the last good document")
        assert get(envoy.port(), "/wrong").version
        assert refused(envoy) == 1
        assert envoy.publish(with_readyz(good, "/new")) == ""
        until_all(lambda: answers(envoy, "/new"), what="the new document")
        until(lambda: refused(envoy) == 0, what="the gauge at 0 again")
    assert load.failed == []


def test_a_new_proxy_lets_requests_pass_until_a_good_policy_comes(start, good, v2):
    envoy = start(wrong(good), delivery="ecds")
    until_all(lambda: get(envoy.port(), "/readyz").version == "v1", what="requests pass")
    assert get(envoy.port(), "/", {"x-tester": "true"}).version == "v1", "no release acts"
    until(lambda: refused(envoy) == 1, what="the gauge at 1")
    assert "this proxy has no earlier good document, so requests pass unmanaged" in envoy.logs()
    assert envoy.publish(good) == ""
    until_all(lambda: answers(envoy, "/readyz"), what="the good document")
    until(lambda: refused(envoy) == 0, what="the gauge at 0")
    assert get(envoy.port(), "/", {"x-tester": "true"}).version == "v2"


def test_a_wrong_policy_that_is_refused_sets_the_gauge_until_another_comes(start, policy):
    envoy = start(policy, delivery="lds")
    assert "unknown field" in envoy.publish(wrong(policy))
    assert refused(envoy) == 1
    assert answers(envoy, "/readyz")
    assert envoy.publish(with_readyz(policy, "/new")) == ""
    use(envoy, "/new")


def test_a_document_that_envoy_refuses_for_another_filter_is_no_last_good_one(start, good):
    envoy = start(good, delivery="lds")
    use(envoy)
    assert envoy.put("./lds.json", envoy.config.refused(with_readyz(good, "/never"))) != ""
    assert envoy.publish(wrong(good)) == ""
    until(lambda: refused(envoy) == 1, what="the gauge at 1")
    until_all(lambda: answers(envoy, "/readyz"), what="the last good document")
    assert not answers(envoy, "/never")


def test_a_vm_that_is_created_anew_goes_on_with_the_last_good_policy(start, good):
    module = "target/graygate-faults.wasm"
    envoy = start(good, delivery="ecds", concurrency=1, module=module)
    use(envoy)
    assert envoy.publish(wrong(good)) == ""
    until_all(lambda: answers(envoy, "/readyz"), what="the last good document")
    for _ in range(2):
        assert get(envoy.port(), "/", {"x-graygate-fault": "here"}).status == 503
        until(lambda: answers(envoy, "/readyz"), what="the last good document in the new VM")
    assert refused(envoy) == 1


def test_one_wrong_policy_of_several_leaves_the_others_new(start, good):
    def document(*policies):
        return {"policies": list(policies), "onWrongPolicy": "lastGood"}

    def named(name, path):
        policy = {key: value for key, value in with_readyz(good, path).items() if key != "onWrongPolicy"}
        return {**policy, "name": name, "hosts": [f"{name}.shop"]}

    def ready(name, path):
        return f"policy {name}: readiness passed" in get(envoy.port(), path, {"host": f"{name}.shop"}).text

    envoy = start(document(named("a", "/old"), named("b", "/old")), delivery="ecds")
    until_all(lambda: ready("a", "/old") and ready("b", "/old"), what="both policies")
    until(lambda: in_use(envoy), what="the document in use")
    assert envoy.publish(document({**named("a", "/new"), "gatse": []}, named("b", "/new"))) == ""
    until_all(lambda: ready("a", "/old") and ready("b", "/new"), what="the last good and the new one")
    assert refused(envoy) == 1
    assert "policy refused: policies[0].gatse: unknown field" in envoy.logs()


@pytest.mark.parametrize(
    ("choice", "code"), [({}, 1), ({"onWrongPolicy": "refuse"}, 1), ({"onWrongPolicy": "lastGood"}, 0)]
)
def test_envoys_validation_sees_a_wrong_policy_unless_it_is_to_be_accepted(policy, v1, v2, tmp_path, choice, code):
    config = bootstrap({**wrong(policy), **choice}, {"reviews-v1": v1.port, "reviews-v2": v2.port})
    with Envoy(bootstrap(policy, {"reviews-v1": v1.port, "reviews-v2": v2.port})) as envoy:
        file = envoy.directory / "validated.json"
        file.write_text(json.dumps(config.document()))
        command = [binary(), "--mode", "validate", "-c", file.name]
        done = subprocess.run(command, cwd=envoy.directory, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert "gatse: unknown field" in done.stderr
