"""The signals that end a program which has started others."""

from __future__ import annotations

import signal


def end_by_signals() -> None:
    """Handles SIGTERM like Ctrl-C, so that every process that was started is stopped.

    A shell makes background jobs ignore SIGINT, so its handler is set again.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
