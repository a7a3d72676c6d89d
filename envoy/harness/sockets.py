"""An upstream that is a function of its connection's socket, for what an HTTP server would never do."""

from __future__ import annotations

import socket
import socketserver
import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from threading import Lock, Thread
from time import monotonic
from typing import Self

Handler = Callable[[socket.socket], None]


class SocketServer:
    """Calls the handler with each connection, in a thread of its own, and closes the connection after that."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._connections: set[socket.socket] = set()
        self._lock = Lock()
        self._open = False

    def __enter__(self) -> Self:
        serve = self._serve

        class Handle(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            # A server that waits for its threads would wait for handlers that hang.
            block_on_close = False
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handle)
        self.port: int = self._server.server_address[1]
        self._open = True
        Thread(target=self._server.serve_forever, args=(0.05,), name="sockets", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    def drop(self) -> None:
        """Resets all connections. New ones are accepted."""
        with self._lock:
            dropped, self._connections = self._connections, set()
        for sock in dropped:
            with suppress(OSError):
                # Wakes the thread that reads, which would otherwise keep the socket open.
                sock.shutdown(socket.SHUT_RD)
            reset(sock)

    def accept_no_more(self) -> None:
        """Closes the listening socket permanently. Serves the connections that there are."""
        if self._open:
            self._open = False
            self._server.shutdown()
            self._server.server_close()

    def refuse(self) -> None:
        """Closes the listening socket and resets all connections, permanently."""
        self.accept_no_more()
        self.drop()

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            self._connections.add(sock)
        # The proxy may close the connection at any time.
        with suppress(OSError):
            self._handler(sock)
        with self._lock:
            self._connections.discard(sock)


def read_head(sock: socket.socket) -> bytes:
    """Returns a request up to the end of its headers, and what came with them. Empty if the connection was closed."""
    read = b""
    while b"\r\n\r\n" not in read:
        part = sock.recv(65536)
        if not part:
            return b""
        read += part
    return read


def fail_every_other() -> Handler:
    """Returns a handler that responds to every other request with 500, and to the others with 200."""
    statuses = cycle((b"500 Error", b"200 OK"))

    def handle(sock: socket.socket) -> None:
        while read_head(sock):
            sock.sendall(b"HTTP/1.1 %s\r\ncontent-length: 0\r\n\r\n" % next(statuses))

    return handle


def path_of(head: bytes) -> str:
    return head.split(b" ", 2)[1].decode("latin-1")


def read_for(sock: socket.socket, seconds: float) -> None:
    """Reads and drops what comes, until this much time has passed or the connection is closed."""
    deadline = monotonic() + seconds
    with suppress(TimeoutError):
        while (left := deadline - monotonic()) > 0:
            sock.settimeout(left)
            if not sock.recv(65536):
                return


def hang(sock: socket.socket) -> None:
    """Waits until the other side closes the connection."""
    sock.settimeout(None)
    while sock.recv(65536):
        pass


def reset(sock: socket.socket) -> None:
    """Closes the connection with RST rather than FIN."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
