# SPDX-License-Identifier: GPL-2.0
"""Paths as the user writes them, and as they are inside the tool root.

There the checkout is /src and the cache folder /cache; nothing else of the host is seen.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from problem import Problem


@dataclass(frozen=True)
class Folders:
    """Where the host has what the tool root has under other names."""

    top: str = "/src"
    cache: str = "/cache"
    current: str = "/src"

    def inside(self, path: str) -> Path:
        """The place in the tool root of a path on the host."""
        full = os.path.normpath(os.path.join(self.current, path))
        for outer, inner in ((self.cache, "/cache"), (self.top, "/src"), ("/cache", "/cache"), ("/src", "/src")):
            if full == outer or full.startswith(outer + "/"):
                return Path(inner + full[len(outer) :])
        raise Problem(
            f"{path} is neither in the checkout nor in the cache folder",
            f"The machine sees only {self.top} and {self.cache}; copy it there.",
        )

    def existing(self, path: str) -> Path:
        """As `inside`, of something that must be there."""
        place = self.inside(path)
        if not place.exists():
            raise Problem(f"{path} does not exist")
        return place

    def outside(self, path: Path) -> str:
        """The path on the host of a file in the tool root, for messages."""
        text = str(path)
        for outer, inner in ((self.cache, "/cache"), (self.top, "/src")):
            if text.startswith(inner + "/"):
                return outer + text[len(inner) :]
        return text
