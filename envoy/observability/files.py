"""Writes a file that is made from others, or checks that it is what they give."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from harness.envoy import PROJECT


def keep(file: Path, wanted: str, *, check: bool) -> int:
    """Writes the file. With `check`, prints how it differs instead, and returns 1 if it does."""
    name = str(file.relative_to(PROJECT))
    found = file.read_text() if file.exists() else ""
    if not check:
        file.write_text(wanted)
        return 0
    if found == wanted:
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(found.splitlines(keepends=True), wanted.splitlines(keepends=True), name, "made now")
    )
    print(f"error: {name} is not what it is made from; `make observability` writes it again", file=sys.stderr)
    return 1
