"""HTTP servers on loopback that Envoy depends on beside its upstreams, and that can go away."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from harness.config import Tree
from harness.ports import free_port


class Server:
    """Answers each request with the body that it has at that time, on the same port each time that it starts."""

    def __init__(self, body: bytes = b"") -> None:
        self.port = free_port()
        self.body = body
        self.asked = 0
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Of a connection that stays open, the server would see its own end only with the next request.
            close_connection = True

            def answer(self) -> None:
                server.asked += 1
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(200)
                self.send_header("content-length", str(len(server.body)))
                self.send_header("connection", "close")
                self.end_headers()
                self.wfile.write(server.body)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="server", daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def remote(port: int, module: bytes) -> Tree:
    """Returns the code of a VM that Envoy fetches from this port."""
    uri = {"uri": f"http://127.0.0.1:{port}/module.wasm", "cluster": "registry", "timeout": "1s"}
    return {"remote": {"http_uri": uri, "sha256": hashlib.sha256(module).hexdigest()}}


def source() -> Tree:
    """Returns a source that polls the cluster `control-plane` by REST five times a second."""
    api = {
        "api_type": "REST",
        "transport_api_version": "V3",
        "cluster_names": ["control-plane"],
        "refresh_delay": "0.2s",
    }
    return {"api_config_source": {**api, "request_timeout": "1s"}, "resource_api_version": "V3"}


def response(discovery: Tree) -> bytes:
    kind = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
    return json.dumps({**discovery, "type_url": kind}).encode()


def another(module: bytes, number: int) -> bytes:
    """Returns the module with a custom section more, so that it does the same and has another hash."""
    name = b"chaos"
    content = bytes([len(name)]) + name + number.to_bytes(4, "little")
    return module + bytes([0, len(content)]) + content
