# SPDX-License-Identifier: GPL-2.0
"""Runs the zoo: scripts/zoo's part inside the tool root.

Documentation/numbers.md describes out/zoo.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boots
import kernel as kernels
import lifetime
import zoo_report
import zoo_table
from problem import Problem, report, say
from scenarios import SHOWN_LINES, SKIPPED
from zoo_report import Record
from zoo_table import Cell

OUT = Path("/src/out/zoo")
RESULT = Path("/src/out/zoo.json")
COUNTED = ("direct", "bounced", "bounced_bytes", "largest_bounce", "coherent", "reasons", "failures", "misuse")


def numbers(folder: Path, aperture: str, address: str) -> dict[str, Any]:
    """The driver's numbers of a device with an aperture: added up, if it went and came back meanwhile."""
    total: dict[str, Any] = {}
    for name in (f"{aperture}-before", aperture):
        place = folder / f"{name}.json"
        devices = json.loads(place.read_text())["devices"] if place.is_file() else []
        for device in devices:
            if device["name"] == address:
                total = {what: sum_of(what, total.get(what), device[what]) for what in COUNTED}
    return total


def sum_of(what: str, one: Any, other: Any) -> Any:
    """Of two numbers, or of two tables of them; the largest is no sum."""
    if one is None:
        return other
    if isinstance(other, dict):
        return {name: one[name] + count for name, count in other.items()}
    return max(one, other) if what == "largest_bounce" else one + other


def rounds(folder: Path, cell: Cell) -> list[dict[str, Any]]:
    """What a boot left: a record for each aperture that it came through."""
    place = folder / "rounds"
    found = []
    for line in place.read_text().splitlines() if place.is_file() else []:
        aperture, verified, mismatches = line.split()
        counts = {"bytes_verified": int(verified), "mismatches": int(mismatches), "survived": survived(folder, aperture)}
        found.append({"aperture": aperture, **counts, **numbers(folder, aperture, cell.address)})
    return found


def survived(folder: Path, aperture: str) -> dict[str, int]:
    """What happened to the device with an aperture, and it worked on."""
    place = folder / "survived"
    lines = [line.split() for line in place.read_text().splitlines()] if place.is_file() else []
    return dict(Counter(what for name, what in lines if name == aperture))


def complaints(entry: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a round."""
    if entry["mismatches"]:
        yield f"{entry['mismatches']} bytes differ"
    if entry.get("bounced", 0) != sum(entry.get("reasons", {}).values()):
        yield f"{entry['bounced']} bounces, but their reasons add up to another number: {entry['reasons']}"
    # An aperture that is small from the first has no room now and then, and the drivers ask again.
    small = entry["aperture"] != "normal"
    for group in ("failures", "misuse"):
        for name, count in entry.get(group, {}).items():
            if count and not (small and name == "full"):
                yield f"{name} {count} times"


def wrong(folder: Path, entries: list[dict[str, Any]], status: int) -> list[str]:
    """What was not as it should be."""
    place = folder / "wrong"
    found = place.read_text().splitlines() if place.is_file() else []
    found += [f"{entry['aperture']}: {text}" for entry in entries for text in complaints(entry)]
    if status and not found:
        found.append(f"the boot ended with status {status}")
    return found


def run(cell: Cell, backend: str, common: list[str]) -> Record:
    """Boots a cell; gives its record."""
    folder = OUT / f"{cell.name}-{backend}"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    status, said = boots.boot([*common, *cell.options, "--out", str(folder), "--command", cell.command(backend)])
    entries = rounds(folder, cell) if status != SKIPPED else []
    found = wrong(folder, entries, status) if status != SKIPPED else []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log").write_text(said)
    return {
        "verdict": "skipped" if status == SKIPPED else "failed" if found else "passed",
        "seconds": round(time.monotonic() - began),
        "rounds": entries,
        "wrong": found,
    }


def show(cell: Cell, number: int, record: Record) -> None:
    """A cell's line, and what is wrong with it."""
    verdict = record["verdict"]
    skip = " # SKIP" if verdict == "skipped" else ""
    print(f"{'not ok' if verdict == 'failed' else 'ok'} {number} - {cell.name}{skip} ({record['seconds']} s)")
    c = record["c"]
    if verdict == "failed":
        said = (OUT / f"{cell.name}-ours/log").read_text().splitlines()
        print("".join(f"    {line}\n" for line in said[-SHOWN_LINES:]), end="")
        print("".join(f"    wrong: {text}\n" for text in record["wrong"]), end="")
    if c and c["wrong"]:
        print("".join(f"    C's backend: {text}\n" for text in c["wrong"]), end="")
    sys.stdout.flush()


def counted(records: list[Record]) -> dict[str, int]:
    """Cells by verdict."""
    verdicts = [record["verdict"] for record in records]
    return {verdict: verdicts.count(verdict) for verdict in ("passed", "failed", "skipped")}


def before(build: dict[str, str]) -> dict[str, Record]:
    """What earlier runs found, by cell: of the same build, and of cells that are the same still."""
    zoo = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if any(zoo.get(name) != value for name, value in build.items()):
        return {}
    digests = {cell.name: cell.digest for cell in zoo_table.read()}
    return {record["name"]: record for record in zoo["cells"] if digests.get(record["name"]) == record["digest"]}


def keep(build: dict[str, str], found: dict[str, Record]) -> list[Record]:
    """Writes out/zoo.json; gives what is in it, in the table's order."""
    records = [found[cell.name] for cell in zoo_table.read() if cell.name in found]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"version": 1, **build, "cells": records, **counted(records)}, indent=2) + "\n")
    return records


def choose(names: list[str]) -> list[Cell]:
    """The cells that were named, by device or by cell, or all."""
    cells = zoo_table.read()
    known = {cell.device for cell in cells} | {cell.name for cell in cells}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Problem(f"no device or cell '{unknown[0]}'", "scripts/zoo --list says what there is.")
    return [cell for cell in cells if not names or cell.device in names or cell.name in names]


def options_of() -> argparse.Namespace:
    """The options; their manual is the head of scripts/zoo."""
    made = argparse.ArgumentParser(prog="zoo", allow_abbrev=False, add_help=False)
    made.add_argument("--host-folders", nargs=3, default=["/src", "/cache", "/src"])
    made.add_argument("--kernel")
    for name in ("--list", "--compare", "--report", "--write"):
        made.add_argument(name, action="store_true")
    made.add_argument("names", nargs="*")
    return made.parse_args()


def main() -> int:
    """Runs them; 0 if none failed."""
    options = options_of()
    cells = choose(options.names)
    if options.list:
        for cell in cells:
            print(f"{cell.name}: {cell.shows}")
        return 0

    common = ["--host-folders", *options.host_folders, "--kernel", options.kernel]
    driver = kernels.prepared(options.kernel).driver.read_bytes()
    build = {"kernel": options.kernel, "driver": hashlib.sha256(driver).hexdigest()}
    found = before(build)

    def attempt(each: tuple[int, Cell]) -> tuple[int, Cell, Record]:
        number, cell = each
        say(f"{number}/{len(cells)} {cell.name}: {cell.shows}")
        names = {"name": cell.name, "device": cell.device, "layout": cell.layout, "digest": cell.digest}
        record = {**names, **run(cell, "ours", common)}
        record["c"] = run(cell, "c", common) if options.compare or record["verdict"] == "failed" else None
        return number, cell, record

    for number, cell, record in boots.side_by_side(attempt, enumerate([] if options.report else cells, 1)):
        show(cell, number, record)
        # An interrupted run leaves what it has found.
        found[cell.name] = record
        keep(build, found)
    records = [found[cell.name] for cell in cells if cell.name in found]
    print(f"\n{zoo_report.rounds(records).for_terminal()}")
    if options.write:
        zoo_report.write(zoo_table.read(), keep(build, found), options.kernel)
    counts = counted(records)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    lifetime.end_in_order()
    try:
        sys.exit(main())
    except Problem as problem:
        report("zoo", problem)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
