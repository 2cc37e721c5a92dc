# SPDX-License-Identifier: GPL-2.0
"""Disk images for a run, and the check that they hold what dom0 believes."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from problem import Problem

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
BLOCK = 1 << 20
SUMS = "disks.sha256"
"""dom0 finds the first sums as /etc/disks.sha256; what it leaves in /out/disks.sha256 is compared."""


@dataclass(frozen=True)
class Disk:
    """A raw image."""

    name: str
    path: Path

    @property
    def drive(self) -> list[str]:
        """The emulator's arguments for it; a device takes it with `drive=NAME`."""
        return ["-drive", f"if=none,id={self.name},format=raw,file={self.path},cache=unsafe,discard=unmap"]

    def digest(self) -> str:
        """The SHA-256 of the whole image."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def create(description: str, folder: Path) -> Disk:
    """Makes the disk of `NAME=SIZE[:random]`: zeroes, or random bytes that dom0 can check."""
    match = re.fullmatch(r"(\w+)=(\d+)([KMG]?)(:random)?", description)
    if not match:
        raise Problem(f"'{description}' describes no disk", "Write NAME=SIZE, as in d0=64M, or NAME=SIZE:random.")
    name, size, unit, random = match.groups()
    left = int(size) * UNITS[unit]
    path = folder / f"{name}.img"
    with path.open("wb") as file:
        file.truncate(left)
        while random and left:
            left -= file.write(os.urandom(min(BLOCK, left)))
    return Disk(name, path)


def sums(disks: list[Disk]) -> str:
    """A line "DIGEST  NAME" a disk, as sha256sum writes it."""
    return "".join(f"{disk.digest()}  {disk.name}\n" for disk in disks)


def differences(claimed: str, disks: list[Disk]) -> list[str]:
    """What dom0 said of the disks and is not so."""
    wrong = []
    known = {disk.name: disk for disk in disks}
    for line in claimed.splitlines():
        digest, name = line.split()
        if name not in known:
            wrong.append(f"{name}: dom0 gives a sum of a disk that does not exist")
        elif known[name].digest() != digest:
            wrong.append(f"{name}: dom0 read {digest[:16]}…, the image has {known[name].digest()[:16]}…")
    return wrong
