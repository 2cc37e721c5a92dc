# SPDX-License-Identifier: GPL-2.0
"""What the driver is to achieve against the C code, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bench_rows import Key, Measured, Results

KIB = 1024


@dataclass(frozen=True)
class Goal:
    """A figure that must not be larger than a limit: ours to C's, or ours."""

    name: str
    c: int | None
    """None if the call was refused."""
    ours: int | None
    limit: float
    absolute: bool = False

    @property
    def value(self) -> float | None:
        """What the limit is for."""
        if self.ours is None:
            return None
        if self.absolute:
            return self.ours
        return self.ours / self.c if self.c else None

    @property
    def met(self) -> bool:
        """Whether it is reached.  Where only C refuses there is no ratio, and nothing to be slower than."""
        if self.ours is not None and self.c is None and not self.absolute:
            return True
        return self.value is not None and self.value <= self.limit

    def as_json(self) -> dict[str, Any]:
        """In the shape of bench.json."""
        return {
            "name": self.name,
            "c": self.c,
            "ours": self.ours,
            "value": self.value,
            "at_most": self.limit,
            "met": self.met,
        }


def total(of: Results, keys: Iterable[Key], figure: Callable[[Measured], int], parts: int = 1) -> int | None:
    """The sum of figures, divided by `parts`; none if one of them is missing."""
    found = [of.get(key) for key in keys]
    if any(one is None for one in found):
        return None
    return round(sum(figure(one) for one in found if one) / parts)


def compared(
    name: str,
    limit: float,
    sides: tuple[Results, Results],
    keys: list[Key],
    figure: Callable[[Measured], int] = Measured.whole,
    parts: int = 1,
) -> Goal:
    """A goal for a ratio."""
    c, ours = (total(of, keys, figure, parts) for of in sides)
    return Goal(name, c, ours, limit)


def worst(of: Results, wanted: Callable[[Key], bool]) -> int | None:
    """The most that any call took, without its copy; of a list, for each entry."""
    found = [(one.max - one.copy) / key.entries for key, one in of.items() if wanted(key)]
    return round(max(found)) if found else None


def goals(c: Results, ours: Results) -> Iterator[Goal]:
    """All of them."""
    sides = (c, ours)
    yield compared("direct map, 4 KiB", 0.50, sides, [Key("direct", "map", 4 * KIB, 1, 0)])
    yield compared("direct unmap, 4 KiB", 0.30, sides, [Key("direct", "unmap", 4 * KIB, 1, 0)])
    yield compared("direct map, 256 KiB", 0.35, sides, [Key("direct", "map", 256 * KIB, 1, 0)])
    for fill in (0, 90, 98):
        pair = [Key("bounce", call, 4 * KIB, 1, fill) for call in ("map", "unmap")]
        yield compared(f"bounce 4 KiB, map and unmap, no copy, {fill} % full", 0.15, sides, pair, Measured.bare)
    pair = [Key("list-bounce", call, 512 * KIB, 128, 0) for call in ("map", "unmap")]
    yield compared("list of 128 bounced pages, an entry, no copy", 0.10, sides, pair, Measured.bare, 128)
    pair = [Key("sync-direct", call, 4 * KIB, 1, 0) for call in ("sync_for_cpu", "sync_for_device")]
    yield compared("sync of a direct mapping, both ways", 0.25, sides, pair)

    for name, size, limit in (("4 KiB", 4 * KIB, 0.02), ("64 KiB", 64 * KIB, 0.02), ("2 MiB", 2048 * KIB, 0.05)):
        pair = [Key("coherent", call, size, 1, 0) for call in ("alloc", "free")]
        yield compared(f"coherent {name}, alloc and free, no clearing", limit, sides, pair, Measured.bare)

    def mapping(key: Key) -> bool:
        return not key.sleeps

    def hopeless(key: Key) -> bool:
        return key.call == "refused" and (key.case == "too-large" or key.fill == 100)

    for name, limit, wanted in (
        ("worst case of any operation, no copy", 5000, mapping),
        ("refusal of what cannot be met, worst", 3000, hopeless),
    ):
        yield Goal(name, worst(c, wanted), worst(ours, wanted), limit, absolute=True)
