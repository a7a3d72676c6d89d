"""Types of command line arguments."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number from 1")
    return int(text)


def new_file(text: str) -> Path:
    """Returns the path if a file can be written there. Checked first, as measuring what to write takes minutes."""
    path = Path(text)
    if not text or path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a file in a directory that can be written to")
    return path
