# SPDX-License-Identifier: GPL-2.0
"""Turns what the benchmark left into a table, out/bench.json and, if asked, results.md.

Documentation/numbers.md describes the JSON, tests/dom0/modules/bench/rows.rs the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench_goals import Goal, goals
from bench_rows import Key, Measured, Results, disagreements, read
from problem import Problem, report

C_BYTES_PER_SLOT = 24
"""struct io_tlb_slot of kernel/dma/swiotlb.c."""
SLOTS_PER_MIB = 512
RESULTS = Path("Documentation/results.md")
TITLES = {
    "wrapper": "The DMA API itself (a backend that does nothing)",
    "direct": "Direct mappings",
    "list-direct": "Scatterlists of single pages, direct, a whole list",
    "list-bounce": "Scatterlists of single pages, bounced, a whole list",
    "sync-direct": "Synchronising a direct mapping",
    "sync-bounce": "Synchronising a bounced mapping of 4 KiB",
    "too-large": "More than the aperture has",
    "coherent": "Coherent memory below 4 GiB (may sleep; interrupts on)",
    "bounce": "Bounces, one at a time, others holding random slots",
    "bounce-batch": "Bounces, many in a row, released in random order",
    "every-second-free": "Every second slot is free",
    "three-of-four-free": "Three of four slots are free",
    "random-lifetimes": "After many mappings of random sizes and lifetimes",
}


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
    entries = f"{key.entries} entries" if key.case.startswith("list") else size(key.bytes)
    fill = f", {key.fill} % full" if key.case.startswith("bounce") else ""
    return f"{key.call} {entries}{fill}"


def cells(key: Key, c: Measured | None, ours: Measured | None) -> list[str]:
    """A row of the table."""
    bare = key.call not in ("refused", "alloc", "free")
    made = [what(key)]
    for of in (Measured.whole, Measured.bare) if bare else (Measured.whole,):
        made += [f"{of(side):,}" if side else "-" for side in (c, ours)]
        made.append(ratio(of(ours), of(c)) if c and ours else "-")
    made += [] if bare else ["", "", ""]
    return made + [f"{side.max - side.copy:,}" if side else "-" for side in (c, ours)]


HEAD = ["call", "C", "ours", "ratio", "C, no copy", "ours", "ratio", "C, worst", "ours"]


def tables(c: Results, ours: Results) -> Iterator[tuple[str, list[list[str]]]]:
    """For each case its title and rows."""
    keys = sorted({*c, *ours}, key=lambda key: (list(TITLES).index(key.case), key.fill, key.bytes, key.entries, key.order))
    for case, title in TITLES.items():
        yield title, [cells(key, c.get(key), ours.get(key)) for key in keys if key.case == case]


def for_terminal(rows: list[list[str]]) -> Iterator[str]:
    """A table in columns."""
    widths = [max(len(row[column]) for row in [HEAD, *rows]) for column in range(len(HEAD))]
    for row in [HEAD, *rows]:
        yield row[0].ljust(widths[0]) + "".join(f"  {text:>{width}}" for text, width in zip(row[1:], widths[1:]))


def for_page(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """A table in Markdown."""
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def goal_cells(goal: Goal) -> list[str]:
    """A goal's row."""
    c = f"{goal.c:,}" if goal.c is not None else "refused"
    ours = f"{goal.ours:,}" if goal.ours is not None else "refused"
    value = "-" if goal.value is None else f"{goal.value:,}" if goal.absolute else f"{goal.value:.2f}"
    limit = f"{goal.limit:,}" if goal.absolute else f"{goal.limit:.2f}"
    return [goal.name, c, ours, value, limit, "yes" if goal.met else "no"]


GOAL_HEAD = ["goal", "C", "ours", "value", "at most", "met"]


def as_json(facts: dict[str, str], c: Results, ours: Results, judged: list[Goal]) -> dict[str, Any]:
    """The shape of bench.json."""
    return {
        "version": 1,
        "kernel": facts["kernel"],
        "aperture_kb": {"c": int(facts["c_pool_kb"]), "ours": int(facts["aperture_kb"])},
        "bookkeeping_bytes_per_mib": {"c": C_BYTES_PER_SLOT * SLOTS_PER_MIB, "ours": int(facts["bookkeeping"])},
        "rows": [
            {
                "case": key.case,
                "call": key.call,
                "bytes": key.bytes,
                "entries": key.entries,
                "fill": key.fill,
                "copy": next(side.copy for side in (c.get(key), ours.get(key)) if side),
                **{name: side.as_json() if (side := of.get(key)) else None for name, of in (("c", c), ("ours", ours))},
            }
            for key in dict.fromkeys([*ours, *c])
        ],
        "goals": [
            {"name": goal.name, "c": goal.c, "ours": goal.ours, "value": goal.value, "at_most": goal.limit, "met": goal.met}
            for goal in judged
        ],
    }


def facts_cells(results: dict[str, Any]) -> Iterator[list[str]]:
    """What is no count of instructions."""
    yield ["kernel", results["kernel"], results["kernel"]]
    for name, field in (("aperture, KiB", "aperture_kb"), ("bookkeeping, bytes for each MiB", "bookkeeping_bytes_per_mib")):
        yield [name, *(f"{results[field][side]:,}" for side in ("c", "ours"))]


def page(results: dict[str, Any], judged: list[Goal], c: Results, ours: Results) -> str:
    """Documentation/results.md with new figures: what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""
    parts = []
    for title, rows in tables(c, ours):
        parts += [f"### {title}", "", *for_page(HEAD, rows), ""]
    values = {
        "goals": "\n".join(for_page(GOAL_HEAD, map(goal_cells, judged))),
        "facts": "\n".join(for_page(["", "C", "ours"], facts_cells(results))),
        "tables": "\n".join(parts).rstrip(),
    }
    text = RESULTS.read_text()
    for name, value in values.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not mark or not end:
            raise Problem(f"{RESULTS} has no place for the {name}", f"It stands between <!-- {name} --> and <!-- /{name} -->.")
        text = f"{before}{mark}{value}\n{end}{after}"
    return text


def show(results: dict[str, Any], judged: list[Goal], c: Results, ours: Results) -> None:
    """The report for people."""
    for title, rows in tables(c, ours):
        print(title)
        print("\n".join("  " + line for line in for_terminal(rows)), end="\n\n")
    for name, c_fact, our_fact in facts_cells(results):
        print(f"{name}: {c_fact} (C), {our_fact} (ours)")
    print()
    rows = [GOAL_HEAD, *map(goal_cells, judged)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(GOAL_HEAD))]
    for row in rows:
        print(row[0].ljust(widths[0]) + "".join(f"  {text:>{width}}" for text, width in zip(row[1:], widths[1:])))


def main() -> int:
    """Reads, shows, writes."""
    made = argparse.ArgumentParser(prog="bench", add_help=False, allow_abbrev=False)
    made.add_argument("--twice", action="store_true")
    made.add_argument("--write", action="store_true")
    made.add_argument("folder", type=Path)
    options = made.parse_args()
    facts, c, ours = read(options.folder / "first")
    judged = list(goals(c, ours))
    results = as_json(facts, c, ours, judged)
    target = options.folder.with_suffix(".json")
    target.write_text(json.dumps(results, indent=2) + "\n")
    show(results, judged, c, ours)
    if options.write:
        RESULTS.write_text(page(results, judged, c, ours))
    print(f"\n{target}: {sum(goal.met for goal in judged)} of {len(judged)} goals are met")
    if not options.twice:
        return 0
    _, *again = read(options.folder / "second")
    differing = [line for one, other in zip((c, ours), again) for line in disagreements(one, other)]
    print("\n".join([f"{len(differing)} medians of two boots differ by more than 1 %", *differing]))
    return 1 if differing else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Problem as problem:
        report("bench", problem)
        sys.exit(1)
