"""Waits for a condition with a deadline, instead of sleeping for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T | Literal[False, ""] | None],
    timeout: float = 30.0,
    what: str = "the condition",
    every: float = 0.02,
) -> T:
    """Evaluates the condition until it is truthy, and returns its value.

    Raises an AssertionError at the deadline, which names what was waited for and the last value. An OSError counts
    as not yet true, because the condition often needs a server that is still starting.
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
    condition: Callable[[], object], timeout: float = 30.0, what: str = "the condition", times: int = 20
) -> None:
    """Evaluates the condition until it is truthy `times` times in a row.

    Use it for what each worker sees on its own tick. If each evaluation makes a new connection, this many reach all
    workers.
    """
    until(lambda: all(condition() for _ in range(times)), timeout, f"{what}, {times} times in a row")
