# SPDX-License-Identifier: GPL-2.0
"""Adds up what the boots of a soak counted: scripts/soak's part inside the tool root.

Documentation/numbers.md describes out/soak.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_report import Table, write_page
from problem import Problem, report

RESULT = Path("/src/out/soak.json")
BOOTS = ("processors-1", "processors-2", "processors-4")
MEASURED = "instructions"
ADDED = ("operations", "bytes_verified", "mismatches", "outstanding", "leaked_bytes", "misuse", "checks_failed")
ROWS = {
    "processors": "processors",
    "operations": "maps and unmaps",
    "bytes_verified": "bytes verified",
    "mismatches": "bytes wrong",
    "outstanding": "left mapped",
    "leaked_bytes": "bytes lost",
    "direct": "direct mappings",
    "bounced": "bounced mappings",
    "no_room": "refused, no room",
    "grown": "extents added",
    "shrunk": "extents given back",
    "binds": "devices attached",
    "cycles": "loads and unloads",
    "seconds": "seconds in dom0",
}

Boot = dict[str, Any]


def wrong(boot: Boot) -> Iterator[str]:
    """What a boot found that must not be."""
    for name in ("mismatches", "outstanding", "leaked_bytes", "misuse", "checks_failed"):
        if boot[name]:
            yield f"{boot['name']}: {name} {boot[name]}"


def table(boots: list[Boot]) -> Table:
    """A column a boot."""
    rows = [[title, *(f"{boot[name]:,}" for boot in boots)] for name, title in ROWS.items()]
    return Table("Soak", ["", *[""] * len(boots)], rows)


def main() -> int:
    """Reads, adds, judges, shows, writes."""
    made = argparse.ArgumentParser(prog="soak", add_help=False, allow_abbrev=False)
    made.add_argument("--write", action="store_true", help="write results.md, too")
    made.add_argument("--kernel")
    made.add_argument("folder", type=Path)
    options = made.parse_args()
    found = {name: json.loads((options.folder / name / "soak.json").read_text()) for name in (*BOOTS, MEASURED)}
    boots = [{"name": name, **found[name]} for name in BOOTS]
    measured = {"name": MEASURED, **found[MEASURED]}
    worst = {name: measured[name] for name in ("operations", "worst_map", "worst_unmap")}
    complaints = [text for boot in [*boots, measured] for text in wrong(boot)]
    soak = {
        "version": 1,
        "kernel": options.kernel,
        **{name: sum(boot[name] for boot in boots) for name in ADDED},
        "instructions": worst,
        "passed": not complaints,
        "wrong": complaints,
        "boots": boots,
    }
    RESULT.write_text(json.dumps(soak, indent=2) + "\n")
    shown = table(boots)
    print(shown.for_terminal())
    print(
        f"{soak['operations']:,} operations, {soak['bytes_verified']:,} bytes verified, {soak['mismatches']} wrong,"
        f" {soak['leaked_bytes']} lost"
    )
    print(f"at most {worst['worst_map']:,} instructions for a map, {worst['worst_unmap']:,} for an unmap, of up to 4 KiB")
    if complaints:
        raise Problem("the soak found something", *complaints)
    if options.write:
        write_page({"soak": shown.for_page(), "soak-instructions": instructions(worst)})
    return 0


def instructions(worst: dict[str, int]) -> str:
    """The sentence on the worst call."""
    return (
        f"In {worst['operations']:,} operations of one processor, each measured, the longest map of up to 4 KiB took"
        f" {worst['worst_map']:,} instructions, the longest unmap {worst['worst_unmap']:,}, the copy included."
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, KeyError, ValueError) as error:
        report("soak", Problem(f"a boot left no complete numbers ({error})", "V=1 shows its console."))
        sys.exit(1)
    except Problem as problem:
        report("soak", problem)
        sys.exit(1)
