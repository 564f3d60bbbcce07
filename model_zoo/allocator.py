"""glibc's allocator, told to keep freed memory instead of mapping fresh pages on every forward.

With its defaults a convolution's buffers are mapped and unmapped on each call, and every page faults
anew. Raised thresholds end that; memory is then returned on purpose, by `pool.return_free_memory`.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # from malloc.h
_MIB = 1 << 20
# glibc before 2.35 refuses an mmap threshold above half a heap: 32 MiB, or 512 KiB where a word has 32 bits.
_MMAP_THRESHOLDS = (1024 * _MIB, 32 * _MIB, _MIB // 2)


def tune_allocator() -> bool:
    """Raise this process' malloc thresholds; return whether that was possible (Linux with glibc)."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    raised = any(mallopt(_M_MMAP_THRESHOLD, threshold) for threshold in _MMAP_THRESHOLDS)
    kept = mallopt(_M_TRIM_THRESHOLD, 1024 * _MIB) and mallopt(_M_TOP_PAD, 16 * _MIB)
    return bool(raised and kept)
