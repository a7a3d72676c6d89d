"""Clients that send one request and return its response: HTTP/1.1 by the standard library, HTTP/2 by h2."""

from __future__ import annotations

import http.client
import select
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPMessage
from typing import Self

import h2.config
import h2.connection
import h2.errors
import h2.events

# Pairs are for repeated headers, or if the order matters. Values may be any bytes.
Headers = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Response:
    """A response. `headers` ignores case. A missing header is None, and `get_all` returns repeated ones."""

    status: int
    headers: HTTPMessage
    body: bytes
    trailers: HTTPMessage = field(default_factory=HTTPMessage)

    @property
    def text(self) -> str:
        return self.body.decode("latin-1")

    @property
    def version(self) -> str | None:
        """The version of the demo service that responded, or None if none did."""
        return self.headers["x-version"]


def pairs(headers: Headers) -> list[tuple[str, bytes]]:
    listed = headers.items() if isinstance(headers, Mapping) else headers
    return [(name, value if isinstance(value, bytes) else value.encode("latin-1")) for name, value in listed]


def get(
    port: int,
    path: str = "/",
    headers: Headers = (),
    method: str = "GET",
    body: bytes = b"",
    timeout: float = 10.0,
    *,
    source: str = "127.0.0.1",
    preamble: bytes = b"",
) -> Response:
    """Sends a request to 127.0.0.1 over HTTP/1.1 on a new connection. `host` is `reviews` unless given.

    `source` is the local address to send from. `preamble` goes before the request, as with the PROXY protocol.
    """
    given = pairs(headers)
    if not any(name.lower() == "host" for name, _ in given):
        given.insert(0, ("host", b"reviews"))
    if body:
        given.append(("content-length", b"%d" % len(body)))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout, source_address=(source, 0))
    try:
        connection.connect()
        connection.sock.sendall(preamble)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in given:
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return Response(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def get2(
    port: int,
    path: str | bytes = "/",
    headers: Headers = (),
    method: str = "GET",
    body: bytes = b"",
    timeout: float = 10.0,
    *,
    scheme: str = "http",
) -> Response:
    """Sends a request to 127.0.0.1 over HTTP/2 without TLS. Trailers are kept apart, and include grpc-status."""
    with Stream(port, path, headers, method, timeout, end=not body, scheme=scheme) as stream:
        if body:
            stream.send(body, end=True)
        return stream.answer()


class Stream:
    """One HTTP/2 request without TLS on a new connection. The caller decides when each part is sent."""

    def __init__(
        self,
        port: int,
        path: str | bytes = "/",
        headers: Headers = (),
        method: str = "POST",
        timeout: float = 10.0,
        *,
        end: bool = False,
        scheme: str = "http",
    ) -> None:
        config = h2.config.H2Configuration(header_encoding=None, validate_outbound_headers=False)
        self._link = h2.connection.H2Connection(config)
        given = [(name.lower().encode(), value) for name, value in pairs(headers)]
        authority = next((value for name, value in given if name == b"host"), b"reviews")
        pseudo: list[tuple[str, str | bytes]] = [
            (":method", method),
            (":path", path),
            (":scheme", scheme),
            (":authority", authority),
        ]
        self._ask: list[tuple[str | bytes, str | bytes]] = [*pseudo, *(pair for pair in given if pair[0] != b"host")]
        self._end = end
        self._address = ("127.0.0.1", port)
        self._timeout = timeout
        self._status, self._headers, self._trailers, self._body = 0, HTTPMessage(), HTTPMessage(), b""
        self._ended = False

    def __enter__(self) -> Self:
        """Connects and sends the headers."""
        self._sock = socket.create_connection(self._address, self._timeout)
        self._link.initiate_connection()
        self._id = self._link.get_next_available_stream_id()
        self._link.send_headers(self._id, self._ask, end_stream=self._end)
        self._flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, data: bytes = b"", *, end: bool = False) -> None:
        self._link.send_data(self._id, data, end_stream=end)
        self._flush()

    def reset(self) -> None:
        self._link.reset_stream(self._id, h2.errors.ErrorCodes.CANCEL)
        self._flush()

    def _flush(self) -> None:
        self._sock.sendall(self._link.data_to_send())

    def answer(self) -> Response:
        while not self._ended:
            self._receive()
        return Response(self._status, self._headers, self._body, self._trailers)

    def answered(self) -> bool:
        """Returns whether a response has begun to arrive. Does not wait."""
        while not self._ended and select.select([self._sock], [], [], 0)[0]:
            self._receive()
        return bool(self._status)

    def _receive(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionResetError("HTTP/2 connection closed by the proxy before the answer's end")
        for event in self._link.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                into = self._headers if isinstance(event, h2.events.ResponseReceived) else self._trailers
                for name, value in event.headers:
                    if name == b":status":
                        self._status = int(value)
                    else:
                        into[name.decode()] = value.decode("latin-1")
            elif isinstance(event, h2.events.DataReceived):
                self._body += event.data
                self._link.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                raise ConnectionResetError(f"HTTP/2 stream reset by the proxy, error code {event.error_code}")
            elif isinstance(event, h2.events.StreamEnded):
                self._ended = True
                return
        self._flush()
