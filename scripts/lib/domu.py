# SPDX-License-Identifier: GPL-2.0
"""A PV guest for dom0 to start: the same kernel, with a small initramfs of its own."""

from __future__ import annotations

import io
from pathlib import Path

import initramfs
import kernel as kernels
from kernel import Kernel

FOLDER = "guest"
INIT = Path(__file__).parent / "guest/domu-init.sh"


def add(archive: initramfs.Archive, kernel: Kernel) -> None:
    """Adds /guest/vmlinuz and /guest/initramfs; to the latter a scenario appends its /script."""
    memory = io.BytesIO()
    inner = initramfs.Archive(memory)
    inner.device("dev/console", 5, 1)
    for folder in ("proc", "sys", "tmp"):
        inner.directory(folder)
    initramfs.add_busybox(inner)
    inner.data("init", INIT.read_bytes(), 0o755)
    kernels.add_modules(inner, kernel, ["xen-blkfront"])
    inner.close()
    archive.file(kernel.image, f"{FOLDER}/vmlinuz")
    archive.data(f"{FOLDER}/initramfs", memory.getvalue())
