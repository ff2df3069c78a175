"""Keep freed memory for the next step, instead of returning it to the system and getting it back page by page."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt(3)
_NEVER, _MORE_AT_ONCE = 2**31 - 1, 64 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory; return whether that was possible. For a process that trains until it ends.

    A training step on a CPU allocates and frees the same hundreds of megabytes again and again. By default glibc gets
    each large block from the system and returns it, and the system clears every page of it: the losses over BERT's
    vocabulary at 307 positions then took 341 ms, and 187 ms with memory that is kept (docs/decisions/0011).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    return all(
        mallopt(*setting) == 1 for setting in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _MORE_AT_ONCE))
    )
