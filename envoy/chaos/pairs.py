"""Sends pairs of requests, one to each listener at the same instant, steadily until stopped."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Self

from harness.load import Answer, Asker, Request
from harness.wait import until

# Pairs per second, and seconds.
RATE = 150.0
DEADLINE = 5.0
# Requests take turns on this many connections at least, so that they reach all workers.
CONNECTIONS = 32


@dataclass(frozen=True)
class Pair:
    """What a user sends to each listener."""

    user: str
    path: str
    graygate: Request
    plain: Request


@dataclass(frozen=True)
class Asked:
    """What a user got from one listener."""

    user: str
    path: str
    answer: Answer
    # Both requests of a pair have the same number.
    number: int = 0


class Line:
    """The connections to one listener. A request that has to wait delays no other one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[Asked] = []
        # How many requests were sent once more, as the proxy had closed a reused connection.
        self.again = 0
        self._idle = deque(Asker(port, "127.0.0.1") for _ in range(CONNECTIONS))

    async def ask(self, number: int, pair: Pair, request: Request, asked: list[Asked]) -> None:
        asker = self._idle.popleft() if self._idle else Asker(self.port, "127.0.0.1")
        begun = time.monotonic()
        try:
            answer = await asyncio.wait_for(asker.ask(request.encode()), DEADLINE)
        except TimeoutError:
            answer = Answer(0, None, b"no response in time", begun, time.monotonic())
            asker.close()
            asker = Asker(self.port, "127.0.0.1")
        self.again += asker.again
        asker.again = 0
        self._idle.append(asker)
        asked.append(Asked(pair.user, pair.path, answer, number))

    def close(self) -> None:
        for asker in self._idle:
            asker.close()


class Pairs:
    """The load while the context lasts. Its end waits for the requests that are under way."""

    def __init__(self, graygate: int, plain: int, pairs: Sequence[Pair], rate: float = RATE) -> None:
        self.graygate, self.plain = Line(graygate), Line(plain)
        self.sent = 0
        self._part = 0
        self._pairs = itertools.cycle(pairs)
        self._pause = 1 / rate
        self._stop = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="pairs", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * DEADLINE)

    def _run(self) -> None:
        self._loop.run_until_complete(self._send())
        self._loop.close()

    def take(self) -> tuple[list[Asked], list[Asked]]:
        """Returns what each listener was asked since the last call, once all of it has an answer."""
        taken: Future[tuple[int, list[Asked], list[Asked]]] = Future()

        def swap() -> None:
            sent, self._part = self._part, 0
            taken.set_result((sent, self.graygate.asked, self.plain.asked))
            self.graygate.asked, self.plain.asked = [], []

        # On the thread of the loop, where no pair is half sent.
        self._loop.call_soon_threadsafe(swap)
        sent, graygate, plain = taken.result(DEADLINE)
        until(lambda: len(graygate) == len(plain) == sent, 2 * DEADLINE, "all answers")
        return graygate, plain

    async def _send(self) -> None:
        under_way: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not self._stop.is_set():
            pair = next(self._pairs)
            self.sent += 1
            self._part += 1
            both = [(self.graygate, pair.graygate), (self.plain, pair.plain)]
            # They take turns in being the first.
            for line, request in both if self.sent % 2 else reversed(both):
                task = asyncio.create_task(line.ask(self.sent, pair, request, line.asked))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            # A late pair does not make the next ones come in a burst.
            due = max(due + self._pause, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
        await asyncio.gather(*under_way)
        self.graygate.close()
        self.plain.close()
