# SPDX-License-Identifier: GPL-2.0
"""What the zoo found, for people: a table of rounds for the terminal, one of devices for results.md.

Documentation/numbers.md describes the records, which are the cells of out/zoo.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench_report import Table, write_page
from zoo_table import Cell

ROUNDS = ["cell", "aperture", "bytes verified", "wrong", "direct", "bounced", "coherent", "no room", "why it bounced"]
DEVICES = ["device", "memory, apertures", "bytes verified", "wrong", "direct", "bounced", "survived", "failed", "C"]

Record = dict[str, Any]


def named(counts: dict[str, int]) -> str:
    """What there is any of, the most first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in ordered if count)


def total(tables: Iterator[dict[str, int]]) -> dict[str, int]:
    """Counts by name, added up."""
    found: dict[str, int] = {}
    for table in tables:
        for name, count in table.items():
            found[name] = found.get(name, 0) + count
    return found


def rounds(records: list[Record]) -> Table:
    """A row an aperture."""
    rows = []
    for record in records:
        for entry in record["rounds"]:
            counts = [entry.get(name, 0) for name in ("bytes_verified", "mismatches", "direct", "bounced", "coherent")]
            counts.append(entry.get("failures", {}).get("full", 0))
            why = named(entry.get("reasons", {}))
            rows.append([record["name"], entry["aperture"], *(f"{count:,}" for count in counts), why or "-"])
        c = record["c"]
        if c and c["wrong"]:
            rows.append([record["name"], "C's backend", *[""] * (len(ROUNDS) - 3), "; ".join(c["wrong"])])
    return Table("The zoo", ROUNDS, rows)


def of_c(records: list[Record]) -> str:
    """The kernel's own backend in these cells, as far as it was asked."""
    asked = [record for record in records if record["c"]]
    wrong = [f"{record['layout']}: {text}" for record in asked for text in record["c"]["wrong"]]
    return "; ".join(wrong) or (f"passes {len(asked)}" if asked else "-")


def row(shows: str, records: list[Record]) -> list[str]:
    """A device's."""
    entries = [entry for record in records for entry in record["rounds"]]
    tried = (f"{record['layout']}: {', '.join(entry['aperture'] for entry in record['rounds'])}" for record in records)
    reasons = named(total(entry.get("reasons", {}) for entry in entries))
    bounced = sum(entry.get("bounced", 0) for entry in entries)
    wrong = [f"{record['layout']}, {text}" for record in records for text in record["wrong"]]
    return [
        shows,
        "; ".join(tried),
        *(f"{sum(entry.get(name, 0) for entry in entries):,}" for name in ("bytes_verified", "mismatches", "direct")),
        f"{bounced:,} ({reasons})" if bounced else "0",
        named(total(entry["survived"] for entry in entries)) or "-",
        "; ".join(wrong) or "-",
        of_c(records),
    ]


def devices(cells: list[Cell], records: list[Record]) -> Table:
    """A row a device."""
    shows = {cell.device: cell.device_shows for cell in cells}
    kept = {name: [record for record in records if record["device"] == name] for name in shows}
    return Table("By device", DEVICES, [row(shows[name], found) for name, found in kept.items() if found])


def covered(cells: list[Cell], records: list[Record], kernel: str) -> str:
    """Which cells the table speaks of, and of which not."""
    verdicts = [record["verdict"] for record in records]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in ("passed", "failed", "skipped")]
    tried = {record["name"] for record in records}
    missing: dict[str, list[str]] = {}
    for cell in cells:
        if cell.name not in tried:
            missing.setdefault(cell.layout, []).append(cell.device)
    left = [f"{layout}: {', '.join(names)}" for layout, names in missing.items()]
    text = f"Linux {kernel}; of {len(cells)} cells {len(tried)} were tried: {', '.join(counts)}."
    return text + (f" Not tried: {'; '.join(left)}." if left else "")


def write(cells: list[Cell], records: list[Record], kernel: str) -> None:
    """The table in results.md."""
    write_page({"zoo": f"{covered(cells, records, kernel)}\n\n{devices(cells, records).for_page()}"})
