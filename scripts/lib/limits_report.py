# SPDX-License-Identifier: GPL-2.0
"""Compares the limits of disks that three boots saw: scripts/limits' part inside the tool root."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench_report import Table, write_page
from problem import Problem, report

SIDES = {"bare": "bare", "c": "C", "ours": "ours"}
NAMES = {"nvme": "NVMe", "sata": "AHCI", "ide": "IDE (PIIX)", "vblk": "virtio-blk", "vscsi": "virtio-scsi"}
VIRTIO_SEGMENT = 4 << 20
"""The least that a segment of virtio-blk is to have, in bytes."""

Limits = dict[tuple[str, str], int]


def read(path: Path) -> Limits:
    """A line a limit: disk, limit, value."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {(disk, what): int(value) for disk, what, value in lines}


def short(sides: dict[str, Limits]) -> list[str]:
    """What ours is to have and has not."""
    bare, ours = sides["bare"], sides["ours"]
    wrong = []
    for key in (("nvme", "max_hw_sectors_kb"), ("sata", "max_sectors_kb")):
        if ours[key] != bare[key]:
            wrong.append(f"{NAMES[key[0]]}: {key[1]} is {ours[key]}, on bare metal {bare[key]}")
    segment = ours["vblk", "max_segment_size"]
    if segment < VIRTIO_SEGMENT:
        wrong.append(f"virtio-blk: segments of {segment} bytes, not {VIRTIO_SEGMENT}")
    return wrong


def main() -> int:
    """Reads, shows, judges, writes."""
    made = argparse.ArgumentParser(prog="limits", add_help=False, allow_abbrev=False)
    made.add_argument("--write", action="store_true", help="write results.md, too")
    made.add_argument("folder", type=Path)
    options = made.parse_args()
    sides = {side: read(options.folder / side / "limits") for side in SIDES}
    rows = []
    for disk, what in sides["bare"]:
        figures = (sides[side].get((disk, what)) for side in SIDES)
        rows.append([f"{NAMES[disk]}, `{what}`", *("-" if value is None else f"{value:,}" for value in figures)])
    table = Table("Limits that user space sees", ["limit", *SIDES.values()], rows)
    print(table.for_terminal())
    wrong = short(sides)
    if wrong:
        raise Problem("our limits are short of what is required", *wrong)
    if options.write:
        write_page({"limits": table.for_page()})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, KeyError) as error:
        report("limits", Problem(f"a boot left no complete limits ({error})", "V=1 shows its console."))
        sys.exit(1)
    except Problem as problem:
        report("limits", problem)
        sys.exit(1)
