# SPDX-License-Identifier: GPL-2.0
"""A kernel to boot: its image, its release, its modules and our driver for it.

A kernel is named by the release that scripts/prepare-kernel prepared, or by the path of
an image of one's own with, perhaps, a folder of modules.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from initramfs import Archive
from problem import Problem

CACHE = Path("/cache")
OUT = Path("/src/out")
DRIVER = "xen_swiotlb_rs"

# Documentation/arch/x86/boot.rst: the offset of a pointer, less 0x200, to the release.
BOOT_MAGIC, BOOT_MAGIC_AT = b"HdrS", 0x202
RELEASE_POINTER_AT, RELEASE_POINTER_BASE = 0x20E, 0x200
# The same: the sectors before the 32-bit code, and the compressed ELF file's place after them.
SETUP_SECTORS_AT, SECTOR = 0x1F1, 512
PAYLOAD_AT, PAYLOAD_SIZE_AT = 0x248, 0x24C
DECOMPRESSORS = {b"\x28\xb5\x2f\xfd": ["zstd", "-dcq"], b"\x1f\x8b": ["gzip", "-dc"], b"\xfd7zXZ\0": ["xz", "-dc"]}


@dataclass(frozen=True)
class Kernel:
    """What is known of a kernel."""

    release: str
    image: Path
    modules: Path | None
    """The folder that holds modules.dep, or none if the kernel has no modules."""
    driver: Path
    """Where our driver for this kernel would be; it need not be there."""

    @property
    def folder(self) -> str:
        """The place of the modules in the initramfs."""
        return f"lib/modules/{self.release}"


def prepared(release: str) -> Kernel:
    """The stock kernel `release`, as scripts/prepare-kernel left it."""
    stock = CACHE / "kernel" / release / "stock"
    modules = first(stock / "usr/lib/modules" / release, stock / "lib/modules" / release)
    boot = (stock / f"boot/vmlinuz-{release}", stock / f"usr/boot/vmlinuz-{release}")
    image = modules and first(modules / "vmlinuz", *boot)
    if not image or not (modules / "modules.dep").is_file():
        raise Problem(
            f"the kernel '{release}' is not prepared: no image and modules.dep in kernel/{release}/stock of the cache",
            f"Run 'KVER={release} scripts/prepare-kernel', or give --kernel the path of an image.",
        )
    return Kernel(release, image, modules, driver_for(release))


def own(image: Path, modules: Path | None) -> Kernel:
    """A kernel of the user's: an image, and perhaps its modules."""
    release = release_of(image)
    if modules:
        inner = modules / "lib/modules" / release
        modules = inner if inner.is_dir() else modules
        if not (modules / "modules.dep").is_file():
            raise Problem(
                f"no modules.dep in {modules}, nor in {inner}",
                "--modules takes what 'make modules_install INSTALL_MOD_PATH=DIR' left in DIR.",
            )
    return Kernel(release, image, modules, driver_for(release))


def driver_for(release: str) -> Path:
    """Where the build puts the driver for `release`: in the checkout, since another may share the cache."""
    return OUT / release / f"{DRIVER}.ko"


def release_of(image: Path) -> str:
    """The release that is written in an image's boot header."""
    with image.open("rb") as file:
        head = file.read(0x10000)
    if head[BOOT_MAGIC_AT : BOOT_MAGIC_AT + len(BOOT_MAGIC)] != BOOT_MAGIC:
        raise Problem(f"{image} is no bzImage", "Give arch/x86/boot/bzImage of a kernel build, or a vmlinuz.")
    start = int.from_bytes(head[RELEASE_POINTER_AT : RELEASE_POINTER_AT + 2], "little") + RELEASE_POINTER_BASE
    return head[start:].split(b"\0", 1)[0].split(b" ", 1)[0].decode()


def unpacked(image: Path) -> Path:
    """The ELF file in an image, or the image itself if that cannot be had.

    Xen boots either, but unpacking takes it seconds of emulated time.
    """
    raw = image.read_bytes()
    place = CACHE / "image" / f"{release_of(image)}-{hashlib.sha256(raw).hexdigest()[:12]}"
    if place.exists():
        return place

    def number(at: int) -> int:
        return int.from_bytes(raw[at : at + 4], "little")

    start = ((raw[SETUP_SECTORS_AT] or 4) + 1) * SECTOR + number(PAYLOAD_AT)
    # The last four bytes are the unpacked size, which is no part of the compressed stream.
    payload = raw[start : start + number(PAYLOAD_SIZE_AT) - 4]
    command = next((command for magic, command in DECOMPRESSORS.items() if payload.startswith(magic)), None)
    result = command and subprocess.run(command, input=payload, capture_output=True)
    if not result or not result.stdout.startswith(b"\x7fELF"):
        return image
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = place.with_name(f"{place.name}.{os.getpid()}")
    scratch.write_bytes(result.stdout)
    scratch.rename(place)
    return place


def add_modules(archive: Archive, kernel: Kernel, names: list[str]) -> None:
    """Adds the modules `names`, all that they depend on, and the tables that modprobe reads."""
    if not kernel.modules:
        if names:
            raise Problem(f"no modules are known for {kernel.image}", "Name their folder with --modules.")
        return
    chosen: list[str] = []
    for name in names:
        chosen += [path for path in with_dependencies(kernel, name) if path not in chosen]
    for path in chosen:
        archive.data(f"{kernel.folder}/{plain(path)}", content(kernel.modules / path))
    archive.data(f"{kernel.folder}/modules.dep", dependencies(kernel, set(chosen)).encode())
    archive.data(f"{kernel.folder}/modules.alias", aliases(kernel, set(chosen)).encode())
    # modprobe of a module that is built in must succeed.
    for table in ("modules.builtin", "modules.order"):
        if (kernel.modules / table).is_file():
            archive.file(kernel.modules / table, f"{kernel.folder}/{table}")


def add_driver(archive: Archive, kernel: Kernel) -> None:
    """Adds our driver, where out-of-tree modules belong."""
    archive.file(kernel.driver, f"{kernel.folder}/extra/{DRIVER}.ko")


def with_dependencies(kernel: Kernel, name: str) -> list[str]:
    """The files of a module and of what it needs, in loading order; none if it is built in."""
    base = str(kernel.modules).removesuffix("/" + kernel.folder)
    answer = subprocess.run(
        ["modprobe", "--dirname", base, "--set-version", kernel.release, "--show-depends", name],
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        raise Problem(f"{kernel.release} has no module '{name}'", answer.stderr.strip())
    lines = [line.split() for line in answer.stdout.splitlines()]
    return [os.path.relpath(words[1], kernel.modules) for words in lines if words[0] == "insmod"]


def dependencies(kernel: Kernel, chosen: set[str]) -> str:
    """The lines of modules.dep for the modules `chosen`."""
    lines = []
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        if path in chosen:
            lines.append(f"{plain(path)}: {' '.join(plain(need) for need in needs.split())}".rstrip())
    return "".join(line + "\n" for line in lines)


def aliases(kernel: Kernel, chosen: set[str]) -> str:
    """The lines of modules.alias for the modules `chosen`."""
    names = {os.path.basename(plain(path)).removesuffix(".ko").replace("-", "_") for path in chosen}
    lines = (kernel.modules / "modules.alias").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.split()[-1].replace("-", "_") in names)


def plain(path: str) -> str:
    """The name of a module's file without its compression's suffix."""
    return path.split(".ko")[0] + ".ko"


def content(path: Path) -> bytes:
    """A module's file, uncompressed: dom0 shall not spend emulated time on it."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    if path.suffix == ".gz":
        return subprocess.run(["gzip", "-dc", path], check=True, capture_output=True).stdout
    return path.read_bytes()


def first(*paths: Path) -> Path | None:
    """The first of `paths` that exists."""
    return next((path for path in paths if path.exists()), None)
