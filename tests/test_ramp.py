"""After a trial: a rising share of the requests goes, and the others are told."""

from __future__ import annotations

from harness.client import get
from harness.load import Load, Request, drive
from harness.wait import until, until_all

ALICE = {"x-user-id": "alice"}


def recover(start, policy, v1, ramp):
    """An Envoy whose v1 has failed, is well again, and passes its trial."""
    upstream = policy["upstreams"]["reviews-v1"]
    del upstream["readinessProbe"]
    trial = {"requests": 1, "successes": 1, "rampOver": ramp}
    upstream["circuitBreaker"] = {"consecutiveFailures": 3, "notReadyFor": "500ms", "trial": trial}
    envoy = start(policy)
    v1.answer(500)
    until(lambda: get(envoy.port(), "/", ALICE).status == 503, what="gated")
    v1.answer(200)

    def passed():
        get(envoy.port(), "/", ALICE)
        return envoy.transitions(from_="trial", to="ramp")

    until(passed, what="a trial that passes")
    return envoy


def served(envoy):
    """Of 100 requests."""
    return [answer.status for answer in drive(envoy.port(), [Request("/", ALICE)] * 100)].count(200)


def test_the_share_of_requests_that_go_rises_until_all_do(start, policy, v1):
    envoy = recover(start, policy, v1, "6s")
    shares = [served(envoy)]

    def all_go():
        shares.append(served(envoy))
        return shares[-3:] == [100] * 3

    until(all_go, timeout=20, what="all go")
    assert shares[0] < 60
    assert any(20 < share < 80 for share in shares)
    assert envoy.transitions(from_="trial", to="ramp", reason="trial-passed") == 1
    until(lambda: envoy.transitions(from_="ramp", to="ready", reason="ramp-over") == 1, what="the end of the ramp")


def test_who_does_not_go_is_told_as_by_a_gate(start, policy, v1):
    envoy = recover(start, policy, v1, "1h")
    until_all(lambda: get(envoy.port(), "/readyz").status == 200, what="all workers know of the ramp")
    answer = until(
        lambda: (answer := get(envoy.port(), "/", ALICE)).status == 503 and answer, what="one who does not go"
    )
    assert answer.headers["retry-after"] == "2"
    assert b"upstream reviews-v1 is not ready: on-ramp" in answer.body


def test_failures_on_a_ramp_end_it(start, policy, v1):
    envoy = recover(start, policy, v1, "2s")
    v1.answer(500)
    until(lambda: served(envoy) == 0 and envoy.transitions(from_="ramp", to="not-ready"), what="gated again")
    assert envoy.transitions(from_="ramp", to="not-ready", reason="consecutive-failures") == 1


def test_who_is_let_in_is_let_in_by_all_gates(start, policy, v1):
    """A draw for each of two gates would let in a third of the requests over the whole ramp, and not half of them."""
    policy["gates"] = policy["gates"] * 2
    envoy = recover(start, policy, v1, "5s")
    with Load(envoy.port(), [Request("/", ALICE)], rate=100) as load:
        until(lambda: envoy.transitions(from_="ramp", to="ready"), what="the end of the ramp")
        statuses = [answer.status for answer in load.answers]
    assert 0.42 < statuses.count(200) / len(statuses) < 0.65


def test_checks_that_pass_lead_back_over_a_ramp_too(start, policy, v1):
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {"trial": {"rampOver": "3s"}}
    envoy = start(policy)
    v1.answer(500, path="/healthz")
    until(lambda: envoy.transitions(to="not-ready", reason="check-failed"), what="not ready")
    v1.answer(200, path="/healthz")
    until(lambda: envoy.transitions(from_="not-ready", to="ramp", reason="check-passed"), what="a ramp")
    until(lambda: envoy.transitions(from_="ramp", to="ready", reason="ramp-over"), what="the end of the ramp")
