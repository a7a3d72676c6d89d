"""Prints at once, as a run takes minutes."""

from __future__ import annotations


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)
