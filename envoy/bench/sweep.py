"""Sweeps the caches of the core that it runs on, each time that it is asked by a line on standard input.

It reads more memory than all caches hold, and answers with a line. Whatever runs on the core next finds its data and
code in main memory, as beside an app that works on its own data.
"""

from __future__ import annotations

import sys
from pathlib import Path

LEAST, MOST = 16 << 20, 128 << 20
UNITS = {"K": 1 << 10, "M": 1 << 20}


def cache_bytes(directory: str = "/sys/devices/system/cpu/cpu0/cache") -> int:
    """Returns the size of the largest cache, or 0 if the kernel does not say it."""
    texts = [file.read_text().strip() for file in Path(directory).glob("index*/size")]
    return max((int(text[:-1]) * UNITS[text[-1]] for text in texts if text and text[-1] in UNITS), default=0)


def main() -> None:
    # Twice the largest cache, as none forgets strictly the oldest first. Not zeros: the kernel would give one page of
    # them for all.
    memory = bytearray(b"\1") * min(max(2 * cache_bytes(), LEAST), MOST)
    while True:
        memory.find(0)
        print(flush=True)
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    main()
