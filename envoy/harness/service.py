"""The demo service as a process."""

from __future__ import annotations

import subprocess
import sys
from typing import Self

from .client import get
from .wait import until


class Service:
    """One version of the demo service, in a process that can be killed, stopped and started."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        command = [sys.executable, "-m", "harness.upstream", "--name", self.name, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until(lambda: get(self.port, "/healthz").status == 200, 30, f"{self.name} on port {self.port}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def count(self) -> int:
        return int(get(self.port, "/count").body)
