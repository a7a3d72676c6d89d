"""One request, one answer: over HTTP/1.1 by the standard library, over HTTP/2 by h2."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPMessage

import h2.config
import h2.connection
import h2.events

# Pairs where a header is repeated or its order matters; values may be any bytes.
Headers = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Response:
    """`headers` ignores case; a missing one is None, `get_all` gives repeated ones."""

    status: int
    headers: HTTPMessage
    body: bytes
    trailers: HTTPMessage = field(default_factory=HTTPMessage)

    @property
    def text(self) -> str:
        return self.body.decode("latin-1")

    @property
    def version(self) -> str | None:
        """Which version of the demo service answered, if one did."""
        return self.headers["x-version"]


def pairs(headers: Headers) -> list[tuple[str, bytes]]:
    listed = headers.items() if isinstance(headers, Mapping) else headers
    return [(name, value if isinstance(value, bytes) else value.encode("latin-1")) for name, value in listed]


def get(
    port: int, path: str = "/", headers: Headers = (), method: str = "GET", body: bytes = b"", timeout: float = 10.0
) -> Response:
    """Ask 127.0.0.1 over HTTP/1.1 on a connection of its own. `host` is `reviews` unless given."""
    given = pairs(headers)
    if not any(name.lower() == "host" for name, _ in given):
        given.insert(0, ("host", b"reviews"))
    if body:
        given.append(("content-length", b"%d" % len(body)))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in given:
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return Response(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def get2(
    port: int, path: str = "/", headers: Headers = (), method: str = "GET", body: bytes = b"", timeout: float = 10.0
) -> Response:
    """The same over HTTP/2 in clear text. Trailers are kept apart; with them comes grpc-status."""
    config = h2.config.H2Configuration(header_encoding=None, validate_outbound_headers=False)
    link = h2.connection.H2Connection(config)
    given = [(name.lower().encode(), value) for name, value in pairs(headers)]
    authority = next((value for name, value in given if name == b"host"), b"reviews")
    pseudo = [(":method", method), (":path", path), (":scheme", "http"), (":authority", authority)]
    with socket.create_connection(("127.0.0.1", port), timeout) as sock:
        link.initiate_connection()
        stream = link.get_next_available_stream_id()
        ask = [*pseudo, *(pair for pair in given if pair[0] != b"host")]
        link.send_headers(stream, ask, end_stream=not body)
        if body:
            link.send_data(stream, body, end_stream=True)
        sock.sendall(link.data_to_send())
        return _answer(sock, link)


def _answer(sock: socket.socket, link: h2.connection.H2Connection) -> Response:
    status, headers, trailers, body = 0, HTTPMessage(), HTTPMessage(), b""
    while data := sock.recv(65536):
        for event in link.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                into = headers if isinstance(event, h2.events.ResponseReceived) else trailers
                for name, value in event.headers:
                    if name == b":status":
                        status = int(value)
                    else:
                        into[name.decode()] = value.decode("latin-1")
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
                link.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                raise ConnectionResetError(f"HTTP/2 stream reset by the proxy, error code {event.error_code}")
            elif isinstance(event, h2.events.StreamEnded):
                return Response(status, headers, body, trailers)
        sock.sendall(link.data_to_send())
    raise ConnectionResetError("HTTP/2 connection closed by the proxy before the answer's end")
