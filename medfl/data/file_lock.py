"""The system's advisory lock of an open file, which goes with the process that holds it, however that ends."""

from __future__ import annotations

from typing import IO


def lock_file(file: int | IO[str], wait: bool = False) -> bool | None:
    """Lock an open file (or its descriptor) for as long as it is open.

    Args:
        file: open on a system that may have locks or not.
        wait: until another lets go of it.

    Returns:
        Whether it is locked now; None where this system has no such locks.

    Raises:
        OSError: the file system has none.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
