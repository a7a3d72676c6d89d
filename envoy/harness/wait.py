"""Waiting without sleeping blindly: a condition, a deadline, and what was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T | Literal[False, ""] | None],
    timeout: float = 10.0,
    what: str = "the condition",
    every: float = 0.02,
) -> T:
    """Ask until the condition is truthy, and return its value.

    An AssertionError names what was waited for and the last value. An OSError counts
    as "not yet", because what is waited for is often a server that comes up.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            value = condition()
            if value:
                return value
            last = repr(value)
        except OSError as error:
            last = repr(error)
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}; last value: {last}")
        time.sleep(every)


def until_all(
    condition: Callable[[], object], timeout: float = 10.0, what: str = "the condition", times: int = 20
) -> None:
    """Ask until the condition is truthy so many times in a row.

    For what each worker learns on a tick of its own: where every question is a new
    connection, so many of them come to all workers.
    """
    until(lambda: all(condition() for _ in range(times)), timeout, f"{what}, {times} times in a row")
