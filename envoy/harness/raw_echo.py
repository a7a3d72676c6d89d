"""An upstream that responds with the request as received, byte for byte, and a client that sends any bytes."""

from __future__ import annotations

import re
import socket

from .sockets import SocketServer

# Headers that differ between two runs of the same request. The steer header is the filter's own.
VOLATILE = re.compile(
    rb"(?im)^(date|x-request-id|x-envoy-upstream-service-time|x-envoy-expected-rq-timeout-ms|x-gray-version):[^\r]*\r\n"
)
LENGTH = re.compile(rb"(?im)^content-length: (\d+)\r")
CHUNKED = re.compile(rb"(?im)^transfer-encoding: chunked\r")
LAST_CHUNK = re.compile(rb"(?:^|\r\n)0\r\n(?:[^\r\n]+\r\n)*\r\n")


def server() -> SocketServer:
    """Returns an upstream that responds 200 to each request, with the request as the body."""
    return SocketServer(serve)


def serve(sock: socket.socket) -> None:
    rest = b""
    while True:
        while b"\r\n\r\n" not in rest:
            part = sock.recv(65536)
            if not part:
                return
            rest += part
        head, _, rest = rest.partition(b"\r\n\r\n")
        while (end := end_of_body(head + b"\r\n", rest)) is None:
            part = sock.recv(65536)
            if not part:
                return
            rest += part
        received, rest = VOLATILE.sub(b"", head + b"\r\n") + b"\r\n" + rest[:end], rest[end:]
        body = b"" if head.startswith(b"HEAD ") else received
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(received), body))


def end_of_body(head: bytes, rest: bytes) -> int | None:
    """Returns where the request's body ends in what has come after its head. None if it has not come yet."""
    if CHUNKED.search(head):
        last = LAST_CHUNK.search(rest)
        return last.end() if last else None
    length = LENGTH.search(head)
    end = int(length[1]) if length else 0
    return end if len(rest) >= end else None


def exchange(port: int, sent: bytes, timeout: float = 60.0) -> bytes:
    """Sends bytes to 127.0.0.1 and returns all that comes until the server closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout) as sock:
        try:
            sock.sendall(sent)
            while part := sock.recv(65536):
                received += part
        except ConnectionError:
            # A server that refuses a request may reset the connection before it has read all of it.
            received += b"<reset>"
    return VOLATILE.sub(b"", received)
