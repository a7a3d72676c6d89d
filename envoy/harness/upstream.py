"""A small HTTP/1.1 upstream: the demo service as a program, a test double as a class.

The program answers any path with 200, `x-version: <name>` and `<name> <path>`;
`/healthz` with 200; `/count` with the number of requests on all other paths.

The class `Upstream` runs the same server in a thread of its own, counts what it
sees, and can be told at any time to misbehave: slow, hang, reset, refuse.

Only what an HTTP client library needs is parsed: request line, headers,
content-length and chunked bodies. Speed matters more here than completeness, since
the upstream shares its cores with the proxy that is being measured.
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
# How many of a path's latest requests are remembered.
KEPT_CALLS = 1000


def raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def encode(status: int, headers: Headers, body: bytes, *, head: bool = False) -> bytes:
    """One response. The answer to HEAD announces the body's length and leaves it out."""
    lines = [b"HTTP/1.1 %d %s" % (status, REASONS.get(status, "Status").encode())]
    lines += [raw(name) + b": " + raw(value) for name, value in headers]
    lines.append(b"content-length: %d\r\n\r\n" % len(body))
    return b"\r\n".join(lines) + (b"" if head else body)


@dataclass(frozen=True)
class Behaviour:
    """What is done with a request. `reset` is "", "before" the answer, or "mid-body".

    `whole` is an answer byte for byte, instead of one made of status, headers and body.
    """

    status: int | None = None
    headers: Headers = ()
    body: bytes | None = None
    delay: float = 0.0
    hang: bool = False
    reset: str = ""
    whole: bytes | None = None


NORMAL = Behaviour()


class Call(NamedTuple):
    """`at` is on the monotonic clock."""

    method: str
    at: float


class Connection(asyncio.Protocol):
    """One keep-alive connection; pipelined requests are answered in order."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.pending = b""
        self.paused = False  # an answer is being delayed: requests behind it wait

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
            # Earlier answers leave first, so that a reset can't swallow them.
            self.transport.write(b"".join(answers))
            answers.clear()
            self.misbehave(behaviour, method, path)
        if answers:
            self.transport.write(b"".join(answers))

    def next_request(self) -> tuple[str, str, list[tuple[bytes, bytes]]] | None:
        """Take one whole request off the buffer, body and all; None while it is incomplete."""
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
        """Where the next request begins; None while this one's body is incomplete."""
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
            # The head promises 64 bytes more than will ever come.
            head, _, body = answer.partition(b"\r\n\r\n")
            promise = head.rpartition(b"content-length: ")[0] + b"content-length: %d" % (len(body) + 64)
            self.transport.write(promise + b"\r\n\r\n" + body)
            # The reset follows once the proxy has had time to read what came before it.
            asyncio.get_running_loop().call_later(0.02, self.reset)
            return
        self.transport.write(answer)

    def reset(self) -> None:
        """Close with RST, not FIN."""
        with suppress(OSError):
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Service:
    """What all connections of one upstream share. Lives on the loop's thread."""

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

    async def listen(self, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Connection(self), "127.0.0.1", port, backlog=1024)

    def drop(self) -> None:
        for connection in list(self.connections):
            connection.reset()

    def release(self) -> None:
        held, self.held = self.held, []
        for connection, method, path in held:
            connection.resume(NORMAL, method, path)


class Upstream:
    """A test's upstream, in a thread of its own.

    A behaviour holds until the next one, for every path or for the one given;
    `answer()` with no argument is back to normal. Requests already being delayed or
    held are not released by it, but by `release()`. The port stays its own also while it refuses.
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
        # Bound for as long as the context lasts, and never listened on: whoever connects to it is refused, and
        # whoever wants a free port gets another one.
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

    # -- what it saw ------------------------------------------------------------

    @property
    def requests(self) -> int:
        """Requests on paths other than `/healthz` and `/count`."""
        return self._on_loop(lambda: self._service.requests)

    def last_headers_of(self, path: str) -> list[tuple[bytes, bytes]]:
        """The headers of the latest request on this path, in order; names in lower case."""
        return self._on_loop(lambda: self._service.last_headers[path])

    def calls_of(self, path: str) -> list[Call]:
        """The latest requests on this path, at most 1,000 of them."""
        return self._on_loop(lambda: list(self._service.calls[path]))

    def seen(self, path: str) -> int:
        """Requests on this path; the query string doesn't count as part of it."""
        return self._on_loop(lambda: self._service.paths[path])

    # -- what it does -----------------------------------------------------------

    def answer(
        self, status: int | None = None, headers: Headers = (), body: bytes | None = None, *, path: str | None = None
    ) -> None:
        self.behave(Behaviour(status, headers, body) if (status, headers, body) != (None, (), None) else NORMAL, path)

    def slow(self, seconds: float, *, path: str | None = None) -> None:
        self.behave(Behaviour(delay=seconds), path)

    def hang(self, *, path: str | None = None) -> None:
        """Accept and read, never answer."""
        self.behave(Behaviour(hang=True), path)

    def release(self) -> None:
        """Answer all requests that hang."""
        self._on_loop(self._service.release)

    def reset(self, *, path: str | None = None) -> None:
        """Reset the connection instead of answering."""
        self.behave(Behaviour(reset="before"), path)

    def reset_mid_body(self, *, path: str | None = None) -> None:
        self.behave(Behaviour(reset="mid-body"), path)

    def behave(self, behaviour: Behaviour, path: str | None = None) -> None:
        """For all paths (what single paths were told is then forgotten), or for one."""

        def change() -> None:
            if path is None:
                self._service.by_path.clear()
                self._service.behaviour = behaviour
            else:
                self._service.by_path[path] = behaviour

        self._on_loop(change)

    def refuse(self) -> None:
        """Close the listening socket and reset every connection: connects are refused."""

        async def close() -> None:
            if self._server:
                self._server.close()
                self._server = None
            self._service.drop()

        self._await(close())

    def accept(self) -> None:
        """Listen again, on the same port."""

        async def listen() -> None:
            if self._server is None:
                self._server = await self._service.listen(self.port)

        self._await(listen())

    # -- crossing the threads ---------------------------------------------------

    def _on_loop(self, act: Callable[[], T]) -> T:
        async def call() -> T:
            return act()

        return self._await(call())

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(5)


async def serve(name: str, port: int) -> None:
    server = await Service(name).listen(port)
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    print(f"{name} listens on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="the demo service behind the proxy")
    parser.add_argument("--name", required=True, help="the version that it answers as, e.g. v1")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0 picks a free one")
    options = parser.parse_args()
    asyncio.run(serve(options.name, options.port))


if __name__ == "__main__":
    main()
