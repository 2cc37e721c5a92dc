# SPDX-License-Identifier: GPL-2.0
"""Turns what the benchmark left into tables, out/bench.json and, if asked, results.md.

Documentation/numbers.md describes the JSON, tests/dom0/modules/bench/rows.rs the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_others as others
from bench_goals import Goal, goals
from bench_rows import Key, Measured, Results, disagreements, read
from problem import Problem, report

C_BYTES_PER_SLOT = 24
"""struct io_tlb_slot of kernel/dma/swiotlb.c."""
SLOTS_PER_MIB = 512
RESULTS = Path("Documentation/results.md")
TITLES = {
    "wrapper": "The DMA API itself: a backend that does nothing",
    "direct": "Direct mappings",
    "list-direct": "Scatterlists of single pages, direct: the whole list",
    "list-bounce": "Scatterlists of single pages, bounced: the whole list",
    "sync-direct": "Synchronising a direct mapping",
    "sync-bounce": "Synchronising a bounced mapping of 4 KiB, all and a part",
    "too-large": "More than the aperture has",
    "coherent": "Coherent memory below 4 GiB; may sleep, interrupts are on. The copy is one clearing",
    "coherent-large": "Large coherent memory, anywhere; likewise",
    "bounce": "Bounces, one at a time, while others hold random slots",
    "bounce-batch": "Bounces, many in a row, released in random order",
    "every-second-free": "Bounces where every second slot is free",
    "three-of-four-free": "Bounces where three of four slots are free",
    "random-lifetimes": "Bounces after many mappings of random sizes and lifetimes",
    "growth": "Bounces of pages while the aperture grows from 4 MiB to more than 24 MiB",
    "shrink": "Bounces of pages while it shrinks again",
    "extent": "An extent, made and given back by the work item for which no mapping waits. The copy is one clearing",
}


@dataclass(frozen=True)
class Table:
    """A title, and rows that begin with their names."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def for_terminal(self) -> str:
        """In columns."""
        rows = [self.head, *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.head))]
        lines = [
            row[0].ljust(widths[0]) + "".join(f"  {text:>{width}}" for text, width in zip(row[1:], widths[1:]))
            for row in rows
        ]
        return "\n".join([self.title, *("  " + line for line in lines), ""])

    def for_page(self) -> str:
        """In Markdown, without the title."""
        lines = ["| " + " | ".join(row) + " |" for row in [self.head, *self.rows]]
        lines.insert(1, "|---|" + "---:|" * (len(self.head) - 1))
        return "\n".join(lines)


def size(count: int) -> str:
    """Bytes for people."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"


def ratio(ours: int, c: int) -> str:
    """Ours to C's."""
    return f"{ours / c:.2f}" if c > 0 else "-"


def what(key: Key) -> str:
    """A row's name within its case."""
    of = f"{key.entries} pages" if key.case.startswith("list") else size(key.bytes)
    fill = f", {key.fill} % full" if key.case.startswith("bounce") else ""
    return f"{key.call} {of}{fill}"


HEAD = ["call", "C", "ours", "ratio", "C, no copy", "ours", "ratio", "C, worst", "ours"]


def cells(key: Key, c: Measured | None, ours: Measured | None) -> list[str]:
    """A row of the table of a case."""
    row = [what(key)]
    copies = any(side and side.copy for side in (c, ours))
    for figure in (Measured.whole, Measured.bare):
        if figure is Measured.bare and not copies:
            row += ["", "", ""]
            continue
        row += [f"{figure(side):,}" if side else "-" for side in (c, ours)]
        row.append(ratio(figure(ours), figure(c)) if c and ours else "-")
    return row + [f"{side.max - side.copy:,}" if side else "-" for side in (c, ours)]


def calls(c: Results, ours: Results) -> Iterator[Table]:
    """A table for each case."""
    keys = sorted({*c, *ours}, key=lambda key: (key.fill, key.bytes, key.entries, key.order))
    for case, title in TITLES.items():
        yield Table(title, HEAD, [cells(key, c.get(key), ours.get(key)) for key in keys if key.case == case])


def pair_cells(name: str, pair: others.Pair) -> list[str]:
    """A row of two figures."""
    return [name, f"{pair.c:,}", f"{pair.ours:,}", ratio(pair.ours, pair.c)]


def map_benchmark(pairs: list[others.Pair]) -> Table:
    """The kernel's own benchmark."""
    rows = []
    for pair in pairs:
        of = pair.what
        name = f"{of['call']} {of['mode']} of {of['pages']} pages, {of['bits']} bits, {of['threads']} threads"
        rows.append(pair_cells(name, pair))
    return Table("The kernel's own dma_map_benchmark, averages", ["call", "C", "ours", "ratio"], rows)


def disks(pairs: list[others.Pair]) -> Table:
    """Reads."""
    rows = [pair_cells(f"{pair.what['disk']}, {size(pair.what['bytes'])}", pair) for pair in pairs]
    return Table("A read past the page cache, all of dom0 and Xen", ["read", "C", "ours", "ratio"], rows)


def goal_table(judged: list[Goal]) -> Table:
    """The goals."""
    rows = []
    for goal in judged:
        figures = [f"{side:,}" if side is not None else "refused" for side in (goal.c, goal.ours)]
        shown = "{:,}" if goal.absolute else "{:.2f}"
        value = "-" if goal.value is None else shown.format(goal.value)
        rows.append([goal.name, *figures, value, shown.format(goal.limit), "yes" if goal.met else "no"])
    return Table("Goals", ["goal", "C", "ours", "value", "at most", "met"], rows)


def fact_table(results: dict[str, Any]) -> Table:
    """What is no count of instructions."""
    rows = [["kernel", results["kernel"], results["kernel"]]]
    for name, field in (
        ("aperture, KiB", "aperture_kb"),
        ("bookkeeping, bytes for each MiB", "bookkeeping_bytes_per_mib"),
    ):
        rows.append([name, *(f"{results[field][side]:,}" for side in ("c", "ours"))])
    return Table("Besides", ["", "C", "ours"], rows)


def row_as_json(key: Key, c: Measured | None, ours: Measured | None) -> dict[str, Any]:
    """A row in the shape of bench.json."""
    return {
        "case": key.case,
        "call": key.call,
        "bytes": key.bytes,
        "entries": key.entries,
        "fill": key.fill,
        "copy": next(side.copy for side in (c, ours) if side),
        "c": c.as_json() if c else None,
        "ours": ours.as_json() if ours else None,
    }


def as_json(facts: dict[str, str], c: Results, ours: Results, judged: list[Goal]) -> dict[str, Any]:
    """The shape of bench.json, without the other parts."""
    return {
        "version": 1,
        "kernel": facts["kernel"],
        "aperture_kb": {"c": int(facts["c_pool_kb"]), "ours": int(facts["aperture_kb"])},
        "bookkeeping_bytes_per_mib": {"c": C_BYTES_PER_SLOT * SLOTS_PER_MIB, "ours": int(facts["bookkeeping"])},
        "rows": [row_as_json(key, c.get(key), ours.get(key)) for key in dict.fromkeys([*ours, *c])],
        "goals": [goal.as_json() for goal in judged],
    }


def write_page(parts: dict[str, str]) -> None:
    """Puts new figures into results.md: between `<!-- NAME -->` and `<!-- /NAME -->`."""
    text = RESULTS.read_text()
    for name, value in parts.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not mark or not end:
            raise Problem(
                f"{RESULTS} has no place for the {name}", f"It stands between <!-- {name} --> and <!-- /{name} -->."
            )
        text = f"{before}{mark}{value}\n{end}{after}"
    RESULTS.write_text(text)


def main() -> int:
    """Reads, shows, writes."""
    made = argparse.ArgumentParser(prog="bench", add_help=False, allow_abbrev=False)
    made.add_argument("--calls", action="store_true", help="only the first part was measured")
    made.add_argument("--twice", action="store_true", help="the first part was measured twice")
    made.add_argument("--write", action="store_true", help="write results.md, too")
    made.add_argument("--map-ns", type=int, default=1, help="ns of guest time for an instruction in the map part")
    made.add_argument("folder", type=Path)
    options = made.parse_args()
    folder: Path = options.folder
    facts, c, ours = read(folder / "first")
    judged = list(goals(c, ours))
    results = as_json(facts, c, ours, judged)
    case_tables = list(calls(c, ours))
    extra = []
    if not options.calls:
        mapped = others.map_benchmark(folder / "map/map", options.map_ns)
        of_disks = others.disks(folder / "disks-c/disks", folder / "disks-ours/disks")
        results["dma_map_benchmark"] = [pair.as_json() for pair in mapped]
        results["disks"] = [pair.as_json() for pair in of_disks]
        extra = [map_benchmark(mapped), disks(of_disks)]
    target = folder.with_suffix(".json")
    target.write_text(json.dumps(results, indent=2) + "\n")
    for table in (*case_tables, *extra, fact_table(results), goal_table(judged)):
        print(table.for_terminal())
    if options.write:
        parts = zip(("map", "disks"), (table.for_page() for table in extra))
        write_page(
            {
                "goals": goal_table(judged).for_page(),
                "facts": fact_table(results).for_page(),
                "calls": "\n\n".join(f"### {table.title}\n\n{table.for_page()}" for table in case_tables),
                **dict(parts),
            }
        )
    print(f"{target}: {sum(goal.met for goal in judged)} of {len(judged)} goals are met")
    if not options.twice:
        return 0
    _, *again = read(folder / "second")
    differing = [line for one, other in zip((c, ours), again) for line in disagreements(one, other)]
    print("\n".join([f"{len(differing)} of {len(c) + len(ours)} medians differ in two boots", *differing]))
    return 1 if differing else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        report("bench", Problem(f"a boot left no complete results ({error})", "V=1 shows its console."))
        sys.exit(1)
    except Problem as problem:
        report("bench", problem)
        sys.exit(1)
