# SPDX-License-Identifier: GPL-2.0
"""The emulated machine: its command line, and running it.

No hardware virtualisation is used, so it runs anywhere, and alike.  com1 is the console
of Xen and dom0.  The script's output and the runner's records (see guest/init.sh) come
through two ports of the emulator's debug console, which does with a byte nothing but
write it to a file.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import lifetime
from kernel import CACHE
from problem import Problem

EMULATOR = "qemu-system-x86_64"
# With XSAVE, emulated, vector registers are lost now and then when Xen switches between domains: in a
# guest 10 of 400 SHA-256 sums of the same 2 MB in memory were wrong, without XSAVE none.
PROCESSOR = "max,xsave=off,avx=off,avx2=off,fma=off,f16c=off,vaes=off,vpclmulqdq=off"
# One instruction takes one nanosecond of guest time, and string copies count one a byte,
# hence no ERMS; QEMU cannot count around the timer set-up that Xen does with x2APIC.
ICOUNT = [
    "-accel",
    "tcg,thread=single",
    "-icount",
    "shift=0,sleep=off",
    "-cpu",
    f"{PROCESSOR},x2apic=off,erms=off,fsrm=off",
]
PLAIN = ["-accel", "tcg,thread=multi", "-cpu", PROCESSOR]
HIGH_MEMORY = "max-ram-below-4g=256M"
# Free in the PC, unlike 0x402 (the firmware's messages) or 0x700 (the SMBus).
OUTPUT_PORT, RECORDS_PORT = 0xE9, 0xEA


@dataclass
class Machine:
    """What to boot, and on what."""

    kernel: Path
    initramfs: Path
    xen: Path | None
    """Xen's image, compressed or not; none boots the kernel without Xen."""
    memory: str = "2G"
    dom0_memory: str = "1G"
    processors: int = 2
    icount: bool = False
    high_memory: bool = False
    machine: str = "pc"
    kernel_arguments: list[str] = field(default_factory=list)
    xen_arguments: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    """Arguments for the emulator."""
    monitor: Path | None = None
    """Where the socket goes over which dom0 speaks with the emulator; none: it cannot."""

    def command(self, console: str, ports: dict[int, Path]) -> list[str]:
        """The emulator's command line: the console as `-serial` takes it, a file for each port."""
        options = f"{self.machine},{HIGH_MEMORY}" if self.high_memory else self.machine
        command = [EMULATOR, "-machine", options, *(ICOUNT if self.icount else PLAIN)]
        command += ["-smp", str(1 if self.icount else self.processors), "-m", self.memory]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-serial", console]
        for port, path in ports.items():
            command += ["-chardev", f"file,id=port{port},path={path}"]
            command += ["-device", f"isa-debugcon,iobase={port},chardev=port{port}"]
        return command + self._boot() + self._monitor() + self.devices

    def _monitor(self) -> list[str]:
        # The emulator calls itself: one end is its monitor, the other dom0's second serial port.
        if not self.monitor:
            return []
        return [
            *("-chardev", f"socket,id=monitor,path={self.monitor},server=on,wait=off"),
            *("-mon", "chardev=monitor,mode=control"),
            *("-chardev", f"socket,id=to-monitor,path={self.monitor}"),
            *("-device", "isa-serial,index=1,chardev=to-monitor"),
        ]

    def _boot(self) -> list[str]:
        # What goes wrong in the kernel shall end the run, not let it go on in an unknown state.
        common = ["panic=-1", "oops=panic", *self.kernel_arguments]
        if not self.xen:
            arguments = " ".join(["console=ttyS0", *common])
            return ["-kernel", str(self.kernel), "-initrd", str(self.initramfs), "-append", arguments]
        xen = ["console=com1", "com1=115200,8n1", f"dom0_mem={self.dom0_memory},max:{self.dom0_memory}"]
        # A comma starts the next module's name in -initrd; a doubled one stands for itself.
        dom0 = " ".join(["console=hvc0", *common]).replace(",", ",,")
        return [
            *("-kernel", str(uncompressed(self.xen))),
            *("-append", " ".join([*xen, *self.xen_arguments])),
            *("-initrd", f"{self.kernel} {dom0},{self.initramfs}"),
        ]


def newest_xen() -> Path:
    """The Xen that is installed in the tool root."""
    images = sorted(Path("/boot").glob("xen-*-amd64.gz"))
    if not images:
        raise Problem(
            "no Xen in /boot of the tool root",
            "Remove the root from the cache; the next run makes it again.",
        )
    return images[-1]


def uncompressed(image: Path) -> Path:
    """Xen's ELF file: the emulator's multiboot loader takes no other."""
    raw = image.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return image
    place = CACHE / "xen" / f"{image.stem}-{hashlib.sha256(raw).hexdigest()[:12]}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(gzip.decompress(raw))
        scratch.rename(place)
    return place


def start(command: list[str], errors: Path) -> subprocess.Popen[bytes]:
    """Starts the emulator; its own messages go to `errors`."""
    with errors.open("wb") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=lifetime.end_with_parent,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the emulator if it runs still."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Follower:
    """A file that grows from nothing, read as it grows."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"")
        self._file = path.open("rb")

    def more(self) -> bytes:
        """What has come since the last call."""
        return self._file.read()


def clean(console: bytes) -> str:
    """The console's text without what only a terminal needs."""
    return console.replace(b"\r", b"").replace(b"\0", b"").decode(errors="replace")


def pause() -> None:
    """Between two looks at the files."""
    time.sleep(0.05)
