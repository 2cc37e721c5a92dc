# SPDX-License-Identifier: GPL-2.0
"""How the Python parts speak to the user, and fail: as scripts/lib.sh does for the shell's."""

from __future__ import annotations

import sys


class Problem(Exception):
    """Something the user can act on: what is wrong, then lines that say what to do next."""

    def __init__(self, what: str, *advice: str) -> None:
        super().__init__(what)
        self.advice = advice


def say(text: str) -> None:
    """Prints a line of progress."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def report(program: str, problem: Problem) -> None:
    """Prints a problem in the scripts' common form."""
    print(f"{program}: error: {problem}", file=sys.stderr)
    for line in problem.advice:
        print(f"    {line}", file=sys.stderr)
    sys.stderr.flush()
