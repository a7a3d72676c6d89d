"""Ports of loopback that a server can be given by number, before it runs."""

from __future__ import annotations

import socket

# Below the ports that Linux gives to sockets that ask for any (32768 and more). One of those could be given away
# between the moment it is found free and the moment a server binds it.
_CANDIDATES = iter(range(20_000, 30_000))
_reserved: list[socket.socket] = []


def taken(port: int) -> bool:
    with socket.socket() as probe:
        # Servers set this, too. Without it, a port with lingering connections seems to be in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def free_port() -> int:
    """Returns a TCP port that is this process's own until it ends. No two calls return the same one.

    The UDP port of the same number is bound as the mark by which other processes that call this leave it alone.
    """
    for port in _CANDIDATES:
        mark = socket.socket(type=socket.SOCK_DGRAM)
        try:
            mark.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _reserved.append(mark)
        if not taken(port):
            return port
    raise RuntimeError("no free port from 20000 to 29999 is left for this process; end what holds them")
