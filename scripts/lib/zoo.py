# SPDX-License-Identifier: GPL-2.0
"""Runs the zoo: scripts/zoo's part inside the tool root.

Documentation/numbers.md describes out/zoo.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import lifetime
import zoo_table
from bench_report import Table
from problem import Problem, report, say
from scenarios import SHOWN_LINES, SKIPPED, boot
from zoo_table import Cell

OUT = Path("/src/out/zoo")
RESULT = Path("/src/out/zoo.json")
COUNTED = ("direct", "bounced", "bounced_bytes", "largest_bounce", "coherent", "reasons", "failures", "misuse")
HEAD = ["cell", "aperture", "bytes verified", "wrong", "direct", "bounced", "why"]


def rounds(folder: Path, cell: Cell) -> list[dict[str, Any]]:
    """What a boot left: a record for each aperture that it came through."""
    found = []
    if not (folder / "rounds").is_file():
        return []
    for line in (folder / "rounds").read_text().splitlines():
        aperture, verified, mismatches = line.split()
        entry: dict[str, Any] = {
            "aperture": aperture,
            "bytes_verified": int(verified),
            "mismatches": int(mismatches),
        }
        stats = folder / f"{aperture}.json"
        if stats.is_file():
            devices = json.loads(stats.read_text())["devices"]
            numbers = next((device for device in devices if device["name"] == cell.address), {})
            entry |= {name: numbers.get(name) for name in COUNTED}
        found.append(entry)
    return found


def wrong(folder: Path, entries: list[dict[str, Any]], status: int) -> list[str]:
    """What was not as it should be."""
    place = folder / "wrong"
    found = place.read_text().splitlines() if place.is_file() else []
    found += [f"{entry['aperture']}: {entry['mismatches']} bytes differ" for entry in entries if entry["mismatches"]]
    found += [f"{entry['aperture']}: misuse" for entry in entries if any((entry.get("misuse") or {}).values())]
    if status and not found:
        found.append(f"the boot ended with status {status}")
    return found


def run(cell: Cell, backend: str, common: list[str]) -> dict[str, Any]:
    """Boots a cell; gives its record."""
    folder = OUT / f"{cell.name}-{backend}"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    status, said = boot([*common, *cell.options, "--out", str(folder), "--command", cell.command(backend)])
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


def show(cell: Cell, number: int, record: dict[str, Any]) -> None:
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


def table(records: list[dict[str, Any]]) -> Table:
    """The report for people: a row an aperture."""
    rows = []
    for record in records:
        for entry in record["rounds"]:
            why = ", ".join(f"{name} {count}" for name, count in (entry.get("reasons") or {}).items() if count)
            counts = [entry[name] for name in ("bytes_verified", "mismatches")]
            counts += [entry.get(name) or 0 for name in ("direct", "bounced")]
            rows.append([record["name"], entry["aperture"], *(f"{count:,}" for count in counts), why or "-"])
        c = record["c"]
        if c and c["wrong"]:
            rows.append([record["name"], "C's backend", *[""] * 4, "; ".join(c["wrong"])])
    return Table("The zoo", HEAD, rows)


def choose(names: list[str]) -> list[Cell]:
    """The cells that were named, by device or by cell, or all."""
    cells = zoo_table.read()
    known = {cell.device for cell in cells} | {cell.name for cell in cells}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Problem(f"no device or cell '{unknown[0]}'", "scripts/zoo --list says what there is.")
    return [cell for cell in cells if not names or cell.device in names or cell.name in names]


def main() -> int:
    """Runs them; 0 if none failed."""
    made = argparse.ArgumentParser(prog="zoo", allow_abbrev=False, add_help=False)
    made.add_argument("--host-folders", nargs=3, default=["/src", "/cache", "/src"])
    made.add_argument("--kernel")
    made.add_argument("--list", action="store_true")
    made.add_argument("--compare", action="store_true")
    made.add_argument("names", nargs="*")
    options = made.parse_args()
    cells = choose(options.names)
    if options.list:
        for cell in cells:
            print(f"{cell.name}: {cell.shows}")
        return 0

    common = ["--host-folders", *options.host_folders, "--kernel", options.kernel]
    records = []
    for number, cell in enumerate(cells, 1):
        say(f"{number}/{len(cells)} {cell.name}: {cell.shows}")
        record = {"name": cell.name, "device": cell.device, "layout": cell.layout, **run(cell, "ours", common)}
        record["c"] = run(cell, "c", common) if options.compare or record["verdict"] == "failed" else None
        show(cell, number, record)
        records.append(record)
    counts = {verdict: sum(record["verdict"] == verdict for record in records) for verdict in ("passed", "failed", "skipped")}
    zoo = {"version": 1, "kernel": options.kernel, "cells": records, **counts}
    RESULT.write_text(json.dumps(zoo, indent=2) + "\n")
    print(f"\n{table(records).for_terminal()}")
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
