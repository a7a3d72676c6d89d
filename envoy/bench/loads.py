"""The loads. Each sends requests to a contestant for a while, and returns how many were answered as expected.

- `Wrk` keeps Envoy busy, so that it never waits for the load.
- `Cold` sends a short burst of requests, one on each connection, and then sweeps the caches before the next. The sweep
  runs on Envoy's core while Envoy has nothing to do. It is a process of its own, so its CPU time is not Envoy's.
- `Bodies` sends a large body with each request, and gets one of the same size. Python sends them, as wrk would have to
  copy the body for each request in Lua.
"""

from __future__ import annotations

import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

from harness.wait import until

from .contestants import Contestant, Question
from .placement import Placement, pin

BODY_BYTES = 10 << 20


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


# -- by hand ----------------------------------------------------------------------


def head(question: Question, method: str = "GET", length: int = 0) -> bytes:
    lines = [f"{method} {question.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in question.all_headers.items()]
    lines += [f"content-length: {length}"] if length else []
    return "\r\n".join([*lines, "", ""]).encode()


def content_length(text: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)\r\n", text)
    return int(found[1]) if found else 0


def receive(connection: socket.socket, into: bytearray) -> bytes:
    """Receives one message over the contents of `into`. Returns its head, or nothing if the connection was closed."""
    got = connection.recv_into(into)
    while (end := into.find(b"\r\n\r\n", 0, got)) < 0:
        more = connection.recv_into(memoryview(into)[got:])
        if not more:
            return b""
        got += more
    text = bytes(into[: end + 4])
    missing = content_length(text) - (got - end - 4)
    while missing > 0:
        received = connection.recv_into(into)
        if not received:
            raise ConnectionResetError("closed before the end of a body")
        missing -= received
    return text


class Connections:
    """Connections to each contestant, which are kept from burst to burst."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._open: dict[int, list[socket.socket]] = {}

    def to(self, port: int) -> list[socket.socket]:
        if port not in self._open:
            self._open[port] = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(self._count)]
        return self._open[port]

    def close(self) -> None:
        for connections in self._open.values():
            for connection in connections:
                connection.close()


def expect(contestant: Contestant, text: bytes) -> None:
    if text.split(b" ")[1:2] != [b"%d" % contestant.answer.status]:
        raise SystemExit(f"{contestant.title}: not all were answered with {contestant.answer.status}: {text!r}")


# -- cold caches ------------------------------------------------------------------


class Cold(Load):
    def __enter__(self) -> Self:
        self._connections = Connections(self._count)
        self._buffer = bytearray(1 << 16)
        command = [sys.executable, "-m", "bench.sweep"]
        self._sweeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.helper = self._sweeper.pid
        pin(self.helper, self._placement.envoy)
        self._swept()
        return self

    def __exit__(self, *_: object) -> None:
        self._connections.close()
        self._sweeper.kill()
        self._sweeper.communicate()

    def _swept(self) -> None:
        assert self._sweeper.stdout
        if not self._sweeper.stdout.readline():
            raise SystemExit("the program that sweeps the caches has ended")

    def _sweep(self) -> None:
        assert self._sweeper.stdin
        self._sweeper.stdin.write(b"\n")
        self._sweeper.stdin.flush()
        self._swept()

    def burst(self, port: int, contestant: Contestant, seconds: float) -> int:
        """Sends one request on each connection after each sweep."""
        request, connections = head(contestant.question), self._connections.to(port)
        until_then, requests = time.monotonic() + seconds, 0
        while not requests or time.monotonic() < until_then:
            self._sweep()
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                expect(contestant, receive(connection, self._buffer))
            requests += len(connections)
        return requests


# -- bodies -----------------------------------------------------------------------


class Bodies(Load):
    def __enter__(self) -> Self:
        self._connections = Connections(self._count)
        self._body = bytes(BODY_BYTES)
        self._pool = ThreadPoolExecutor(self._count)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.upstream = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connections.close()
        self._listening.close()
        self._pool.shutdown()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answers each request with a body of the same length, once it has received all of it."""
        buffer = bytearray(1 << 20)
        # The proxy may end first.
        with connection, suppress(OSError):
            while text := receive(connection, buffer):
                length = content_length(text)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length)
                connection.sendall(memoryview(self._body)[:length])

    def burst(self, port: int, contestant: Contestant, seconds: float) -> int:
        """Sends one body after the other on each connection."""
        until_then = time.monotonic() + seconds
        request = head(contestant.question, "POST", BODY_BYTES)

        def send(connection: socket.socket) -> int:
            buffer, requests = bytearray(1 << 20), 0
            while not requests or time.monotonic() < until_then:
                connection.sendall(request)
                connection.sendall(self._body)
                text = receive(connection, buffer)
                expect(contestant, text)
                if content_length(text) != BODY_BYTES:
                    raise SystemExit(f"{contestant.title}: a body of {content_length(text)} bytes")
                requests += 1
            return requests

        return sum(self._pool.map(send, self._connections.to(port)))


LOADS: Mapping[str, type[Load]] = {"wrk": Wrk, "cold": Cold, "bodies": Bodies}
