"""Uploads whose servers do not read all of them, and a client for these."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from threading import Thread
from time import sleep

from .sockets import path_of, read_for, read_head

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
TOO_LARGE = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n"
# How long the server below waits for the rest of a request, in seconds.
READ_TIMEOUT = 0.5


def serve(sock: socket.socket) -> None:
    """Answers 413 to `/large` with its body unread. Closes `/slow` after the read timeout. Answers 200 to others."""
    while head := read_head(sock):
        path = path_of(head)
        if path.endswith("/large"):
            sock.sendall(TOO_LARGE)
            return
        if path.endswith("/slow"):
            read_for(sock, READ_TIMEOUT)
            return
        sock.sendall(GOOD)


def send(sock: socket.socket, path: str, size: int, parts: Sequence[bytes], pause: float) -> None:
    sock.sendall(f"POST {path} HTTP/1.1\r\nhost: reviews\r\ncontent-length: {size}\r\n\r\n".encode())
    for part in parts:
        sock.sendall(part)
        sleep(pause)


def post(port: int, path: str, size: int, parts: Sequence[bytes], pause: float = 0.0, source: str = "127.0.0.1") -> int:
    """Sends these parts of a body of `size` bytes, and returns the status of the response, or 0 without one.

    Reads while it sends, as the response may come before all is sent.
    """
    with socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0)) as sock:

        def send_all() -> None:
            try:
                send(sock, path, size, parts, pause)
            except OSError:
                return  # The proxy closes the connection after its response.

        sender = Thread(target=send_all, daemon=True)
        sender.start()
        try:
            head = read_head(sock)
        except OSError:
            return 0
        sender.join(5)
        return int(head[9:12]) if head else 0
