# SPDX-License-Identifier: GPL-2.0
"""What came of a run: read from the console's log and from dom0's records."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field


class Status(enum.IntEnum):
    """Exit statuses of scripts/dom0 that are not the script's own.

    They lie between what scripts use and what shells use for signals; a script should
    keep to statuses below them.
    """

    RESULT = 0
    """The script's own status counts."""
    USAGE = 2
    """The run did not begin: wrong arguments, or something is missing."""
    WARNED = 110
    """The script succeeded, but the kernel found a fault on the way (WARNING, BUG, ...)."""
    DISK_DIFFERS = 111
    """The script succeeded, but a disk does not hold what dom0 said it wrote."""
    DRIVER_FAILED = 112
    """Our driver, or a module that was asked for, did not load."""
    NO_RESULT = 113
    """The machine ended without a result."""
    DOM0_CRASHED = 114
    """Panic or oops in dom0."""
    XEN_CRASHED = 115
    """Panic in Xen."""
    TIMEOUT = 124
    """No end within the time given; the number is that of timeout(1)."""


XEN_CRASH = re.compile(r"^\(XEN\).*(Panic on CPU|Xen BUG at|FATAL (TRAP|PAGE FAULT)|Assertion '.*' failed)", re.M)
DOM0_CRASH = re.compile(
    r"Kernel panic - not syncing|\bOops: |Hardware Dom0 crashed|Domain 0 crashed|domain_crash called.*|"
    r"BUG: unable to handle|kernel BUG at",
)
KERNEL_FAULT = re.compile(
    r"^(?:\[ *[\d.]+\] )?.*?("
    r"WARNING: |BUG: |UBSAN: |KASAN: |KFENCE: |INFO: task .* blocked|INFO: rcu.*detected|"
    r"possible (?:recursive|circular) locking|inconsistent lock state|suspicious RCU usage|"
    r"kmemleak: [1-9]\d* new|DMA-API: .*: device driver|watchdog: BUG|list_(?:add|del) corruption)",
    re.M,
)
"""Not fatal in itself, but nothing that a good run prints."""

CHANGING_CODE = re.compile(r"Oops: int3")
"""A processor met an instruction that another one was exchanging (jump labels), and Linux did not know of it."""

XEN_UP = re.compile(r"Xen version|\(XEN\) Command line")
KERNEL_UP = re.compile(r"Linux version ")


@dataclass
class Outcome:
    """The records of a run so far."""

    phase: str = "power on"
    script_status: int | None = None
    failure: str = ""
    """Why the script was not run: what did not load."""
    archive: bytes | None = None
    """The contents of /out, a compressed tar file."""
    timed_out: bool = False
    _pending: bytes = field(default=b"", repr=False)
    _missing: int = 0

    def tripped(self, log: str) -> bool:
        """Whether the kernel tripped over its own changing code before dom0's first process ran.

        Seen where the emulator's processors had little time, and no driver of ours was there yet.
        """
        return self.phase not in PHASES.values() and self.script_status is None and bool(CHANGING_CODE.search(log))

    def records(self, data: bytes) -> list[str]:
        """Takes in what came over the records' port; gives the phases that were reached."""
        reached = []
        self._pending += data
        while True:
            if self._missing:
                if len(self._pending) < self._missing:
                    return reached
                self.archive, self._pending = self._pending[: self._missing], self._pending[self._missing :]
                self._missing = 0
            line, end, rest = self._pending.partition(b"\n")
            if not end:
                return reached
            self._pending = rest
            what, _, detail = line.decode(errors="replace").strip().partition(" ")
            if what == "out":
                self._missing = int(detail)
            elif what == "status":
                self.script_status = int(detail)
                reached.append("script ended")
            elif what.endswith("-failed"):
                self.failure = f"{what.removesuffix('-failed')} did not load: {detail}"
            elif what in PHASES:
                reached.append(PHASES[what])
        return reached


PHASES = {"init": "dom0 up", "driver": "driver loaded", "script": "script running"}


def excerpt(log: str, pattern: re.Pattern[str], lines: int = 12) -> list[str]:
    """The first match of `pattern` with the lines after it."""
    found = pattern.search(log)
    if not found:
        return log.splitlines()[-lines:]
    start = log.rfind("\n", 0, found.start()) + 1
    return log[start:].splitlines()[:lines]
