"""The service behind the proxy, as a process that can be killed and stopped, and that can be told to misbehave."""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import suppress

from chaos.service import Service
from harness.client import get
from harness.signals import end_by_signals
from harness.upstream import Upstream
from harness.wait import until

ORDERS = ("well", "500", "hang")


class Told(Service):
    """Takes an order a line. Each is in force when `tell` returns."""

    def start(self) -> None:
        command = [sys.executable, "-m", "soak.service", "--name", self.name, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        until(lambda: get(self.port, "/healthz").status == 200, what=f"{self.name} responds")

    def kill(self) -> None:
        super().kill()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()

    def tell(self, order: str) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{order}\n".encode())
        self._process.stdin.flush()
        assert self._process.stdout.readline() == f"{order}\n".encode()


def obey(upstream: Upstream, order: str) -> None:
    """Checks find the service well while it answers users with 500. While it hangs, they hang, too."""
    if order == "500":
        upstream.answer(500, path="/")
    elif order == "hang":
        upstream.hang()
    else:
        upstream.answer()
        upstream.release()


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak.service")
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    end_by_signals()
    with suppress(KeyboardInterrupt), Upstream(given.name, given.port) as upstream:
        # Ends with the program that has started it, which closes the pipe.
        for line in sys.stdin:
            obey(upstream, line.strip())
            print(line.strip(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
