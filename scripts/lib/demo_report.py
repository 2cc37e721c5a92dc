# SPDX-License-Identifier: GPL-2.0
"""Turns what the demo left into a table and out/demo.json, and holds it against its promises.

Documentation/numbers.md describes the JSON and the promises.
"""

from __future__ import annotations

import json
import sys
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


def broken_promises(demo: dict[str, Any], status: int) -> list[str]:
    """What is not as it should be."""
    wrong = []
    if status:
        wrong.append(f"the run itself ended with status {status}")
    if demo["checks_failed"]:
        wrong.append(f"{demo['checks_failed']} checks in dom0 failed")
    by_kind = {device["kind"]: device for device in demo["devices"]}
    for kind in (*BOUNCING, *DIRECT):
        device = by_kind.get(kind)
        if device is None:
            wrong.append(f"{kind}: moved nothing")
            continue
        if device["bytes_verified"] == 0:
            wrong.append(f"{kind}: no byte was verified")
        if device["mismatches"]:
            wrong.append(f"{kind}: {device['mismatches']} mismatches")
        if kind in BOUNCING and not device["reasons"].get("unreachable"):
            wrong.append(f"{kind}: nothing bounced because it was unreachable")
        if kind in DIRECT and not device["direct"]:
            wrong.append(f"{kind}: nothing was mapped directly")
        for group in ("failures", "misuse"):
            wrong += [f"{kind}: {count} {group}: {what}" for what, count in device[group].items() if count]
    if not any(device["largest_bounce"] > C_LIMIT for device in demo["devices"]):
        wrong.append("no single mapping above 256 KiB bounced")
    if demo["pages"]["taken"] != demo["pages"]["returned"]:
        wrong.append(f"{demo['pages']['taken']} pages taken, {demo['pages']['returned']} returned")
    if demo["dom0_pages"]["before"] != demo["dom0_pages"]["after"]:
        wrong.append("Xen counts another number of dom0's pages than before the driver was loaded")
    return wrong


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
        return 1
    wrong = broken_promises(demo, status)
    demo["passed"] = not wrong
    demo["wrong"] = wrong
    target.write_text(json.dumps(demo, indent=2) + "\n")
    print(table(demo))
    print(f"\n{target}: " + ("everything as promised" if not wrong else "NOT as promised:"))
    for line in wrong:
        print(f"  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
