"""A headless Chromium, which is driven by the DevTools protocol over a pipe.

The pipe needs no port and no library: each message is JSON that ends with a null byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from .wait import until

OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
]


def high(*descriptors: int) -> list[int]:
    """Returns the descriptors as others that are neither 3 nor 4."""
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    return moved


class Chromium:
    """A browser with one page. It records the page's requests, console errors and exceptions."""

    def __enter__(self) -> Self:
        binary = shutil.which("chromium")
        if not binary:
            raise FileNotFoundError("chromium: no such program; .ci/chromium installs it")
        self._directory = Path(tempfile.mkdtemp(prefix="graygate-chromium-"))
        to_read, self._write = high(*os.pipe())
        self._read, to_write = high(*os.pipe())
        # The browser reads commands from descriptor 3 and answers on 4. Unlike others, bash takes any number.
        command = [binary, *OPTIONS, f"--user-data-dir={self._directory}", "--remote-debugging-pipe", "about:blank"]
        wrapped = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", *command]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(wrapped, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=(to_read, to_write))
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.errors: list[str] = []
        try:
            targets = until(self._pages, 30, "a page")
            attached = self.call("Target.attachToTarget", targetId=targets[0]["targetId"], flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _pages(self) -> list[dict[str, Any]]:
        found = self.call("Target.getTargets")["targetInfos"]
        return [target for target in found if target["type"] == "page"]

    def call(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result. Records the events that come meanwhile."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 30
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _next(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._read, 1 << 16) if ready else b""
            assert part, f"chromium does not answer {what}"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.errors.append(str(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    def look(self, *, width: int = 1000, height: int = 800, dark: bool = False) -> None:
        """Sets the size of the window, and the colours that the user prefers."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        preference = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[preference])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Returns the value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self) -> str:
        """Returns the text that the page shows, with spaces only between words."""
        return " ".join(str(self.evaluate("document.body ? document.body.innerText : ''")).split())

    def picture(self, file: Path) -> None:
        """Writes a picture of the whole page."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))
