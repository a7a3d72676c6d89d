"""An Envoy on fixed ports that another process takes over from, or follows."""

from __future__ import annotations

import subprocess

from harness.config import Config, Tree, values_of
from harness.envoy import Envoy
from harness.ports import free_port
from harness.wait import until


def on_fixed_ports(config: Config) -> Tree:
    """Returns the bootstrap. A process finds the sockets of the one before it by their ports."""
    document = config.document()
    for listener in document["static_resources"]["listeners"]:
        for address in values_of(listener["address"], "socket_address"):
            address["port_value"] = free_port()
    return document


class Generations(Envoy):
    def __init__(self, config: Config, concurrency: int = 2) -> None:
        super().__init__(on_fixed_ports(config), concurrency=concurrency)
        self._options.remove("--disable-hot-restart")
        self._parents: list[subprocess.Popen[bytes]] = []

    def _launch(self, *options: str) -> subprocess.Popen[bytes]:
        return super()._launch(*(options or ("--use-dynamic-base-id", "--base-id-path", "base.id")))

    def __exit__(self, _: object = None, failure: BaseException | None = None, *__: object) -> None:
        for process in self._parents:
            process.kill()
            process.wait()
        super().__exit__(None, failure)

    def ended(self) -> bool:
        """Returns whether all processes before the present one have ended."""
        return all(process.poll() is not None for process in self._parents)

    def hot_restart(self) -> None:
        """Starts a process that takes over. Returns when the one before it has ended."""
        self._parents.append(self._process)
        (self.directory / "admin.address").unlink()
        base = (self.directory / "base.id").read_text().strip()
        self._process = self._launch("--base-id", base, "--restart-epoch", str(len(self._parents)))
        until(self._live, 30, "the next Envoy LIVE")
        until(self.ended, 30, "the end of the Envoy before it")

    def quit(self) -> None:
        self.admin("/quitquitquit", "POST")
        self._process.wait(10)

    def start_again(self) -> None:
        """Starts a process that knows nothing of the one before it."""
        (self.directory / "admin.address").unlink()
        self._process = self._launch()
        until(self._live, 30, "Envoy LIVE again")
