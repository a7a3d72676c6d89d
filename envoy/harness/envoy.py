"""A real Envoy as a context manager, with its admin interface, logs and policy updates."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote

from . import client
from .config import Config, Policy, Tree
from .wait import until

PROJECT = Path(__file__).resolve().parents[2]


def binary() -> str:
    """Returns the path of Envoy: $ENVOY, or the one installed beside this Python, or the one on PATH."""
    beside = Path(sys.executable).with_name("envoy")
    found = os.environ.get("ENVOY") or (str(beside) if beside.exists() else shutil.which("envoy"))
    if not found or not shutil.which(found):
        raise FileNotFoundError(f"Envoy: {found}: no such program; set ENVOY to one, or install tests/requirements.txt")
    return found


def version() -> str:
    """Returns Envoy's version. Its line ends with `version: <hash>/1.40.0/Clean/RELEASE/BoringSSL`."""
    done = subprocess.run([binary(), "--version"], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.rpartition("version:")[2].split("/")[1]


@cache
def is_before(release: str) -> bool:
    """Returns whether Envoy is older than this release, such as "1.38"."""
    return [int(part) for part in version().split(".")[:2]] < [int(part) for part in release.split(".")]


def replace_file(path: Path, content: Any) -> None:
    """Replaces a file by a rename, which is the only change that Envoy watches for. JSON is valid YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    fresh.rename(path)


class Envoy:
    """An Envoy that runs in a directory of its own, with links to directories of the project.

    `config` is a `Config` or a whole bootstrap as a dict. `files` are the other files that a whole bootstrap refers to.
    """

    running: ClassVar[list[Envoy]] = []

    def __init__(
        self,
        config: Config | Tree,
        *,
        concurrency: int = 2,
        log_level: str = "info",
        files: Mapping[str, Any] = {},
        links: Sequence[str] = ("dist", "target"),
        own_clock: bool = False,
    ) -> None:
        self.config = config
        self._own_clock = own_clock
        self._links = links
        self._options = [
            *("--concurrency", str(concurrency)),
            *("--drain-time-s", "1", "--drain-strategy", "immediate", "--parent-shutdown-time-s", "2"),
            *("--log-level", log_level, "--component-log-level", "main:warning"),
            # The default of ten seconds would delay the lines of the access log.
            *("--file-flush-interval-msec", "50"),
            "--disable-hot-restart",
        ]
        self._files = dict(files)
        self._version = 1

    # -- start and stop ---------------------------------------------------------

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="graygate-envoy-"))
        for name in self._links:
            (self.directory / name).symlink_to(PROJECT / name)
        for name, content in self._files.items():
            replace_file(self.directory / name, content)
        config = self.config
        if isinstance(config, Config) and config.dynamic_file:
            replace_file(self.directory / config.dynamic_file, config.discovery(str(self._version)))
        document = config.document() if isinstance(config, Config) else config
        replace_file(self.directory / "bootstrap.json", document)
        self._process = self._launch()
        Envoy.running.append(self)
        try:
            until(self._live, 60, "Envoy LIVE")
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _launch(self, *options: str) -> subprocess.Popen[bytes]:
        """Starts a process with these options besides those that each has. It adds to the logs of an earlier one."""
        return subprocess.Popen(
            [binary(), "-c", "bootstrap.json", "--admin-address-path", "admin.address", *self._options, *options],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=(self.directory / "stdout.log").open("ab"),
            stderr=(self.directory / "envoy.log").open("ab"),
            env={**os.environ, **(self._clock() if self._own_clock else {})},
        )

    def __exit__(self, _: object = None, failure: BaseException | None = None, *__: object) -> None:
        Envoy.running.remove(self)
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if failure:
            failure.add_note(f"--- the end of Envoy's log ---\n{self.tail()}")
        shutil.rmtree(self.directory, ignore_errors=True)

    def _live(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"Envoy ended with exit code {self._process.returncode}")
        # Envoy is not LIVE while a listener waits for its first configuration.
        return bool(self.admin_port) and self.admin("/ready").strip() == "LIVE"

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    # -- its clock --------------------------------------------------------------

    def _clock(self) -> dict[str, str]:
        """Returns the environment variables that give Envoy a wall clock of its own."""
        library = PROJECT / "target" / "clock.so"
        if not library.exists():
            raise FileNotFoundError(f"{library}: not built; .ci/clock builds it")
        self.set_clock(0)
        return {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self.directory / "clock")}

    def set_clock(self, seconds: int) -> None:
        """Sets the wall clock this many seconds after the true time, or before it if negative."""
        # Writes in place, as the process has mapped the file.
        (self.directory / "clock").touch()
        with (self.directory / "clock").open("r+b") as file:
            file.write(struct.pack("q", seconds))

    # -- admin interface and logs -----------------------------------------------

    @property
    def admin_port(self) -> int:
        """The port of the admin interface, or 0 until Envoy has bound it."""
        file = self.directory / "admin.address"
        text = file.read_text() if file.exists() else ""
        return int(text.rpartition(":")[2] or 0)

    def admin(self, path: str, method: str = "GET") -> str:
        return client.get(self.admin_port, path, method=method).text

    def port(self, name: str = "graygate") -> int:
        """Returns the port of a listener. Waits until it is bound."""
        return until(lambda: self.ports().get(name), 30, f"listener {name} bound")

    def ports(self) -> dict[str, int]:
        listeners = json.loads(self.admin("/listeners?format=json")).get("listener_statuses", [])
        # An internal listener has no socket address.
        addresses = {entry["name"]: entry["local_address"].get("socket_address") for entry in listeners}
        return {name: address["port_value"] for name, address in addresses.items() if address}

    def stats(self, prefix: str = "") -> dict[str, Any]:
        """Returns the statistics with this prefix. Counters and gauges are int, texts are str."""
        answer = self.admin(f"/stats?format=json&filter={quote('^' + re.escape(prefix))}")
        return {stat["name"]: stat["value"] for stat in json.loads(answer)["stats"] if "value" in stat}

    def counter(self, metric: str, **tags: str) -> int:
        """Returns the sum of a counter of the filter over all label sets that include these labels.

        `from` is written `from_`: `counter("graygate_transitions_total", from_="ready")`.
        """
        wanted = {name.rstrip("_"): value for name, value in tags.items()}
        total = 0
        for name, value in self.stats(f"wasmcustom.{metric}.").items():
            labels = dict(re.findall(r"(\w+)=\.=(.*?);\.;", name))
            total += value if wanted.items() <= labels.items() else 0
        return total

    def transitions(self, **tags: str) -> int:
        """Returns the number of transitions of upstreams with these labels."""
        return self.counter("graygate_transitions_total", **tags)

    def prometheus(self) -> str:
        return self.admin("/stats/prometheus")

    def logs(self) -> str:
        """Returns Envoy's log so far, which includes the filter's log."""
        return (self.directory / "envoy.log").read_text(errors="replace")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.logs().splitlines()[-lines:])

    def access_log(self, listener: str = "graygate") -> list[dict[str, Any]]:
        """Returns one dict per finished request. Lines are up to about 50 ms late, so poll for them."""
        file = self.directory / f"{listener}.access.log"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    # -- new policies -----------------------------------------------------------

    def publish(self, policy: Policy, timeout: float = 30.0) -> str:
        """Gives a running Envoy a new policy. Returns "" once it is accepted, or the reason once it is refused."""
        if not isinstance(self.config, Config) or not self.config.dynamic_file:
            raise ValueError('publish: this Envoy\'s filter is static; allowed: delivery "ecds" or "lds"')
        file = self.config.dynamic_file
        self.config = self.config.with_policy(policy)
        self._version += 1
        return self.put(file, self.config.discovery(str(self._version)), timeout)

    def put(self, file: str, discovery: Tree, timeout: float = 30.0) -> str:
        """Gives a running Envoy a discovery response with a new version_info. Returns like `publish`.

        The main thread reports that it has accepted the response. Each worker follows within milliseconds.
        The reason of a refusal is what the filter logged meanwhile and Envoy's error. Envoy's error alone
        says only that the plugin could not be created.
        """
        logged, refused = len(self.logs()), self.refusals()
        version = discovery["version_info"]
        replace_file(self.directory / file, discovery)

        def verdict() -> str | None:
            if self.refusals() > refused:
                return "refused"
            return "taken" if self.live_version() == version else None

        if until(verdict, timeout, f"{file} version {version} taken or refused by Envoy") == "taken":
            return ""
        # A log entry may have several lines, and ends before the timestamp of the next one.
        entry = r"(?s)(?:wasm log graygate|config update rejected): (.*?)(?=\n\[\d{4}-|\n*\Z)"
        return "\n".join(re.findall(entry, self.logs()[logged:]))

    def refusals(self) -> int:
        """Returns the number of dynamic configurations that were refused so far."""
        return int(self._discovery("update_rejected")) + int(self._discovery("update_failure"))

    def live_version(self) -> str:
        """Returns the version_info of the latest dynamic configuration that Envoy accepted."""
        # Not from the configuration dump. There, a listener updated in place keeps its first
        # version, and a filter has even a version that was refused.
        warming = self.stats("listener_manager.total_listeners_warming").values()
        return "" if any(warming) else str(self._discovery("version_text"))

    def error_state(self) -> str:
        """Returns the error that the configuration dump has for a refused listener, or "" if there is none."""
        dumps = json.loads(self.admin("/config_dump"))["configs"]
        listeners = [entry for dump in dumps for entry in dump.get("dynamic_listeners", [])]
        details = [entry["error_state"].get("details", "") for entry in listeners if "error_state" in entry]
        return details[0] if details else ""

    def _discovery(self, stat: str) -> Any:
        names = ("listener_manager.lds", "extension_config_discovery.http_filter.graygate")
        for prefix in names:
            for name, value in self.stats(f"{prefix}.{stat}").items():
                if name == f"{prefix}.{stat}":
                    return value
        return 0
