"""The loads. Each sends requests to a contestant for a while, and returns how many were answered as expected.

- `Wrk` keeps Envoy busy, so that it never waits for the load.
"""

from __future__ import annotations

import math
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from harness.wait import until

from .contestants import Contestant
from .placement import Placement


class Load:
    """`helper` is the process that works beside the load while it runs, if there is one. `upstream` is the port of the
    upstream that the load needs, if it needs one of its own. `renews` tells whether each burst has new connections.
    """

    helper: int | None = None
    upstream: int | None = None
    renews = False

    def __init__(self, connections: int, placement: Placement) -> None:
        self._count = connections
        self._placement = placement

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what the load has started."""

    def burst(self, port: int, contestant: Contestant, seconds: float) -> int:
        raise NotImplementedError


# -- wrk --------------------------------------------------------------------------


def catches(process: int, number: signal.Signals) -> bool:
    """Returns whether the process has a handler for the signal."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


class Wrk(Load):
    renews = True

    def burst(self, port: int, contestant: Contestant, seconds: float) -> int:
        """Sends as many requests as the connections carry in that time."""
        question, status = contestant.question, contestant.answer.status
        headers = [part for pair in question.all_headers.items() for part in ("--header", ": ".join(pair))]
        url = f"http://127.0.0.1:{port}{question.path}"
        # wrk accepts only whole seconds. When interrupted earlier, it stops as it does at the end of its time.
        most = f"{math.ceil(seconds) + 1}s"
        command = ["wrk", "--threads", "1", "--connections", str(self._count), "--duration", most, *headers, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
            try:
                # Until its threads run, the signal would end it without a report.
                until(
                    lambda: wrk.poll() is not None or catches(wrk.pid, signal.SIGINT), what="wrk at work", every=0.001
                )
                time.sleep(seconds)
            finally:
                wrk.send_signal(signal.SIGINT)
                said, _ = wrk.communicate()
        counted = re.search(r"(\d+) requests in", said)
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
        requests, failures = (int(found[1]) if found else 0 for found in (counted, refused))
        if not requests or "Socket errors" in said or failures != (requests if status >= 400 else 0):
            raise SystemExit(f"{url}: not all were answered with {status}; wrk said:\n{said}")
        return requests


LOADS: Mapping[str, type[Load]] = {"wrk": Wrk}
