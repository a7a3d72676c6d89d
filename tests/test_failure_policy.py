"""What requests get if the policy is invalid or a VM has died, by Envoy's `failure_policy`.

In Istio it is `failStrategy`: FAIL_OPEN, FAIL_CLOSE (here FAIL_CLOSED, the default) or FAIL_RELOAD. It decides what
happens without a VM. It does not affect an invalid policy, which is always refused.
"""

from __future__ import annotations

import http.client
from contextlib import ExitStack

import pytest

from harness.client import Stream, get
from harness.load import Load, Request, drive
from harness.users import by_user, moves
from harness.wait import until, until_all

MODULE = "target/graygate-faults.wasm"
# This user gets v1.
ALICE = {"x-user-id": "alice"}
HERE = {"x-graygate-fault": "here"}
OPEN, CLOSED, RELOAD = ({"failure_policy": f"FAIL_{word}"} for word in ("OPEN", "CLOSED", "RELOAD"))
ALIVE = "policy reviews: liveness passed\n"


def wrong(policy):
    return {**policy, "nmae": "reviews"}


# -- a policy that is wrong ------------------------------------------------------


@pytest.mark.parametrize(("delivery", "failure"), [("lds", OPEN), ("ecds", CLOSED)], ids=["lds-open", "ecds-closed"])
def test_a_running_proxy_keeps_its_policy_and_fails_no_request(start, policy, failure, delivery):
    envoy = start(policy, delivery=delivery, failure=failure)
    users = [Request("/", {"x-user-id": f"user-{number}"}) for number in range(100)]
    with Load(envoy.port(), users, rate=300) as load:
        assert 'nmae: unknown field; did you mean "name"?' in envoy.publish(wrong(policy))
        served = len(load.answers)
        until(lambda: len(load.answers) > served + 100, what="load after the refusal")
    assert load.failed == []
    assert get(envoy.port(), "/livez").text == ALIVE


def test_a_new_proxy_with_the_filter_by_ecds_responds_500_until_a_valid_policy(start, policy):
    envoy = start(wrong(policy), delivery="ecds", failure=OPEN)
    assert [get(envoy.port(), path).status for path in ("/", "/livez", "/readyz")] == [500] * 3
    logged = [(500, "NFCF")] * 3
    until(lambda: [(line["status"], line["flags"]) for line in envoy.access_log()] == logged, what="the access log")
    stats = envoy.stats("extension_config_discovery.http_filter.graygate.")
    assert stats["extension_config_discovery.http_filter.graygate.update_rejected"] == 1
    # The refused policy ends with its VM, because no VM had a policy before.
    assert envoy.counter("graygate_policies_refused_total") == 0
    assert envoy.publish(policy) == ""
    until_all(lambda: get(envoy.port(), "/livez").text == ALIVE, what="the good policy")


def test_a_new_proxy_with_the_filter_by_lds_does_not_listen_until_a_valid_policy(start, policy):
    envoy = start(wrong(policy), delivery="lds", failure=OPEN)
    assert envoy.ports() == {}
    assert envoy.stats("listener_manager.lds.update_rejected") == {"listener_manager.lds.update_rejected": 1}
    assert envoy.publish(policy) == ""
    until_all(lambda: get(envoy.port(), "/livez").text == ALIVE, what="the good policy")


def test_a_new_proxy_with_an_invalid_policy_in_its_bootstrap_does_not_start(start, policy):
    with pytest.raises(RuntimeError, match="Envoy ended with exit code 1") as failed:
        start(wrong(policy), failure=OPEN)
    assert "policy refused: nmae: unknown field" in "".join(failed.value.__notes__)


# -- a VM that has died ----------------------------------------------------------


@pytest.fixture
def one(start, policy):
    """`envoy = one(failure)`: an Envoy with one worker, a drain switch, and a module whose VM a request can end."""
    policy["probes"]["drain"] = {"path": "/drainz"}

    def start_one(failure):
        envoy = start(policy, delivery="ecds", concurrency=1, module=MODULE, failure=failure, timeout="60s")
        assert get(envoy.port(), "/livez").text == ALIVE
        return envoy

    return start_one


def asked(envoy, *requests):
    """Sends requests one after the other on one connection. Returns status and body of each."""
    answers = drive(envoy.port(), [Request(*request) for request in requests], connections=1)
    return [(answer.status, answer.body.decode()) for answer in answers]


DIED = (503, "")


def again(envoy, policy):
    """Pushes the same policy as a new version."""
    return envoy.put("./ecds.json", envoy.config.with_policy(policy).discovery("again"))


def test_open_requests_get_503_at_their_next_event_after_their_vm_died(one, v1):
    """One waits for its response, and the other still sends its body."""
    envoy = one(RELOAD)
    v1.hang(path="/held")
    held = Stream(envoy.port(), "/held", ALICE, "GET", end=True)
    with held, Stream(envoy.port(), "/upload", ALICE) as upload:
        active = "http.graygate.downstream_rq_active"
        until(lambda: v1.seen("/held") and envoy.stats(active)[active] == 2, what="requests under way")
        assert asked(envoy, ("/", HERE)) == [DIED]
        died = {"status": 503, "details": "wasm_fail_stream", "flags": "-"}
        until(lambda: any(died.items() <= line.items() for line in envoy.access_log()), what="the access log")
        assert "Function: proxy_on_request_headers failed: Uncaught RuntimeError: unreachable" in envoy.logs()
        assert not upload.answered()
        upload.send(b"body", end=True)
        assert upload.answer().status == 503
        v1.release()
        assert held.answer().status == 503
    ended = [("/upload", "wasm_fail_stream"), ("/held", "wasm_fail_stream")]
    until(lambda: [(line["path"], line["details"]) for line in envoy.access_log()][-2:] == ended, what="the access log")
    assert v1.seen("/upload") == 0


def test_with_fail_open_that_worker_runs_without_the_filter_until_another_policy(one, policy):
    """Probes reach the app, users get the default route, gates do not apply, and no metric shows it."""
    envoy = one(OPEN)
    assert asked(envoy, ("/", HERE)) == [DIED]
    # The first tick of the main thread sets the gauges.
    until(lambda: envoy.stats("wasmcustom.graygate_policy_enforced"), what="the gauges")
    before = envoy.stats("wasmcustom.graygate_")
    tester = {"x-tester": "true"}
    unknown = [(200, "v1 /livez\n"), (200, "v1 /readyz\n"), (200, "v1 /\n")]
    assert asked(envoy, ("/livez",), ("/readyz",), ("/", tester)) * 5 == unknown * 5
    # Some counters only begin meanwhile, at 0.
    now = envoy.stats("wasmcustom.graygate_")
    changed = {name for name, value in now.items() if before.get(name, 0) != value}
    # The main thread continues to send checks.
    assert {name for name in changed if "graygate_checks_total" not in name} == set()
    assert again(envoy, policy) == ""
    assert asked(envoy, ("/livez",)) == [(200, "v1 /livez\n")], "the same policy again is no other"
    policy["releases"][0]["versions"][1]["weight"] = 11
    assert envoy.publish(policy) == ""
    until(lambda: asked(envoy, ("/livez",), ("/", tester)) == [(200, ALIVE), (200, "v2 /\n")], what="the filter")


def test_with_fail_closed_that_worker_responds_503_until_another_policy(one, policy, v1):
    envoy = one(CLOSED)
    assert asked(envoy, ("/", HERE)) == [DIED]
    requests = v1.requests
    assert asked(envoy, ("/",), ("/livez",), ("/readyz",)) * 5 == [DIED] * 15
    assert again(envoy, policy) == ""
    # This is longer than a worker takes to restart its VM.
    with Load(envoy.port(), [Request("/livez")], rate=100) as load:
        until(lambda: len(load.answers) >= 200, what="two seconds of load")
    assert {answer.status for answer in load.answers} == {503}
    assert v1.requests == requests
    policy["releases"][0]["versions"][1]["weight"] = 11
    assert envoy.publish(policy) == ""
    until(lambda: asked(envoy, ("/livez",)) == [(200, ALIVE)], what="the filter")


def test_with_fail_reload_the_next_request_restarts_the_vm_at_most_once_a_second(one):
    """The time between two restarts is at most that from a request to the response of a later one."""
    envoy = one(RELOAD)
    made: list[float] = []

    def refused():
        assert asked(envoy, ("/", HERE)) == [DIED]
        with Load(envoy.port(), [Request("/livez")], rate=100, connections=1) as load:
            until(lambda: load.answers and load.answers[-1].status == 200, what="the filter")
        back = next(answer for answer in load.answers if answer.status == 200)
        assert {answer.status for answer in load.answers if answer.asked < back.asked} <= {503}
        assert not made or back.answered - made[-1] > 0.9
        made.append(back.asked)
        return envoy.stats("wasm.graygate.vm_reload_")["wasm.graygate.vm_reload_backoff"]

    until(refused, timeout=60, what="a request that came too early for one more")
    assert envoy.stats("wasm.graygate.vm_reload_")["wasm.graygate.vm_reload_success"] == len(made)


def test_with_fail_reload_versions_readiness_and_a_drain_are_restored(one, policy, v1):
    policy["releases"][0]["versions"] = [
        {"name": "v1", "upstream": "reviews-v1", "weight": 50, "default": True},
        {"name": "v2", "upstream": "reviews-v2", "weight": 50},
    ]
    policy["probes"]["details"] = "always"
    envoy = one(RELOAD)
    before = by_user(envoy)
    assert set(before.values()) == {"v1", "v2"}
    get(envoy.port(), "/drainz", method="POST")
    v1.answer(500, path="/healthz")
    known = ("[-]reviews-v1 failed: check-failed: status 500", "[-]drain failed: draining")
    until(lambda: all(word in get(envoy.port(), "/readyz").text for word in known), what="v1 down, draining")
    asked(envoy, ("/", HERE))
    # The first response of the new VM comes before its first tick.
    answer = until(lambda: (a := get(envoy.port(), "/readyz")).text and a, what="a new VM")
    assert all(word in answer.text for word in known)
    assert envoy.stats("wasm.graygate.vm_reload_success") == {"wasm.graygate.vm_reload_success": 1}
    v1.answer(200, path="/healthz")
    until(lambda: known[0] not in get(envoy.port(), "/readyz").text, what="v1 ready")
    assert moves(before, by_user(envoy)) == set()


def test_the_other_workers_continue_when_a_vm_dies(start, policy):
    envoy = start(policy, delivery="ecds", concurrency=2, module=MODULE, failure=CLOSED)
    with ExitStack() as stack:
        connections = []
        for _ in range(32):
            connections.append(http.client.HTTPConnection("127.0.0.1", envoy.port(), timeout=10))
            stack.callback(connections[-1].close)

        def status(connection, headers=None):
            connection.request("GET", "/livez", headers=headers or {})
            answer = connection.getresponse()
            answer.read()
            return answer.status

        assert {status(connection) for connection in connections} == {200}
        assert status(connections[0], HERE) == 503
        after = [status(connection) for connection in connections]
        assert after[0] == 503
        # Neither worker has all 32 connections.
        assert set(after) == {200, 503}
        assert [status(connection) for connection in connections] == after
