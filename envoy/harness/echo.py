"""An upstream that responds with the request as it has received it."""

from __future__ import annotations

import json
import socket

from .client import Response
from .sockets import SocketServer, read_head

Pairs = list[tuple[str, str]]
# In a header rather than in the body, as the response to HEAD has none.
HEADER = "x-echo"


def echo(sock: socket.socket) -> None:
    """Responds to each request, which must have no body, with its method, target and headers as JSON."""
    while head := read_head(sock):
        line, *fields = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (field.partition(":") for field in fields)]
        text = json.dumps([*line.split(" ")[:2], headers])
        answer = f"HTTP/1.1 200 OK\r\n{HEADER}: {text}\r\nx-b: app\r\nx-via: app\r\ncontent-length: 0\r\n\r\n"
        sock.sendall(answer.encode())


def echoed(response: Response) -> tuple[str, str, Pairs]:
    """Returns the method, the target and the headers that an echo has received."""
    method, target, headers = json.loads(response.headers[HEADER])
    return method, target, [(name, value) for name, value in headers]


def server() -> SocketServer:
    return SocketServer(echo)
