# SPDX-License-Identifier: GPL-2.0
"""Runs scenarios: scripts/scenarios' part inside the tool root.

A scenario is one file, tests/dom0/scenarios/NAME.  Its head is comments: first one that
says what it shows, then lines that say what it needs:

    # dom0: OPTIONS       options of scripts/dom0; lines add up
    # driver: required    it tests the driver itself; without, it is skipped
    # expect: STATUS      the exit status of a good run, if not 0 (114: dom0 must crash)

The rest is a script for dom0.  It ends with status 0, 77 (skipped), or any other (failed).

Besides, the cells of the zoo that its table calls samples are scenarios: zoo-CELL.

If several run at a time, they may end in another order than they began.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import boots
import lifetime
import zoo_table
from problem import Problem, report, say

FOLDER = Path("/src/tests/dom0/scenarios")
SKIPPED = 77
SHOWN_LINES = 40


@dataclass(frozen=True)
class Scenario:
    """What the head of a scenario's file says."""

    name: str
    shows: str
    options: list[str]
    """Of scripts/dom0: what to boot, and what to run there."""
    needs_driver: bool
    expected: int


def read(path: Path) -> Scenario:
    """Reads a scenario's head."""
    shows: list[str] = []
    told = False
    fields: dict[str, list[str]] = {"dom0": [], "driver": [], "expect": []}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        key, colon, value = line.removeprefix("#").strip().partition(":")
        if colon and key in fields:
            fields[key].append(value.strip())
            told = True
        elif not told and not line.startswith("#!") and "SPDX" not in line and "shellcheck" not in line:
            shows.append(line.removeprefix("#").strip())
    return Scenario(
        name=path.name,
        shows=" ".join(shows).strip(),
        options=[*shlex.split(" ".join(fields["dom0"])), "--run", str(path)],
        needs_driver="required" in fields["driver"],
        expected=int(fields["expect"][-1]) if fields["expect"] else 0,
    )


def of_zoo(cell: zoo_table.Cell, backend: str) -> Scenario:
    """A cell of the zoo, as a scenario."""
    return Scenario(
        name=f"zoo-{cell.name}",
        shows=f"From the zoo: {cell.shows}.",
        options=[*cell.options, "--command", cell.command(backend)],
        needs_driver=False,
        expected=0,
    )


def choose(names: list[str], backend: str) -> list[Scenario]:
    """The scenarios that were named, or all."""
    all_of_them = [read(path) for path in sorted(FOLDER.iterdir()) if path.is_file()]
    all_of_them += [of_zoo(cell, backend) for cell in zoo_table.read() if cell.sample]
    known = {scenario.name: scenario for scenario in all_of_them}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Problem(f"no scenario '{unknown[0]}'", f"There are: {' '.join(known)}")
    return [known[name] for name in names or known]


@dataclass(frozen=True)
class Ended:
    """A scenario that came to its end."""

    number: int
    scenario: Scenario
    verdict: str
    seconds: float
    status: int
    said: str

    def show(self) -> None:
        """Its line; if it failed, the last that it said, too."""
        text = f"{self.verdict.replace('skipped', 'ok')} {self.number} - {self.scenario.name}"
        text += " # SKIP" if self.verdict == "skipped" else ""
        print(f"{text} ({self.seconds:.0f} s)")
        if self.verdict == "not ok":
            print(f"    status {self.status}, expected {self.scenario.expected}")
            print("".join(f"    {line}\n" for line in self.said.splitlines()[-SHOWN_LINES:]), end="")
        sys.stdout.flush()


def run(number: int, scenario: Scenario, common: list[str], driver: bool) -> Ended:
    """Boots a scenario, if it can run."""
    began = time.monotonic()
    status, said = SKIPPED, ""
    if driver or not scenario.needs_driver:
        # Where both say something, the command line counts.
        status, said = boots.boot([*scenario.options, *common])
    verdict = "ok" if status == scenario.expected else "skipped" if status == SKIPPED else "not ok"
    return Ended(number, scenario, verdict, time.monotonic() - began, status, said)


def main() -> int:
    """Runs them all; 0 if none failed."""
    made = argparse.ArgumentParser(prog="scenarios", allow_abbrev=False, add_help=False)
    made.add_argument("--host-folders", nargs=3, default=["/src", "/cache", "/src"])
    made.add_argument("--default-kernel")
    made.add_argument("--list", action="store_true")
    made.add_argument("--no-driver", action="store_true")
    made.add_argument("names", nargs="*")
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = made.parse_args(arguments[:split])
    scenarios = choose(options.names, "c" if options.no_driver else "ours")
    if options.list:
        for scenario in scenarios:
            print(f"{scenario.name}: {scenario.shows}")
        return 0

    common = ["--host-folders", *options.host_folders, *arguments[split + 1 :]]
    common += ["--kernel", options.default_kernel] if options.default_kernel else []
    common += ["--no-driver"] if options.no_driver else []
    counts = {"ok": 0, "not ok": 0, "skipped": 0}

    def begin(each: tuple[int, Scenario]) -> Ended:
        number, scenario = each
        say(f"{number}/{len(scenarios)} {scenario.name}: {scenario.shows}")
        return run(number, scenario, common, not options.no_driver)

    for ended in boots.side_by_side(begin, enumerate(scenarios, 1)):
        counts[ended.verdict] += 1
        ended.show()
    print(f"{counts['ok']} passed, {counts['not ok']} failed, {counts['skipped']} skipped")
    return 1 if counts["not ok"] else 0


if __name__ == "__main__":
    lifetime.end_in_order()
    try:
        sys.exit(main())
    except Problem as problem:
        report("scenarios", problem)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
