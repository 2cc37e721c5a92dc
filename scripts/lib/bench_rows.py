# SPDX-License-Identifier: GPL-2.0
"""The benchmark's rows as dom0 wrote them, and the several rounds of one row as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from problem import Problem

CALLS = ("make", "map", "alloc", "sync_for_cpu", "sync_for_device", "unmap", "free", "remove", "refused")
AGREEMENT = 0.01
"""How far medians of two boots may differ, in relation."""
AGREEMENT_SLEEPING = 0.10
"""The same where pages are allocated: which ones are at hand is not the same in two boots."""
SLEEPING = ("coherent", "coherent-large", "extent")
"""Cases that may sleep, and so are no mapping operations."""
GROWING = "growth"
"""A case in which pages are allocated meanwhile."""


@dataclass(frozen=True)
class Key:
    """What was measured."""

    case: str
    call: str
    bytes: int
    entries: int
    fill: int

    @property
    def order(self) -> int:
        """The call's place in a table."""
        return CALLS.index(self.call)

    @property
    def sleeps(self) -> bool:
        """Whether the call may sleep, and takes interrupts."""
        return self.case in SLEEPING

    @property
    def agreement(self) -> float:
        """How far two boots may differ."""
        return AGREEMENT_SLEEPING if self.sleeps or self.case == GROWING else AGREEMENT


@dataclass(frozen=True)
class Measured:
    """What it took, in instructions."""

    samples: int
    min: int
    median: int
    max: int
    copy: int
    """What the kernel's memcpy() takes for the bytes that a call copies; part of the others."""

    def whole(self) -> int:
        """The median of the whole call."""
        return self.median

    def bare(self) -> int:
        """The median without the copy."""
        return self.median - self.copy

    def as_json(self) -> dict[str, int]:
        """In the shape of bench.json, where the copy is the row's."""
        return {name: value for name, value in asdict(self).items() if name != "copy"}

    def quieter(self, other: Measured) -> Measured:
        """The lower figures of two rounds from the same state: what disturbs a round can only add."""
        pairs = {name: min(value, getattr(other, name)) for name, value in asdict(self).items()}
        return Measured(**pairs)


Results = dict[Key, Measured]


def rows(path: Path) -> Results:
    """The rows of one device, all rounds together."""
    made: Results = {}
    for line in path.read_text().splitlines():
        fields = dict(word.split("=", 1) for word in line.split())
        key = Key(fields["case"], fields["call"], *(int(fields[name]) for name in ("bytes", "entries", "fill")))
        new = Measured(*(int(fields[name]) for name in ("samples", "min", "median", "max", "copy")))
        made[key] = made[key].quieter(new) if key in made else new
    return made


def read(folder: Path) -> tuple[dict[str, str], Results, Results]:
    """What one boot left: facts, C's rows, ours."""
    try:
        facts = dict(line.split(maxsplit=1) for line in (folder / "facts").read_text().splitlines())
        c, ours = rows(folder / "c"), {**rows(folder / "ours"), **rows(folder / "growth")}
        if facts["aperture_kb"] != facts["c_pool_kb"]:
            raise Problem(
                f"the apertures differ: {facts['c_pool_kb']} KiB in C, {facts['aperture_kb']} KiB ours",
                "Low memory gave less than asked for; nothing can be compared.",
            )
    except (OSError, KeyError, ValueError) as error:
        raise Problem(f"the boot left no complete results ({error})", "V=1 shows its console.") from error
    return facts, c, ours


def disagreements(first: Results, second: Results) -> Iterator[str]:
    """Where two boots differ."""
    for key in dict.fromkeys([*first, *second]):
        one, other = first.get(key), second.get(key)
        if not one or not other:
            yield f"{key}: in one boot only"
        elif abs(one.median - other.median) > one.median * key.agreement:
            yield f"{key}: {one.median:,} and {other.median:,}"
