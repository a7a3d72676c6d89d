"""After a trial, a share of the requests is forwarded and the others are gated."""

from __future__ import annotations

from harness.breaker import judged
from harness.client import get
from harness.load import Load, Request
from harness.wait import until


def test_gated_requests_on_a_ramp_get_the_gates_reply(start, policy, v1):
    trial = {"requests": 1, "successes": 1, "rampOver": "1h"}
    settings = {"consecutiveFailures": 3, "notReadyFor": "100ms", "maxNotReadyFor": "100ms", "trial": trial}
    envoy = start(judged(policy, **settings))
    v1.answer(500)
    with Load(envoy.port(), [Request()], rate=200):
        until(lambda: envoy.transitions(to="trial"), what="a trial")
        v1.answer()
        until(lambda: envoy.transitions(from_="trial", to="ramp", reason="trial-passed"), what="a ramp")
    told = "upstream reviews-v1 is not ready: on-ramp"
    answer = until(lambda: told in (answer := get(envoy.port())).text and answer, what="one who does not go")
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert get(envoy.port(), "/readyz").status == 200
