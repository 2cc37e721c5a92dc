# SPDX-License-Identifier: GPL-2.0
"""Programs for dom0: of the tool root, and small ones of our own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from initramfs import Archive, add_binary
from kernel import CACHE
from problem import Problem

OWN = Path(__file__).parent / "guest"
FOLDER = "usr/tools"
"""Comes before busybox in dom0's PATH."""


@dataclass(frozen=True)
class Needs:
    """What a program needs besides its libraries."""

    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    """Files of the tool root, or of our own, and their places in dom0."""


NEEDS = {
    "xen-pages": Needs(modules=("xen-privcmd",)),
    "xl": Needs(
        programs=("xen-tools-start", "xenstored", "xenstore", "xen-init-dom0", "xenconsoled"),
        modules=("xen-privcmd", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xenfs", "xen-blkback"),
        files=(
            ("/usr/lib/x86_64-linux-gnu/libgcc_s.so.1", "lib/x86_64-linux-gnu/libgcc_s.so.1"),
            ("block.sh", "etc/xen/scripts/block"),
        ),
    ),
    "xenstore": Needs(programs=("xenstore-read", "xenstore-write", "xenstore-ls", "xenstore-exists")),
}


def add(archive: Archive, name: str) -> list[str]:
    """Adds the program `name` and what it needs; gives the modules among that."""
    needs = NEEDS.get(name, Needs())
    place = f"{FOLDER}/{name}"
    modules = list(needs.modules)
    if archive.has(place):
        return []
    add_binary(archive, find(name), place)
    for program in needs.programs:
        modules += add(archive, program)
    for source, target in needs.files:
        if not archive.has(target):
            archive.data(target, (OWN / source).read_bytes(), 0o755)
    return modules


def find(name: str) -> Path:
    """The file of a program."""
    if (OWN / f"{name}.c").is_file():
        return compiled(OWN / f"{name}.c")
    if (OWN / f"{name}.sh").is_file():
        return OWN / f"{name}.sh"
    # What /usr/sbin has of Xen's programs are wrappers that choose a version.
    versions = sorted(map(str, Path("/usr/lib").glob("xen-[0-9]*/bin")), reverse=True)
    found = shutil.which(name, path=":".join([*versions, "/usr/sbin", "/usr/bin"]))
    if not found:
        raise Problem(
            f"the tool root has no program '{name}'",
            "The package that holds it must be added to scripts/tool-root.",
        )
    return Path(found)


def compiled(source: Path) -> Path:
    """The static program of a C file, compiled once for each version of it."""
    place = CACHE / "tools" / f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(f"{place}.{os.getpid()}")
        command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-static", "-s", "-o", scratch, source]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise Problem(f"{source.name} does not compile", result.stderr.strip())
        scratch.rename(place)
    return place
