"""The times of checks, by Envoy's clock and ticks. `tests/worlds` covers everything else about these times."""

from __future__ import annotations

import time

from harness.wait import until


def test_the_first_check_waits_for_the_initial_delay(start, policy, check, v1, v2):
    check["initialDelaySeconds"] = 1
    begun = time.monotonic()
    start(policy)
    until(lambda: v1.seen("/healthz"), what="the first check")
    # It may be sent half a tick early.
    assert v1.calls_of("/healthz")[0].at - begun > 0.9
    until(lambda: v2.seen("/healthz") >= 3, what="checks of the other one")
