# SPDX-License-Identifier: GPL-2.0
"""Boots of scripts/dom0, one by one or several at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

RUNNER = Path(__file__).with_name("dom0.py")
VERBOSE = os.environ.get("V") == "1"
MEMORY = 4 << 30
"""What a machine that is booted may take, in bytes."""
PROCESSORS = 2
"""How many it has most often.  With fewer for each they wait for each other, and all takes longer."""

Case = TypeVar("Case")
Result = TypeVar("Result")

running: set[subprocess.Popen[bytes]] = set()


def boot(options: list[str]) -> tuple[int, str]:
    """Runs scripts/dom0 with `options`; gives the exit status and all that was said."""
    command = [sys.executable, "-B", str(RUNNER), *options]
    out = None if VERBOSE else subprocess.PIPE
    with subprocess.Popen(command, stdout=out, stderr=out and subprocess.STDOUT) as process:
        running.add(process)
        try:
            said = process.communicate()[0] or b""
        except BaseException:
            # Asked, not killed, so that it tidies up after itself.
            process.terminate()
            raise
        finally:
            running.discard(process)
    return process.returncode, said.decode(errors="replace")


def at_once() -> int:
    """How many machines to run at a time, by processors and memory; what is watched runs alone."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    processors = int(os.environ.get("JOBS", "1"))
    return 1 if VERBOSE else max(1, min(processors // PROCESSORS, memory // MEMORY))


def side_by_side(run: Callable[[Case], Result], cases: Iterable[Case]) -> Iterator[Result]:
    """Runs each case, several at a time; gives what came of each as it ends."""
    with ThreadPoolExecutor(at_once()) as pool:
        try:
            for future in as_completed([pool.submit(run, case) for case in cases]):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise
