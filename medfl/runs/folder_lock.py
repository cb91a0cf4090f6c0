"""Who is at work on a run folder: one process at a time, by name.

The file `.lock` in the folder is locked by the system while someone is at work, and says who: {"what", "user", "host",
"pid", "since"}. It is emptied afterwards. The system lets go of what a dead process held, so names that are left by a
process of this machine mean nothing; those of another machine may be of one that is alive where locks do not reach.
A copy of a process (`fork`) lets go of the locks at once: they are the first one's, and go with it.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
import weakref
from pathlib import Path
from typing import IO, Any

from medfl.data.atomic_file import open_itself
from medfl.data.file_lock import lock_file
from medfl.errors import MedflError

LOCK = ".lock"
POLL = 0.1  # seconds


class FolderLock:
    """The right to write into a run folder, from when it is made until `release`, or until the process ends."""

    def __init__(self, folder: Path, what: str, wait: float = 0.0) -> None:
        """Take the lock of a folder.

        Args:
            folder: a run folder.
            what: the command that is at work.
            wait: seconds in which someone else may finish.

        Raises:
            MedflError: someone is at work, by name; or somebody on another machine may be.
            OSError: the folder cannot be written.
        """
        path, until = folder / LOCK, time.monotonic() + wait
        self._file: IO[str] = open(path, "a+", encoding="utf-8", opener=open_itself)  # noqa: SIM115
        try:
            while lock_file(self._file) is False:  # without locks, two at work on one folder are the user's to avoid
                if time.monotonic() > until:
                    holder = _holder(self._file)
                    raise MedflError(
                        f"{_words(holder)} is at work on {folder}; wait for it or stop it, and give the command again"
                    )
                time.sleep(POLL)
            holder = _holder(self._file)
            if holder.get("host", socket.gethostname()) != socket.gethostname():
                raise MedflError(
                    f"{_words(holder)} was at work on {folder} and did not finish there, or is at work still; if it "
                    f"is not, delete {path} and give the command again"
                )
            self._note({"what": what, "user": _user(), "host": socket.gethostname(), "pid": os.getpid()})
        except BaseException:
            self._file.close()
            raise
        _held.add(self)

    def release(self) -> None:
        """Let others in."""
        if not self._file.closed:
            self._file.truncate(0)
            self._file.close()

    def _note(self, holder: dict[str, Any]) -> None:
        self._file.truncate(0)
        self._file.write(json.dumps(holder | {"since": time.strftime("%Y-%m-%d %H:%M:%S")}) + "\n")
        self._file.flush()


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _leave_to_the_first() -> None:
    """Close the locks' files in a copy of the process that holds them, which keeps them."""
    for lock in list(_held):
        lock._file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_first)


def _holder(file: IO[str]) -> dict[str, Any]:
    """Who the file names; nothing where that is being written, or no one."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _words(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    what, user, host, pid, since = (holder.get(key, "?") for key in ("what", "user", "host", "pid", "since"))
    return f"`medfl {what}` of {user} (process {pid} on {host}, since {since})"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name
        return str(os.getuid())
