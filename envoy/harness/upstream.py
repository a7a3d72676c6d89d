"""A small HTTP/1.1 upstream: the demo service as a program, and a test double as a class.

The program responds to any path with 200, `x-version: <name>` and `<name> <path>`. The body for `/count` is the number
of requests on all paths but `/healthz` and `/count`.

The class `Upstream` runs the same server in a thread of its own and records its requests. At any time it can be made to
be slow, hang, reset or refuse connections.

Only what HTTP client libraries send is parsed: request line, headers, content-length and chunked bodies. Speed matters
more than completeness, as the upstream shares its cores with the proxy that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import struct
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

T = TypeVar("T")
Headers = Sequence[tuple[str | bytes, str | bytes]]

UNCOUNTED = ("/healthz", "/count")
REASONS = {200: "OK", 204: "No Content", 404: "Not Found", 503: "Service Unavailable"}
MAX_HEAD = 1 << 20
# The number of latest requests that are kept for each path.
KEPT_CALLS = 1000


def raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def encode(status: int, headers: Headers, body: bytes, *, head: bool = False) -> bytes:
    """Returns an encoded response. With `head`, it has the body's length but no body."""
    lines = [b"HTTP/1.1 %d %s" % (status, REASONS.get(status, "Status").encode())]
    lines += [raw(name) + b": " + raw(value) for name, value in headers]
    lines.append(b"content-length: %d\r\n\r\n" % len(body))
    return b"\r\n".join(lines) + (b"" if head else body)


@dataclass(frozen=True)
class Behaviour:
    """How the upstream handles a request. `reset` is "", "before" the response, or "mid-body".

    `whole` is the response byte for byte, instead of status, headers and body. With `close` the upstream closes the
    connection after its response.
    """

    status: int | None = None
    headers: Headers = ()
    body: bytes | None = None
    delay: float = 0.0
    hang: bool = False
    reset: str = ""
    whole: bytes | None = None
    close: bool = False


NORMAL = Behaviour()


class Call(NamedTuple):
    """A request that was received. `at` is a time of the monotonic clock."""

    method: str
    at: float


class Connection(asyncio.Protocol):
    """A keep-alive connection. Pipelined requests get their responses in order."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.pending = b""
        self.paused = False  # while a response is delayed, requests behind it wait

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.service.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.pending += data
        self.serve()

    def serve(self) -> None:
        answers: list[bytes] = []
        while not self.paused and not self.transport.is_closing():
            request = self.next_request()
            if request is None:
                break
            method, path, headers = request
            behaviour = self.service.note(method, path, headers)
            if behaviour is NORMAL:
                answers.append(self.service.normal(method, path))
                continue
            # Sends earlier responses first, so that a reset cannot drop them.
            self.transport.write(b"".join(answers))
            answers.clear()
            self.misbehave(behaviour, method, path)
        if answers:
            self.transport.write(b"".join(answers))

    def next_request(self) -> tuple[str, str, list[tuple[bytes, bytes]]] | None:
        """Takes one whole request with its body from the buffer. Returns None while it is incomplete."""
        end = self.pending.find(b"\r\n\r\n")
        if end < 0:
            if len(self.pending) > MAX_HEAD:
                self.transport.abort()
            return None
        line, *fields = self.pending[:end].split(b"\r\n")
        method, path, _ = line.decode("latin-1").split(" ", 2)
        headers = [(name.lower(), value.strip()) for name, _, value in (field.partition(b":") for field in fields)]
        rest = self.after_body(end + 4, headers)
        if rest is None:
            return None
        self.pending = self.pending[rest:]
        return method, path, headers

    def after_body(self, start: int, headers: list[tuple[bytes, bytes]]) -> int | None:
        """Returns where the next request begins, or None while this request's body is incomplete."""
        length = 0
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                end = self.pending.find(b"0\r\n\r\n", start)
                return None if end < 0 else end + 5
        return start + length if len(self.pending) >= start + length else None

    def misbehave(self, behaviour: Behaviour, method: str, path: str) -> None:
        if behaviour.hang:
            self.paused = True
            self.service.held.append((self, method, path))
        elif behaviour.delay:
            self.paused = True
            asyncio.get_running_loop().call_later(behaviour.delay, self.resume, behaviour, method, path)
        else:
            self.answer(behaviour, method, path)

    def resume(self, behaviour: Behaviour, method: str, path: str) -> None:
        self.paused = False
        if not self.transport.is_closing():
            self.answer(behaviour, method, path)
            self.serve()

    def answer(self, behaviour: Behaviour, method: str, path: str) -> None:
        if behaviour.reset == "before":
            self.reset()
            return
        answer = self.service.given(behaviour, method, path)
        if behaviour.reset == "mid-body":
            # The head announces 64 bytes more than are sent.
            head, _, body = answer.partition(b"\r\n\r\n")
            promise = head.rpartition(b"content-length: ")[0] + b"content-length: %d" % (len(body) + 64)
            self.transport.write(promise + b"\r\n\r\n" + body)
            # Resets later, so that the proxy has time to read what was sent.
            asyncio.get_running_loop().call_later(0.02, self.reset)
            return
        self.transport.write(answer)
        if behaviour.close:
            self.transport.close()

    def reset(self) -> None:
        """Closes the connection with RST rather than FIN."""
        with suppress(OSError):
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Service:
    """The state that all connections of one upstream share. Used only on the thread of the loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paths: Counter[str] = Counter()
        self.last_headers: dict[str, list[tuple[bytes, bytes]]] = {}
        self.calls: defaultdict[str, deque[Call]] = defaultdict(lambda: deque(maxlen=KEPT_CALLS))
        self.connections: set[Connection] = set()
        self.held: list[tuple[Connection, str, str]] = []
        self.behaviour = NORMAL
        self.by_path: dict[str, Behaviour] = {}

    @property
    def requests(self) -> int:
        return self.paths.total() - sum(self.paths[path] for path in UNCOUNTED)

    def note(self, method: str, target: str, headers: list[tuple[bytes, bytes]]) -> Behaviour:
        path = target.partition("?")[0]
        self.paths[path] += 1
        self.last_headers[path] = headers
        self.calls[path].append(Call(method, time.monotonic()))
        return self.by_path.get(path, self.behaviour)

    def normal(self, method: str, target: str) -> bytes:
        return self.given(NORMAL, method, target)

    def given(self, behaviour: Behaviour, method: str, target: str) -> bytes:
        if behaviour.whole is not None:
            return behaviour.whole
        path = target.partition("?")[0]
        body = behaviour.body
        if body is None:
            text = f"{self.requests}\n" if path == "/count" else f"{self.name} {target}\n"
            body = text.encode("latin-1")
        headers = [("x-version", self.name), ("content-type", "text/plain"), *behaviour.headers]
        return encode(behaviour.status or 200, headers, body, head=method == "HEAD")

    async def listen(self, port: int, address: str = "127.0.0.1") -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Connection(self), address, port, backlog=1024)

    def drop(self) -> None:
        for connection in list(self.connections):
            connection.reset()

    def release(self) -> None:
        held, self.held = self.held, []
        for connection, method, path in held:
            connection.resume(NORMAL, method, path)


class Upstream:
    """A test's upstream, in a thread of its own.

    A behaviour applies to all paths or to one, until the next one. `answer()` without arguments restores normal
    behaviour. It does not release requests that are already
    delayed or hanging; `release()` answers those that hang. The upstream keeps its port while it
    refuses connections.
    """

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self.port = port
        self._service = Service(name)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._claim = socket.socket()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"upstream-{name}", daemon=True)

    def __enter__(self) -> Self:
        # Binds the port while the context lasts, and never listens on this socket. So connections are refused while the
        # server is closed, and nobody else gets the port as a free one.
        self._claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._claim.bind(("127.0.0.1", self.port))
        self.port = self._claim.getsockname()[1]
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self._claim.close()

    # -- recorded requests ------------------------------------------------------

    @property
    def requests(self) -> int:
        """The number of requests on paths other than `/healthz` and `/count`."""
        return self._on_loop(lambda: self._service.requests)

    def last_headers_of(self, path: str) -> list[tuple[bytes, bytes]]:
        """Returns the headers of the latest request on this path, in order. Names are in lower case."""
        return self._on_loop(lambda: self._service.last_headers[path])

    def calls_of(self, path: str) -> list[Call]:
        """Returns the latest requests on this path, at most 1,000."""
        return self._on_loop(lambda: list(self._service.calls[path]))

    def seen(self, path: str) -> int:
        """Returns the number of requests on this path. The query string is not part of the path."""
        return self._on_loop(lambda: self._service.paths[path])

    # -- behaviour --------------------------------------------------------------

    def answer(
        self, status: int | None = None, headers: Headers = (), body: bytes | None = None, *, path: str | None = None
    ) -> None:
        self.behave(Behaviour(status, headers, body) if (status, headers, body) != (None, (), None) else NORMAL, path)

    def slow(self, seconds: float, *, path: str | None = None) -> None:
        self.behave(Behaviour(delay=seconds), path)

    def hang(self, *, path: str | None = None) -> None:
        """Accepts and reads requests, but never responds."""
        self.behave(Behaviour(hang=True), path)

    def release(self) -> None:
        """Answer all requests that hang."""
        self._on_loop(self._service.release)

    def reset(self, *, path: str | None = None) -> None:
        """Resets the connection instead of responding."""
        self.behave(Behaviour(reset="before"), path)

    def reset_mid_body(self, *, path: str | None = None) -> None:
        self.behave(Behaviour(reset="mid-body"), path)

    def behave(self, behaviour: Behaviour, path: str | None = None) -> None:
        """Sets the behaviour for one path, or for all paths. The latter also replaces those of single paths."""

        def change() -> None:
            if path is None:
                self._service.by_path.clear()
                self._service.behaviour = behaviour
            else:
                self._service.by_path[path] = behaviour

        self._on_loop(change)

    def refuse(self) -> None:
        """Closes the listening socket and resets every connection, so that connections are refused."""

        async def close() -> None:
            if self._server:
                self._server.close()
                self._server = None
            self._service.drop()

        self._await(close())

    def accept(self) -> None:
        """Listens again on the same port."""

        async def listen() -> None:
            if self._server is None:
                self._server = await self._service.listen(self.port)

        self._await(listen())

    # -- calls into the thread of the loop --------------------------------------

    def _on_loop(self, act: Callable[[], T]) -> T:
        async def call() -> T:
            return act()

        return self._await(call())

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(5)


async def serve(name: str, port: int, address: str) -> None:
    server = await Service(name).listen(port, address)
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    print(f"{name} listens on {address}:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="the demo service behind the proxy")
    parser.add_argument("--name", required=True, help="the version that it answers as, e.g. v1")
    parser.add_argument("--port", type=int, required=True, help="0 picks a free one")
    parser.add_argument("--address", default="127.0.0.1", help="where it listens; 0.0.0.0 in a container")
    options = parser.parse_args()
    asyncio.run(serve(options.name, options.port, options.address))


if __name__ == "__main__":
    main()
