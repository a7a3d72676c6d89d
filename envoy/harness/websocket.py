"""Websockets: a server and a client that speak just enough of the protocol to end by the book, or not."""

from __future__ import annotations

import socket
from time import sleep

from .sockets import hang, read_head

ACCEPT = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
UPGRADE = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
KEY = "sec-websocket-key: Z3JheWdhdGUtZ3JheWdhdGU=\r\n"
TEXT, CLOSE = 0x81, 0x88


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Returns an unmasked frame, as a server sends it. The client here sends the same, as the proxy reads none."""
    return bytes([kind, len(payload)]) + payload


def serve(sock: socket.socket) -> None:
    """Accepts one upgrade and echoes its message. Answers a close frame and closes the connection first, as servers do.

    If the client closes the connection without one, the server closes it, too.
    """
    if not read_head(sock):
        return
    sock.sendall(ACCEPT)
    while data := sock.recv(4096):
        sock.sendall(data)
        if data[0] == CLOSE:
            return


def never_answer(sock: socket.socket) -> None:
    read_head(sock)
    hang(sock)


def ask(port: int, path: str, source: str = "127.0.0.1", timeout: float = 10.0) -> socket.socket:
    """Sends the upgrade and returns the connection."""
    sock = socket.create_connection(("127.0.0.1", port), timeout, source_address=(source, 0))
    headers = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    sock.sendall(f"GET {path} HTTP/1.1\r\nhost: reviews\r\n{headers}{KEY}\r\n".encode())
    return sock


def use(port: int, path: str, *, by_the_book: bool, source: str = "127.0.0.1") -> tuple[int, bytes]:
    """Opens a websocket, sends one message, waits for its echo and closes the websocket.

    Returns the status of the upgrade, and what came after the headers. The status is 0 if there was no echo.
    """
    with ask(port, path, source) as sock:
        head, _, rest = read_head(sock).partition(b"\r\n\r\n")
        status = int(head[9:12] or 0)
        if status != 101:
            return status, rest
        sock.sendall(frame(TEXT, b"hello"))
        echoed = sock.recv(4096) == frame(TEXT, b"hello")
        if by_the_book:
            sock.sendall(frame(CLOSE))
            echoed = echoed and sock.recv(4096) == frame(CLOSE)
            # The server closes its connection meanwhile. The proxy would take a second to pass that on.
            sleep(0.02)
    return (status if echoed else 0), rest
