"""An HTTP/2 upstream whose connections can be dropped, and a client with many requests on one connection."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from .client import Headers, pairs
from .sockets import SocketServer


class Http2Upstream(SocketServer):
    """Responds 200 to any path, and to gRPC clients with status OK, but never to `/hang` in any path."""

    def __init__(self) -> None:
        super().__init__(self._answer_all)
        self._hanging = 0

    @property
    def hanging(self) -> int:
        """The number of requests that have hung so far."""
        return self._hanging

    def _answer_all(self, sock: socket.socket) -> None:
        link = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        link.initiate_connection()
        sock.sendall(link.data_to_send())
        while data := sock.recv(65536):
            try:
                for event in link.receive_data(data):
                    self._handle(link, event)
            except h2.exceptions.ProtocolError:
                # Closes the connection after telling the client.
                sock.sendall(link.data_to_send())
                return
            sock.sendall(link.data_to_send())

    def _handle(self, link: h2.connection.H2Connection, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._answer(link, event)

    def _answer(self, link: h2.connection.H2Connection, request: h2.events.RequestReceived) -> None:
        path = dict(request.headers or ())[b":path"]
        if b"/hang" in path:
            with self._lock:
                self._hanging += 1
            return
        headers = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")]
        link.send_headers(request.stream_id, headers, end_stream=True)


class CompressedHealth(Http2Upstream):
    """gRPC's health service, always SERVING. It compresses its response, although nobody has asked it to."""

    def _handle(self, link: h2.connection.H2Connection, event: h2.events.Event) -> None:
        if not isinstance(event, h2.events.StreamEnded):
            return
        stream = event.stream_id
        message = gzip.compress(b"\x08\x01")
        headers = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-encoding", "gzip")]
        link.send_headers(stream, headers)
        link.send_data(stream, b"\x01" + len(message).to_bytes(4, "big") + message)
        link.send_headers(stream, [("grpc-status", "0")], end_stream=True)


class Burst:
    """Requests that are sent at once, on one HTTP/2 connection. `statuses()` waits for all responses."""

    def __init__(self, port: int, paths: Sequence[str], headers: Headers = (), source: str = "127.0.0.1") -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 30, source_address=(source, 0))
        self._link = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._link.initiate_connection()
        self._statuses: dict[int, int] = {}
        for path in paths:
            pseudo = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "reviews")]
            stream = self._link.get_next_available_stream_id()
            self._statuses[stream] = 0
            self._link.send_headers(stream, [*pseudo, *pairs(headers)], end_stream=True)
        self._sock.sendall(self._link.data_to_send())

    def statuses(self) -> list[int]:
        """Returns the status of each request in order, or 0 without a response. Closes the connection."""
        left = set(self._statuses)
        with self._sock:
            while left and (data := self._sock.recv(65536)):
                for event in self._link.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        self._statuses[event.stream_id] = int(dict(event.headers)[b":status"])
                    elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                        left.discard(event.stream_id)
                    elif isinstance(event, h2.events.DataReceived):
                        self._link.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self._sock.sendall(self._link.data_to_send())
        return list(self._statuses.values())
