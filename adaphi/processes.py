"""What processes that work for another one have in common."""

from __future__ import annotations

import ctypes
import signal
import sys


def work_for_parent() -> None:
    """Leave Ctrl-C in a terminal to the parent, and have the kernel kill this process when that dies.

    The latter on Linux alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
