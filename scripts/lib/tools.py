# SPDX-License-Identifier: GPL-2.0
"""Programs for dom0: of the tool root, and small ones of our own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from initramfs import Archive, add_binary
from kernel import CACHE
from problem import Problem

OWN = Path(__file__).parent / "guest"
FOLDER = "usr/tools"
"""Comes before busybox in dom0's PATH."""
NEEDS = {"xen-pages": ["xen-privcmd"]}
"""The modules that a program of our own works with."""


def add(archive: Archive, name: str) -> list[str]:
    """Adds the program `name`; gives the modules that it needs."""
    if (OWN / f"{name}.c").is_file():
        archive.file(compiled(OWN / f"{name}.c"), f"{FOLDER}/{name}")
        return NEEDS.get(name, [])
    found = shutil.which(name, path="/usr/sbin:/usr/bin")
    if not found:
        raise Problem(
            f"the tool root has no program '{name}'",
            "The package that holds it must be added to scripts/tool-root.",
        )
    add_binary(archive, Path(found), f"{FOLDER}/{name}")
    return []


def compiled(source: Path) -> Path:
    """The static program of a C file, compiled once for each version of it."""
    place = CACHE / "tools" / f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-static", "-s", "-o", place, source]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise Problem(f"{source.name} does not compile", result.stderr.strip())
    return place
