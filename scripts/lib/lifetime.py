# SPDX-License-Identifier: GPL-2.0
"""Nothing outlives the one who started it: neither the runner nor the emulator."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Has the kernel end this process when its parent ends, however that comes about."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_in_order() -> None:
    """The same; and when told to end, this process cleans up as it would on an error."""

    def leave(_signal: int, _frame: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)
    end_with_parent()
