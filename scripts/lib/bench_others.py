# SPDX-License-Identifier: GPL-2.0
"""The benchmark's other parts: the kernel's own dma_map_benchmark, and reads from disks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from problem import Problem

NS_PER_US = 1000
MODES = {"0": "single", "1": "list"}


@dataclass(frozen=True)
class Pair:
    """One figure of both sides, in instructions."""

    what: dict[str, Any]
    c: int
    ours: int

    def as_json(self) -> dict[str, Any]:
        """In the shape of bench.json."""
        return {**self.what, "c": self.c, "ours": self.ours}


def paired(sides: dict[str, dict[tuple[Any, ...], int]], names: Iterable[str]) -> Iterator[Pair]:
    """Figures of both sides, by what they are about."""
    c, ours = sides["c"], sides["ours"]
    if c.keys() != ours.keys() or not c:
        raise Problem("the two sides did not measure the same", "V=1 shows the console.")
    for key in c:
        yield Pair(dict(zip(names, key)), c[key], ours[key])


def map_benchmark(path: Path, ns_per_instruction: int) -> list[Pair]:
    """What tests/dom0/bench-map.sh left; its figures are microseconds of guest time."""
    sides: dict[str, dict[tuple[Any, ...], int]] = {"c": {}, "ours": {}}
    for line in path.read_text().splitlines():
        side, bits, mode, pages, threads, *times = line.split()
        for call, time in zip(("map", "unmap"), times):
            key = (call, MODES[mode], int(pages), int(bits), int(threads))
            sides[side][key] = round(float(time) * NS_PER_US / ns_per_instruction)
    return list(paired(sides, ("call", "mode", "pages", "bits", "threads")))


def disks(c: Path, ours: Path) -> list[Pair]:
    """What tests/dom0/bench-disks.sh left in two boots."""
    sides: dict[str, dict[tuple[Any, ...], int]] = {}
    for name, path in (("c", c), ("ours", ours)):
        lines = [line.split() for line in path.read_text().splitlines()]
        sides[name] = {(disk, int(size)): int(cost) for disk, size, cost in lines}
    return list(paired(sides, ("disk", "bytes")))
