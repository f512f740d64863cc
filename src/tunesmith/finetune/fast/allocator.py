"""Keep freed memory in the process.

glibc gives memory back to the system when much of it is freed, as at the end of every backward pass, and gets it
anew, page by page, in the next step. With a high threshold it stays. Only glibc has this; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_TRIM_BYTES = 2**31 - 1
_MMAP_BYTES = 32 * 1024 * 1024
"""The greatest that glibc takes: larger blocks always come from the system, so buffers are kept below it."""


def keep_freed_memory() -> bool:
    """Set it for this process; whether it could be set."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        and mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        and mallopt(_M_TOP_PAD, 64 * 1024 * 1024)
    )
