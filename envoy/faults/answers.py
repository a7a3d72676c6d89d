"""Classifies the responses of a load, and finds in them when a gate closed and when a contestant recovered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from harness.load import Answer, Load

# In seconds. A slower response is neither good nor refused.
SLOW = 0.5
RUN = 20


def good(answer: Answer) -> bool:
    return answer.status == 200 and answer.seconds < SLOW


def refused(answer: Answer) -> bool:
    """Returns whether the proxy refused the request at once.

    The body is graygate's, or Envoy's for a cluster without a host. Envoy's body is another if a host did not respond.
    """
    is_refusal = gated(answer) or answer.body == b"no healthy upstream"
    return answer.status == 503 and is_refusal and answer.seconds < SLOW


def gated(answer: Answer) -> bool:
    """Returns whether graygate refused the request."""
    return b"is not ready" in answer.body


def failed(answer: Answer) -> bool:
    return not good(answer) and not refused(answer)


def first_of_run(answers: Sequence[Answer], test: Callable[[Answer], bool], others: int) -> float | None:
    """Returns when the first request was sent that passes the test, with at least `others` more in its run that do."""
    passed = [test(answer) for answer in answers]
    for first in range(len(answers) - RUN + 1):
        if passed[first] and sum(passed[first : first + RUN]) > others:
            return answers[first].asked
    return None


def asked_in(load: Load, begin: float, end: float = math.inf) -> list[Answer]:
    return sorted(load.since(begin, lambda answer: answer.asked < end), key=lambda answer: answer.asked)
