"""The program h2spec, which sends a server what the standard of HTTP/2 forbids, and judges how it reacts."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from .envoy import PROJECT

PROGRAM = PROJECT / ".tools" / "bin" / "h2spec"
# How long a case waits for a reaction that does not come, in seconds. Some ten cases do.
PATIENCE = 4
# A connection that Envoy closes stays open for a second otherwise, and h2spec waits for its end.
OPTIONS = {"delayed_close_timeout": "0.1s"}


def run(port: int, path: str) -> dict[str, str]:
    """Runs all cases against 127.0.0.1 at this path. Returns "passed" or "failed" for each case."""
    if not PROGRAM.exists():
        raise FileNotFoundError(f"{PROGRAM}: no such program; .ci/go-tools installs it")
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [str(PROGRAM), "-p", str(port), "-P", path, "-S", "-o", str(PATIENCE), "-j", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=False)
        if not report.exists():
            raise RuntimeError(f"{PROGRAM} --port {port}: no report; it said: {done.stdout}{done.stderr}")
        # It quotes bytes from the connection, which XML may not contain.
        text = re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd]", "?", report.read_text(errors="replace"))
    return dict(cases(ET.fromstring(text)))


def cases(report: ET.Element) -> Iterator[tuple[str, str]]:
    seen: dict[str, int] = {}
    for case in report.iter("testcase"):
        name = f"{case.get('package')}: {case.get('classname')}"
        seen[name] = seen.get(name, 0) + 1
        failed = case.find("failure") is not None or case.find("error") is not None
        yield (f"{name} ({seen[name]})" if seen[name] > 1 else name), "failed" if failed else "passed"
