#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Judge KUnit runs by their console logs.

Usage: ktap.py [--write] [--json FILE] SUITES ENVIRONMENT=LOG...

Reads the KTAP output in each LOG and compares it with what the file SUITES says must run
in that ENVIRONMENT (`bare` or `dom0`).  A kernel that complains (BUG, WARNING, lockdep,
DMA-API, UBSAN, KFENCE, kmemleak, KCSAN, panic) has failed, whatever its tests say.  Prints a line
a suite, and last `N passed, N failed, N skipped`.

--json   writes the numbers to FILE; Documentation/numbers.md describes it
--write  puts what the suites tried into Documentation/results.md
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench_report import Table, write_page

ENVIRONMENTS = ("bare", "dom0")

PREFIX = re.compile(r"^(<\d+>)?\[ *\d+\.\d+\](\[ *[TC]\d+\])? ")
ESCAPE = re.compile(r"\x1b[\[(][0-9;?]*[A-Za-z]")
SUBTEST = re.compile(r"^    # Subtest: (\S+)$")
PLAN = re.compile(r"^( *)1\.\.(\d+)$")
RESULT = re.compile(r"^( *)(ok|not ok) \d+(?: -)? (\S+)(.*)$")

# A suite says what it tried: `tally: NAME=NUMBER`.
TALLY = re.compile(r"\btally: (\S+)=(\d+)$")
# What a reader is told of the numbers, in this order.
TRIED = {
    "steps-failed": "steps of load, attach, growth, narrow masks, coherent memory, made to fail one by one",
    "allocations-failed": "allocations at load, attach and for coherent memory, made to fail one by one",
    "extents-kept": "of these, extents that could not go back for it, and stayed as ordinary memory",
    "wrong-calls-each": "wrong calls, every kind on every state of a mapping",
    "wrong-calls-random": "wrong calls at random",
    "buffers-refused": "buffers that are no memory, tried at every size and place",
    "partial-writes": "mappings through poisoned slots whose device wrote less than all",
    "crowd-mappings": "mappings by six threads at once, each compared",
    "bus-sequences": "orders of what the bus may tell, each with its mappings",
}

COMPLAINT = re.compile(
    r"\bBUG: |\bBUG at |\bWARNING: |\bINFO: (possible|inconsistent|suspicious|trying to|task )"
    r"|possible (circular|recursive) locking|inconsistent lock state|suspicious RCU usage"
    r"|\bDMA-API: |\bUBSAN: |\bBUG KFENCE|\bOops: |general protection fault|Kernel panic"
    r"|unreferenced object|kernel stack overflow|list_(add|del) corruption|refcount_t: "
    r"|rust_kernel: panicked|possible deadlock|rcu: INFO: "
)
XEN_COMPLAINT = re.compile(r"\(XEN\).*(Panic on CPU|FATAL|Xen BUG|Assertion)")
HARMLESS = re.compile(r"DMA-API: (preallocated \d+ debug entries|debugging (en|dis)abled by)")
# What tests/kunit/init says when it has looked for leaks.
END = "kmemleak: scanned"
# Fault injection announces what it does.
ANNOUNCED = re.compile(r"FAULT_INJECTION: ")


@dataclass
class Suite:
    """One suite's results as the console shows them."""

    name: str
    passed: int = 0
    skipped: int = 0
    failed: list = field(default_factory=list)
    planned: int = -1
    verdict: str = ""

    def ran(self):
        """How many cases reported anything."""
        return self.passed + self.skipped + len(self.failed)


@dataclass
class Run:
    """What one boot of the kernel says."""

    suites: dict = field(default_factory=dict)
    planned: int = -1
    ended: bool = False
    complaints: list = field(default_factory=list)
    tallies: dict = field(default_factory=dict)


def clean(raw):
    """A console line without what the console and printk add."""
    return PREFIX.sub("", ESCAPE.sub("", raw).replace("\r", "").rstrip("\n"))


def parse(lines):
    """The suites, and the complaints, of one console log."""
    run = Run()
    suite = None
    for raw in lines:
        line = clean(raw)
        if "(XEN)" in line:
            if XEN_COMPLAINT.search(line):
                run.complaints.append(line)
            continue
        if COMPLAINT.search(line) and not HARMLESS.search(line) and not ANNOUNCED.search(line):
            run.complaints.append(line.strip())
            continue
        run.ended = run.ended or line.strip() == END
        if tally := TALLY.search(line):
            run.tallies[tally[1]] = run.tallies.get(tally[1], 0) + int(tally[2])
            continue
        if found := SUBTEST.match(line):
            # What ran again counts as it ended last, and with the failures of before.
            before = run.suites.get(found[1])
            suite = run.suites[found[1]] = Suite(found[1], failed=before.failed if before else [])
        elif found := PLAN.match(line):
            if not found[1]:
                run.planned = max(run.planned, int(found[2]))
            elif suite and len(found[1]) == 4 and suite.planned < 0:
                suite.planned = int(found[2])
        elif found := RESULT.match(line):
            indent, verdict, name, rest = len(found[1]), found[2], found[3], found[4]
            if indent == 0:
                run.suites.setdefault(name, Suite(name)).verdict = verdict
                suite = None
            elif indent == 4 and suite:
                if verdict == "not ok":
                    suite.failed.append(name)
                elif "# SKIP" in rest:
                    suite.skipped += 1
                else:
                    suite.passed += 1
    return run


def read_suites(path):
    """The suites that must run: name -> environments."""
    wanted = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            words = line.split("#")[0].split()
            if not words:
                continue
            if len(words) != 2 or words[1] not in (*ENVIRONMENTS, "both"):
                sys.exit(f"ktap.py: error: {path}:{number}: not `name bare|dom0|both`")
            wanted[words[0]] = ENVIRONMENTS if words[1] == "both" else (words[1],)
    return wanted


def fault(suite, must_run):
    """Why a suite counts as failed although none of its cases did; None if it does not."""
    if suite is None:
        return "did not run"
    if not suite.verdict:
        return "did not finish"
    if suite.planned >= 0 and suite.planned != suite.ran():
        return f"{suite.planned} tests planned, {suite.ran()} reported"
    if suite.verdict == "not ok" and not suite.failed:
        return "the suite itself failed"
    if must_run and not suite.passed and not suite.failed:
        return "everything was skipped"
    return None


def judge(environment, run, wanted):
    """Prints a line a suite; returns (passed, failed, skipped)."""
    passed = failed = skipped = 0
    names = [name for name, where in wanted.items() if environment in where]
    for name in names + [name for name in run.suites if name not in names]:
        suite = run.suites.get(name)
        why = fault(suite, name in names)
        if why is None and name not in wanted:
            why = "not listed in tests/kunit/suites"
        if suite:
            # Elsewhere a test that finds no Xen may end well without a look at anything.
            passed += suite.passed if name in names else 0
            skipped += suite.skipped + (0 if name in names else suite.passed)
            failed += len(suite.failed)
        failed += why is not None
        bad = why or (suite and suite.failed)
        if suite and not why and not suite.failed and name not in names:
            print(f"skip {environment} {name}: not for this run")
            continue
        counts = f"{suite.passed} passed, {len(suite.failed)} failed, {suite.skipped} skipped" if suite else ""
        print(f"{'not ok' if bad else 'ok'} {environment} {name}: {'; '.join(filter(None, [counts, why]))}")
        for case in suite.failed if suite else ():
            print(f"    failed: {name}.{case}")
    if run.planned < 0:
        print(f"not ok {environment}: no KTAP output at all; did the kernel boot?")
        failed += 1
    elif run.planned != len(run.suites):
        print(f"not ok {environment}: {run.planned} suites planned, {len(run.suites)} reported")
        failed += 1
    if not run.ended:
        print(f"not ok {environment}: the kernel did not get as far as the search for leaks")
        failed += 1
    for name in TRIED if environment == "dom0" else ():
        if name not in run.tallies:
            print(f"not ok {environment}: no suite says '{name}'")
            failed += 1
    for line in run.complaints:
        print(f"not ok {environment}: the kernel complained: {line}")
    return passed, failed + len(run.complaints), skipped


def numbers(runs, total):
    """All of it, for programs."""
    counts = dict(zip(("passed", "failed", "skipped"), total))
    tried = {name: {"complaints": run.complaints, "tried": run.tallies} for name, run in runs.items()}
    return {"version": 1, **counts, "runs": tried}


def table(run):
    """What was tried as dom0, for people."""
    rows = [[title, f"{run.tallies[name]:,}"] for name, title in TRIED.items() if name in run.tallies]
    return Table("What was tried", ["what", "number"], [*rows, ["complaints of the kernel", str(len(run.complaints))]])


def main():
    """Command line entry."""
    made = argparse.ArgumentParser(prog="ktap.py", allow_abbrev=False, usage=__doc__)
    made.add_argument("--write", action="store_true")
    made.add_argument("--json", type=Path)
    made.add_argument("suites")
    made.add_argument("logs", nargs="+")
    options = made.parse_args()
    wanted = read_suites(options.suites)
    total, runs = [0, 0, 0], {}
    for argument in options.logs:
        environment, _, path = argument.partition("=")
        with open(path, encoding="utf-8", errors="replace") as log:
            runs[environment] = parse(log)
        counts = judge(environment, runs[environment], wanted)
        total = [sum(pair) for pair in zip(total, counts)]
    if options.json:
        options.json.write_text(json.dumps(numbers(runs, total), indent=2) + "\n")
    if options.write and "dom0" in runs:
        write_page({"tried": table(runs["dom0"]).for_page()})
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main())
