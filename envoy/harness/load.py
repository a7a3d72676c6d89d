"""Sends many requests: each of a list once and fast (`drive`), or steadily until stopped (`Load`).

Both keep a fixed number of connections alive and send one request at a time on each. The proxy may close a reused
connection before any byte of a response. Then the request is sent once more on a new one, as HTTP clients do. Any other
failure is an answer with status 0.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from .client import Headers, pairs


@dataclass(frozen=True)
class Request:
    path: str = "/"
    headers: Headers = ()
    method: str = "GET"

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1\r\nhost: reviews\r\n".encode()]
        lines += [b"%s: %s\r\n" % (name.encode(), value) for name, value in pairs(self.headers)]
        return b"".join(lines) + b"\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """`version` is the x-version header. `asked` and `answered` are times of the monotonic clock in seconds."""

    status: int
    version: str | None
    body: bytes
    asked: float
    answered: float

    @property
    def seconds(self) -> float:
        return self.answered - self.asked


class Connection(asyncio.Protocol):
    """A connection with one request at a time. The response completes the future as (head, body)."""

    reply: asyncio.Future[tuple[bytes, bytes]] | None = None
    transport: asyncio.Transport
    received = b""
    lost = False
    used = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.reply and not self.reply.done():
            self.reply.set_exception(ConnectionResetError("closed before the answer's end"))

    def ask(self, request: bytes) -> asyncio.Future[tuple[bytes, bytes]]:
        self.reply = asyncio.get_running_loop().create_future()
        self.received = b""
        self.bodiless = request.startswith(b"HEAD ")
        self.transport.write(request)
        return self.reply

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0 or self.reply is None or self.reply.done():
            return
        head = self.received[:end].lower() + b"\r\n"
        body = self.received[end + 4 :]
        if not self.bodiless and not self.complete(head, body):
            return
        if b"\r\nconnection: close\r\n" in head:
            self.lost = True
            self.transport.close()
        self.used = True
        self.reply.set_result((head, body))

    @staticmethod
    def complete(head: bytes, body: bytes) -> bool:
        length = value(head, b"content-length")
        if length is None:
            return b"\r\ntransfer-encoding: chunked" not in head or body.endswith(b"0\r\n\r\n")
        return len(body) >= int(length)


def value(head: bytes, name: bytes) -> bytes | None:
    """Returns the value of a header. `head` is in lower case and ends with a line end."""
    start = head.find(b"\r\n" + name + b": ")
    if start < 0:
        return None
    start += len(name) + 4
    return head[start : head.index(b"\r\n", start)]


class Asker:
    """Sends requests on one connection, and opens the next when the proxy closes it. `source` is its local address."""

    def __init__(self, port: int, source: str) -> None:
        self.port = port
        self.source = source
        self.connection: Connection | None = None
        # How many requests were sent once more.
        self.again = 0

    async def ask(self, request: bytes) -> Answer:
        asked = time.monotonic()
        try:
            head, body = await self.reply(request)
        except OSError as error:
            return Answer(0, None, str(error).encode(), asked, time.monotonic())
        version = value(head, b"x-version")
        return Answer(int(head[9:12]), version.decode() if version else None, body, asked, time.monotonic())

    async def reply(self, request: bytes) -> tuple[bytes, bytes]:
        connection = self.connection
        if connection and not connection.lost:
            try:
                return await connection.ask(request)
            except ConnectionResetError:
                if connection.received:
                    raise
                self.again += 1
        loop = asyncio.get_running_loop()
        _, self.connection = await loop.create_connection(
            Connection, "127.0.0.1", self.port, local_addr=(self.source, 0)
        )
        return await self.connection.ask(request)

    def close(self) -> None:
        if self.connection:
            self.connection.transport.close()


def drive(port: int, requests: Sequence[Request], connections: int = 16, timeout: float = 30.0) -> list[Answer]:
    """Sends each request once. Returns the answers in the order of the requests."""
    answers: list[Answer | None] = [None] * len(requests)
    source = enumerate(request.encode() for request in requests)

    async def work() -> None:
        asker = Asker(port, "127.0.0.1")
        for index, request in source:
            answers[index] = await asker.ask(request)
        asker.close()

    async def all_workers() -> None:
        await asyncio.wait_for(asyncio.gather(*(work() for _ in range(connections))), timeout)

    try:
        asyncio.run(all_workers())
    except TimeoutError:
        left = answers.count(None)
        raise AssertionError(f"not within {timeout:g} s: {left} of {len(requests)} requests unanswered") from None
    return [answer for answer in answers if answer is not None]


class Load:
    """A steady load in the background that repeats the given requests while the context lasts.

    `rate` is the target in requests per second, and slow responses lower it. The connections take turns with the local
    addresses in `sources`. The end of the context waits for requests that are under way, so that none is cut off and
    counted as failed.
    """

    def __init__(
        self,
        port: int,
        requests: Iterable[Request],
        rate: float = 500.0,
        connections: int = 16,
        sources: Sequence[str] = ("127.0.0.1",),
    ) -> None:
        self.answers: list[Answer] = []
        self._sources = sources
        self._port = port
        self._source: Iterator[bytes] = itertools.cycle([request.encode() for request in requests])
        self._pause = connections / rate
        self._connections = connections
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work_all()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(30)

    def stop(self) -> None:
        """Sends no further requests. Lets a caller stop several loads at the same time."""
        self._stop.set()

    @property
    def failed(self) -> list[Answer]:
        """The answers so far that are failures for a user: no response, or 5xx."""
        return [answer for answer in list(self.answers) if answer.status == 0 or answer.status >= 500]

    def since(self, moment: float, test: Callable[[Answer], bool] = lambda _: True) -> list[Answer]:
        """Returns the answers so far to requests that were sent from that moment on."""
        return [answer for answer in list(self.answers) if answer.asked >= moment and test(answer)]

    async def _work_all(self) -> None:
        await asyncio.gather(*(self._work(number) for number in range(self._connections)))

    async def _work(self, number: int) -> None:
        # Staggers the connections, so that they do not send at the same time.
        await asyncio.sleep(self._pause * number / self._connections)
        asker = Asker(self._port, self._sources[number % len(self._sources)])
        due = time.monotonic()
        while not self._stop.is_set():
            self.answers.append(await asker.ask(next(self._source)))
            due = max(due + self._pause, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
        asker.close()
