"""Another module replaces the running one, and back, under load. No request fails, and known states stay.

The other one is the module for tests. Its code differs, so it has its own VMs. VMs share data by `vm_id`, whatever
their code. In a WasmPlugin, Istio leaves `vm_id` empty.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace

import pytest

from harness.breaker import judged, until_gated
from harness.client import Stream, get
from harness.config import HTTP_FILTERS, MODULE, extension
from harness.envoy import PROJECT, is_before
from harness.load import Load, Request, drive
from harness.wait import until, until_all

OTHER = "target/graygate-faults.wasm"
ALICE = {"x-user-id": "alice"}
# The response repeats the path, and so identifies its user.
USERS = [Request(f"/user-{number}", {"x-user-id": f"user-{number}"}) for number in range(300)]
VERSIONS = itertools.count(1000)
STRATEGIES = [{"failure_policy": f"FAIL_{word}"} for word in ("OPEN", "CLOSED", "RELOAD")]
FAILURES = pytest.mark.parametrize("failure", STRATEGIES, ids=["open", "closed", "reload"])
AS_IN_ISTIO = pytest.mark.parametrize("vm_id", ["graygate", ""], ids=["own-id", "no-id"])


def vms(envoy, which="active"):
    return envoy.stats("wasm.envoy.wasm.runtime.v8.").get(f"wasm.envoy.wasm.runtime.v8.{which}", 0)


def put(envoy, filter_config):
    return envoy.put("./ecds.json", {"version_info": f"{next(VERSIONS)}", "resources": [extension(filter_config)]})


def upgrade(envoy, module):
    """Waits until all workers have the new module and the old one's VMs are gone."""
    active, created = vms(envoy), vms(envoy, "created")
    envoy.config = replace(envoy.config, module=module)
    assert envoy.put("./ecds.json", envoy.config.discovery(f"{next(VERSIONS)}")) == ""
    # The VMs of the main thread, and one for each worker.
    until(lambda: vms(envoy, "created") > created + 2 and vms(envoy) == active, what="VMs of the new module alone")


def versions_of(answers):
    """Returns the versions that each user got."""
    got = defaultdict(set)
    for answer in answers:
        version, _, user = answer.body.decode().strip().partition(" /")
        got[user].add(version)
    return got


@AS_IN_ISTIO
def test_no_request_fails_and_users_keep_their_version(start, policy, vm_id):
    policy["releases"][0]["versions"][1]["weight"] = 90
    envoy = start(policy, delivery="ecds", vm_id=vm_id)
    with Load(envoy.port(), USERS, rate=600) as load:
        for module in (OTHER, MODULE):
            upgrade(envoy, module)
            served = len(load.answers)
            until(lambda: len(load.answers) > served + 300, what="each user under the new module")
    assert load.failed == []
    assert "key in the store" in envoy.logs(), "the other module has run"
    got = versions_of(load.answers)
    assert len(got) == len(USERS)
    assert {user for user, versions in got.items() if len(versions) > 1} == set()
    assert {version for versions in got.values() for version in versions} == {"v1", "v2"}


def test_open_requests_are_served_by_the_module_that_they_started_with(start, policy):
    envoy = start(policy, delivery="ecds")
    with Stream(envoy.port(), "/upload", ALICE) as stream:
        active = "http.graygate.downstream_rq_active"
        until(lambda: envoy.stats(active)[active] == 1, what="a request under way")
        envoy.config = replace(envoy.config, module=OTHER)
        assert envoy.put("./ecds.json", envoy.config.discovery("other")) == ""
        until_all(lambda: get(envoy.port(), "/", ALICE).status == 200, what="requests by the new module")
        assert "key in the store" in envoy.logs(), "the other module runs"
        stream.send(b"body", end=True)
        answer = stream.answer()
    assert (answer.status, answer.version) == (200, "v1")
    until(lambda: vms(envoy, "created") > vms(envoy), what="the old module's VMs gone")


@pytest.fixture
def tripped(start, policy, v1):
    """`envoy = tripped(vm_id)`: v1 is not ready for an hour because of its responses, and the proxy drains."""
    policy["probes"]["drain"] = {"path": "/drainz"}
    policy["probes"]["readiness"]["checks"] = [{"upstream": "reviews-v2"}]

    def start_tripped(vm_id):
        envoy = start(judged(policy, consecutiveFailures=3), delivery="ecds", vm_id=vm_id)
        v1.answer(500)
        drive(envoy.port(), [Request("/")] * 6, connections=1)
        v1.answer(200)
        until_gated(envoy, "consecutive-failures")
        get(envoy.port(), "/drainz", method="POST")
        until_all(lambda: "draining" in get(envoy.port(), "/readyz").text, what="draining")
        return envoy

    return start_tripped


@AS_IN_ISTIO
def test_states_of_upstreams_and_a_drain_survive_the_module(tripped, v1, v2, vm_id):
    envoy = tripped(vm_id)
    requests = v1.requests
    with Load(envoy.port(), [Request("/", ALICE), Request("/readyz")], rate=300) as load:
        for module in (OTHER, MODULE):
            upgrade(envoy, module)
            seen, served = v2.seen("/healthz"), len(load.answers)
            until(lambda: v2.seen("/healthz") > seen + 2 and len(load.answers) > served + 100, what="checks, load")
    assert {answer.status for answer in load.answers} == {503}
    assert v1.requests == requests
    assert envoy.logs().count("upstream reviews-v1: ready -> not-ready") == 1
    # Gauges are unchanged. A counter ends with the last VM that has used it, and starts over with the next one.
    ready = envoy.stats("wasmcustom.graygate_upstream_ready.policy=.=reviews;.;upstream=.=reviews-v")
    assert list(ready.values()) == [0, 1]
    assert envoy.transitions() == 0


@AS_IN_ISTIO
def test_all_states_are_lost_with_the_last_module(tripped, vm_id):
    """This is the case if Istio's agent replaces the filter, or if the filter is removed for a while."""
    envoy = tripped(vm_id)
    mine = envoy.config.discovery("")["resources"][0]["typed_config"]
    assert put(envoy, {"@type": f"{HTTP_FILTERS}.rbac.v3.RBAC"}) == ""
    until_all(lambda: get(envoy.port(), "/readyz").text == "v1 /readyz\n", what="no filter")
    until(lambda: vms(envoy) == 0, what="no VM")
    assert put(envoy, mine) == ""
    until_all(lambda: "readiness passed" in get(envoy.port(), "/readyz").text, what="not draining")
    assert get(envoy.port(), "/", ALICE).text == "v1 /\n"


@pytest.fixture(params=["missing", "cut off", "not a module"])
def broken(request, tmp_path):
    """The path of a module that cannot be loaded."""
    module = (PROJECT / MODULE).read_bytes()
    content = {"cut off": module[: len(module) // 2], "not a module": b"<html>not found</html>"}.get(request.param)
    path = tmp_path / "broken.wasm"
    if content:
        path.write_bytes(content)
    return str(path)


@FAILURES
def test_a_module_that_cannot_be_loaded_is_refused_and_the_old_one_continues(start, policy, broken, failure):
    envoy = start(policy, delivery="ecds", failure=failure)
    with Load(envoy.port(), USERS, rate=300) as load:
        envoy.put("./ecds.json", replace(envoy.config, module=broken).discovery("broken"))
        assert envoy.refusals() == 1
        served = len(load.answers)
        until(lambda: len(load.answers) > served + 100, what="load")
    assert load.failed == []
    assert get(envoy.port(), "/livez").text == "policy reviews: liveness passed\n"


@pytest.mark.skipif(is_before("1.38"), reason="Envoy 1.36 and 1.37 crash when a module that loads comes after it")
def test_a_new_proxy_whose_module_cannot_be_loaded_responds_500_until_it_has_one(start, policy, broken):
    envoy = start(policy, delivery="ecds", module=broken, failure={"failure_policy": "FAIL_OPEN"})
    assert [get(envoy.port(), path).status for path in ("/", "/livez")] == [500, 500]
    assert envoy.put("./ecds.json", replace(envoy.config, module=MODULE).discovery("good")) == ""
    until_all(lambda: get(envoy.port(), "/livez").status == 200, what="the filter")
