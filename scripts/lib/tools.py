# SPDX-License-Identifier: GPL-2.0
"""Programs of the tool root that a script may ask for in dom0."""

from __future__ import annotations

import shutil
from pathlib import Path

import initramfs
from initramfs import Archive
from problem import Problem

PLACES = "/usr/sbin:/usr/bin"


def add(archive: Archive, name: str) -> list[str]:
    """Adds the program `name`; gives the modules that it needs to be there."""
    found = shutil.which(name, path=PLACES)
    if not found:
        raise Problem(f"the tool root has no program '{name}'", "A package that holds it must be added to scripts/tool-root.")
    # Before busybox's command of the same name.
    initramfs.add_binary(archive, Path(found), f"usr/tools/{name}")
    return []
