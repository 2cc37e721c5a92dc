# SPDX-License-Identifier: GPL-2.0
"""Turns what the demo left into a table and out/demo.json, and holds it against its promises.

Documentation/numbers.md describes the JSON and the promises.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

C_LIMIT = 256 * 1024
"""The largest mapping that the C backend can bounce."""

BOUNCING = ("ide", "net-sender", "net-receiver", "edu")
DIRECT = ("nvme", "ahci")


def read(folder: Path) -> dict[str, Any]:
    """Everything the run left, in the shape of demo.json."""
    stats = json.loads((folder / "stats.json").read_text())
    counted = {device["name"]: device for device in stats["devices"]}
    devices = []
    for line in (folder / "verified").read_text().splitlines():
        name, kind, verified, mismatches = line.split()
        device = counted.get(name, {})
        devices.append(
            {
                "kind": kind,
                "name": name,
                "bytes_verified": int(verified),
                "mismatches": int(mismatches),
                "direct": device.get("direct", 0),
                "bounced": device.get("bounced", 0),
                "bounced_bytes": device.get("bounced_bytes", 0),
                "largest_bounce": device.get("largest_bounce", 0),
                "reasons": device.get("reasons", {}),
                "failures": device.get("failures", {}),
                "misuse": device.get("misuse", {}),
            }
        )
    facts = dict(line.split(maxsplit=1) for line in (folder / "facts").read_text().splitlines())
    return {
        "version": 1,
        "devices": devices,
        "aperture": stats["aperture"],
        "pages": {"taken": int(facts["pages_taken"]), "returned": int(facts["pages_returned"])},
        "dom0_pages": {"before": int(facts["dom0_pages_before"]), "after": int(facts["dom0_pages_after"])},
        "checks_failed": int(facts["checks_failed"]),
    }


def promises(demo: dict[str, Any], status: int) -> Iterator[tuple[str, bool]]:
    """What must be so, and whether it is."""
    yield f"the run ended well (status {status})", status == 0
    yield f"all checks in dom0 held ({demo['checks_failed']} failed)", demo["checks_failed"] == 0
    by_kind = {device["kind"]: device for device in demo["devices"]}
    for kind in (*BOUNCING, *DIRECT):
        device = by_kind.get(kind)
        yield f"{kind}: it was there", device is not None
        if device is None:
            continue
        yield f"{kind}: bytes were verified", device["bytes_verified"] > 0
        yield f"{kind}: {device['mismatches']} mismatches", device["mismatches"] == 0
        if kind in BOUNCING:
            yield f"{kind}: it bounced because it was unreachable", device["reasons"].get("unreachable", 0) > 0
        else:
            yield f"{kind}: it was mapped directly", device["direct"] > 0
        for group in ("failures", "misuse"):
            seen = {what: count for what, count in device[group].items() if count}
            yield f"{kind}: no {group} {seen or ''}".rstrip(), not seen
    yield "a single mapping above 256 KiB bounced", any(d["largest_bounce"] > C_LIMIT for d in demo["devices"])
    pages, dom0 = demo["pages"], demo["dom0_pages"]
    yield f"pages returned = pages taken ({pages['returned']} = {pages['taken']})", pages["returned"] == pages["taken"] > 0
    yield f"Xen counts dom0's pages as before ({dom0['after']} = {dom0['before']})", dom0["after"] == dom0["before"]


def table(demo: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{'device':<14}{'kind':<14}{'bytes verified':>15}{'wrong':>7}{'direct':>9}{'bounced':>9}{'largest':>10}  why"]
    for device in demo["devices"]:
        reasons = ", ".join(f"{why} {count}" for why, count in device["reasons"].items() if count)
        lines.append(
            f"{device['name']:<14}{device['kind']:<14}{device['bytes_verified']:>15}{device['mismatches']:>7}"
            f"{device['direct']:>9}{device['bounced']:>9}{device['largest_bounce']:>10}  {reasons or '-'}"
        )
    aperture, pages = demo["aperture"], demo["pages"]
    extents = " + ".join(f"{size >> 10} KiB" for size in aperture["extents"])
    lines.append("")
    lines.append(f"aperture: {extents}; at most {aperture['peak'] >> 10} KiB in use")
    lines.append(f"pages traded for extents: {pages['taken']}, given back: {pages['returned']}")
    return "\n".join(lines)


def main() -> int:
    """Arguments: the folder, the JSON to write, the run's exit status."""
    folder, target, status = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    try:
        demo = read(folder)
    except (OSError, KeyError, ValueError) as error:
        print(f"demo: the run left no complete results ({error}); status {status}", file=sys.stderr)
        print("0 passed, 1 failed, 0 skipped")
        return 1
    results = list(promises(demo, status))
    wrong = [promise for promise, kept in results if not kept]
    demo["passed"] = not wrong
    demo["wrong"] = wrong
    target.write_text(json.dumps(demo, indent=2) + "\n")
    print(table(demo))
    print(f"\n{target}:")
    for promise in wrong:
        print(f"not ok: {promise}")
    print(f"{len(results) - len(wrong)} passed, {len(wrong)} failed, 0 skipped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
