# SPDX-License-Identifier: GPL-2.0
"""The initramfs that dom0 boots from.

A cpio archive in the "newc" format, written without a staging folder, so that device
nodes and owners need no rights on the host.  It holds busybox, the init script, the
modules and tools that were asked for, and nothing else: a small archive boots fast.

Format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import BinaryIO

HEADER = "070701"
TRAILER = "TRAILER!!!"


class Archive:
    """A newc archive that is being written; parents of a file are made as needed."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0
        self._names: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the archive holds `name` already."""
        return name.strip("/") in self._names

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Adds a folder and its parents, unless they are there."""
        name = name.strip("/")
        if not name or name in self._names:
            return
        self.directory(os.path.dirname(name))
        self._entry(name, stat.S_IFDIR | mode, b"")

    def data(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Adds a regular file."""
        self._add(name, stat.S_IFREG | mode, content)

    def symlink(self, name: str, target: str) -> None:
        """Adds a symbolic link `name` -> `target`."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Adds a character device node."""
        self._add(name, stat.S_IFCHR | mode, b"", (major, minor))

    def file(self, source: Path, name: str) -> None:
        """Adds the regular file `source`, links followed, under `name`."""
        self.data(name, source.read_bytes(), source.stat().st_mode & 0o777)

    def tree(self, source: Path, name: str = "") -> None:
        """Adds everything below the folder `source`, below the folder `name`."""
        for path in sorted(source.rglob("*")):
            inside = os.path.join(name, path.relative_to(source))
            if path.is_symlink():
                self.symlink(inside, os.readlink(path))
            elif path.is_dir():
                self.directory(inside, path.stat().st_mode & 0o777)
            elif path.is_file():
                self.file(path, inside)

    def close(self) -> None:
        """Writes the end mark."""
        self._entry(TRAILER, 0, b"")

    def _add(self, name: str, mode: int, content: bytes, rdev: tuple[int, int] = (0, 0)) -> None:
        name = name.strip("/")
        self.directory(os.path.dirname(name))
        self._entry(name, mode, content, rdev)

    def _entry(self, name: str, mode: int, content: bytes, rdev: tuple[int, int] = (0, 0)) -> None:
        self._names.add(name)
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, rdev[0], rdev[1], len(path), 0)
        head = (HEADER + "".join(f"{field:08x}" for field in fields)).encode() + path
        self._out.write(head + b"\0" * (-len(head) % 4))
        self._out.write(content + b"\0" * (-len(content) % 4))


def add_busybox(archive: Archive) -> None:
    """Adds busybox and a link for each of its commands."""
    busybox = Path("/usr/bin/busybox")
    archive.file(busybox, "bin/busybox")
    listing = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
    for command in listing.stdout.split():
        if command != "busybox":
            archive.symlink(f"bin/{command}", "busybox")
    archive.symlink("sbin", "bin")
    archive.symlink("usr/bin", "../bin")
    archive.symlink("usr/sbin", "../bin")


def libraries(binary: Path) -> list[Path]:
    """The shared libraries, the loader among them, that `binary` needs; none if it is static."""
    listing = subprocess.run(["ldd", binary], capture_output=True, text=True)
    found = []
    for line in listing.stdout.splitlines():
        found += [Path(word) for word in line.split() if word.startswith("/")][:1]
    return found


def add_binary(archive: Archive, binary: Path, name: str) -> None:
    """Adds a program of the tool root as `name`, with its libraries at their own places."""
    if not archive.has(name):
        archive.data(name, binary.read_bytes(), 0o755)
    for library in libraries(binary):
        if not archive.has(str(library)):
            archive.file(library, str(library))
