"""A registry on loopback that serves images from their layouts, as a control plane pulls them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self


class Registry:
    """Serves layouts by the names of their images, under any tag. `pulls` counts requests for manifests."""

    def __init__(self, layouts: Mapping[str, Path]) -> None:
        self.pulls = 0
        self._layouts = dict(layouts)

    def __enter__(self) -> Self:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.answer(self)

            def do_HEAD(self) -> None:
                registry.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def digest(self, image: str) -> str:
        """Returns the digest of an image's manifest, without the prefix."""
        (named,) = json.loads((self._layouts[image] / "index.json").read_text())["manifests"]
        return str(named["digest"]).removeprefix("sha256:")

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answers one request of the distribution protocol."""
        if request.path == "/v2/":
            return self.send(request, b"{}", "application/json")
        found = re.fullmatch(r"/v2/([\w./-]+)/(manifests|blobs)/([\w.:-]+)", request.path)
        layout = self._layouts.get(found[1]) if found else None
        if found is None or layout is None:
            return request.send_error(404)
        if found[2] == "manifests":
            self.pulls += 1
            digest = self.digest(found[1])
            kind = "application/vnd.oci.image.manifest.v1+json"
        else:
            digest, kind = found[3].removeprefix("sha256:"), "application/octet-stream"
        blob = layout / "blobs" / "sha256" / digest
        if not blob.is_file():
            return request.send_error(404)
        return self.send(request, blob.read_bytes(), kind, f"sha256:{digest}")

    @staticmethod
    def send(request: BaseHTTPRequestHandler, body: bytes, kind: str, digest: str = "") -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        if digest:
            request.send_header("Docker-Content-Digest", digest)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
