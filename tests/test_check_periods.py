"""When checks are sent, by Envoy's clock and on its ticks; all else about their times is in `tests/worlds`."""

from __future__ import annotations

import time

from harness.wait import until


def test_the_first_check_waits_for_the_initial_delay(start, policy, check, v1, v2):
    check["initialDelaySeconds"] = 1
    begun = time.monotonic()
    start(policy)
    until(lambda: v1.seen("/healthz"), what="the first check")
    # It may come half a tick early.
    assert v1.calls_of("/healthz")[0].at - begun > 0.9
    until(lambda: v2.seen("/healthz") >= 3, what="checks of the other one")
