"""What a program needs that `make` builds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from .envoy import PROJECT


def are_built(needed: Mapping[Path, str]) -> bool:
    """Returns whether these files are there. Names the first that is not, with the command that builds it."""
    for file, command in needed.items():
        if not file.exists():
            print(f"{file.relative_to(PROJECT)}: not there; build it with: {command}", file=sys.stderr)
            return False
    return True
