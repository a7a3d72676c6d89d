"""An HTTP/1.1 upstream that does with its connections what apps do: it may close idle ones, and accept no new ones."""

from __future__ import annotations

import socket
from collections.abc import Callable

from .sockets import SocketServer, read_head

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"

Respond = Callable[[bytes], bytes]


class KeepAliveServer(SocketServer):
    """Responds to requests without a body. `respond` returns the head of a response for the head of a request.

    Closes a connection that has been idle for `idle` seconds. Closes it after the response if the request has
    `connection: close`.
    """

    def __init__(self, idle: float | None = None, respond: Respond = lambda _: OK) -> None:
        super().__init__(self._keep_alive)
        self._idle = idle
        self._respond = respond
        self.accepted = 0
        self.heads: list[bytes] = []

    def _keep_alive(self, sock: socket.socket) -> None:
        with self._lock:
            self.accepted += 1
        sock.settimeout(self._idle)
        closes = False
        # The timeout ends this, like any other error of the socket.
        while not closes and (head := read_head(sock)):
            self.heads.append(head)
            closes = b"\r\nconnection: close\r\n" in head.lower()
            sock.sendall(self._respond(head) + (b"connection: close\r\n" if closes else b"") + b"\r\n")
