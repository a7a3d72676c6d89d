"""A real Prometheus that scrapes Envoys. Its port is free, and its data ends with it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from .envoy import replace_file
from .wait import until

Labels = dict[str, str]


def program(name: str) -> str:
    """Returns the path of `prometheus` or `promtool`."""
    found = shutil.which(name)
    if not found:
        raise FileNotFoundError(f"{name}: no such program; .ci/prometheus installs it")
    return found


@dataclass(frozen=True)
class Series:
    """One series of a result. An instant query gives one point."""

    labels: Labels
    points: list[tuple[float, float]]

    @property
    def value(self) -> float:
        return self.points[-1][1]


class Prometheus:
    """`targets` maps the label `instance` to the port of an Envoy's admin interface. `rules` are files of rules."""

    def __init__(self, targets: Mapping[str, int], *, interval: str = "250ms", rules: Sequence[Path] = ()) -> None:
        scrapes = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": instance}} for instance, port in targets.items()
        ]
        self._config = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": [str(file) for file in rules],
            "scrape_configs": [
                {"job_name": "envoy", "metrics_path": "/stats/prometheus", "static_configs": scrapes},
            ],
        }
        self._targets = list(targets)

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="graygate-prometheus-"))
        replace_file(self._directory / "prometheus.json", self._config)
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                *("--config.file", str(self._directory / "prometheus.json")),
                *("--storage.tsdb.path", str(self._directory / "data")),
                *("--web.listen-address", "127.0.0.1:0"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self._directory / "log").open("wb"),
        )
        try:
            self._port = until(self._bound_port, 60, "Prometheus bound")
            until(lambda: len(self.query("up == 1")) == len(self._targets), 60, "a scrape of each target")
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, _: object = None, failure: BaseException | None = None, *__: object) -> None:
        self._process.kill()
        self._process.wait()
        if failure:
            failure.add_note(f"--- Prometheus' log ---\n{self._log()}")
        shutil.rmtree(self._directory, ignore_errors=True)

    def _log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    def _bound_port(self) -> int:
        if self._process.poll() is not None:
            raise RuntimeError(f"Prometheus ended with exit code {self._process.returncode}")
        found = re.search(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', self._log())
        return int(found[1]) if found else 0

    def get(self, path: str, **parameters: str) -> Any:
        """Returns the data of a call to its API. An error of Prometheus is a ValueError with its text."""
        address = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            # It is still starting.
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            raise ValueError(f"{path} {parameters}: {error.read().decode(errors='replace')}") from None

    def query(self, expression: str, time: float | None = None) -> list[Series]:
        """Evaluates a query now, or at a time."""
        at = {} if time is None else {"time": str(time)}
        result = self.get("query", query=expression, **at)["result"]
        return [Series(each["metric"], [(each["value"][0], float(each["value"][1]))]) for each in result]

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        result = self.get("query_range", query=expression, start=str(start), end=str(end), step=str(step))["result"]
        return [
            Series(each["metric"], [(float(time), float(value)) for time, value in each["values"]]) for each in result
        ]

    def scrapes(self) -> dict[str, float]:
        """Returns the time of the latest scrape of each target."""
        return {each.labels["instance"]: each.value for each in self.query("timestamp(up)")}

    def has_scraped(self, times: int = 1) -> None:
        """Waits until each target has been scraped `times` more times."""
        for _ in range(times):
            before = self.scrapes()

            def again(before: dict[str, float] = before) -> bool:
                now = self.scrapes()
                return all(now.get(target, 0) > before.get(target, 0) for target in self._targets)

            until(again, 60, "the next scrape")
