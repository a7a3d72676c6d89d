"""The service behind the proxy, as a process that can be killed and stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Self

from harness.client import get
from harness.ports import free_port
from harness.wait import until


class Service:
    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        command = [sys.executable, "-m", "harness.upstream", "--name", self.name, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until(lambda: get(self.port, "/healthz").status == 200, what=f"{self.name} responds")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """The kernel still accepts connections, and nobody reads from them."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)
