"""Standard output and standard error, made so that nothing written to them costs what is being computed.

What the encoding lacks is written as an escape; a reader that has gone, a full disk behind a redirection or no output
at all is the end of the output and of nothing else; and what libraries print cannot steer the terminal.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
from typing import TextIO, cast

from medfl.errors import MedflError
from medfl.plain_text import visible

PATIENCE = 0.5  # seconds of silence after which a command says that it is at work


class StatusLine:
    """Says that a command is still loading, should it print nothing else soon; on a terminal the line goes again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._erase = ""

    def start(self, text: str) -> None:
        """Print `text` on standard error after `PATIENCE` seconds, unless `end` comes first."""
        self._timer = threading.Timer(PATIENCE, self._show, [text])
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Something else is about to be printed, or nothing any more."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
                if self._erase:
                    _put(self._erase)
                    self._erase = ""

    def _show(self, text: str) -> None:
        with self._lock:
            if self._timer is not None:
                seen = sys.stderr.isatty()
                self._erase = "\r\x1b[K" if seen else ""
                _put(text if seen else f"{text}\n")


STATUS = StatusLine()


def _put(text: str) -> None:
    """Write to standard error as it is."""
    stream = sys.stderr.target if isinstance(sys.stderr, SafeStream) else sys.stderr
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stream.write(text)
        stream.flush()


class SafeStream(io.TextIOBase):
    """A text stream whose `write` and `flush` never raise.

    Attributes:
        target: the stream behind it.
        lost: whether it leads nowhere any more.
    """

    def __init__(self, target: TextIO | None, steers: bool = False) -> None:
        """`steers`: whether escape codes pass, for a writer that makes them itself."""
        self.lost = target is None
        self.target = target or cast(TextIO, io.StringIO())
        self.steers = steers
        with contextlib.suppress(AttributeError, OSError, ValueError):
            self.target.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream behind it."""
        return getattr(self.target, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What becomes of letters that the encoding lacks."""
        return "backslashreplace"

    @property
    def buffer(self) -> io.BufferedIOBase:
        """Where bytes go; writing to it may raise."""
        return cast(io.BufferedIOBase, getattr(self.target, "buffer", None) or io.BytesIO())

    def fileno(self) -> int:
        """The descriptor of the stream behind it."""
        return self.target.fileno()

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        with contextlib.suppress(OSError, ValueError):
            return not self.lost and self.target.isatty()
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Write what can be written."""
        STATUS.end()
        if not self.lost:
            shown = text if self.steers else "\r".join(visible(part, lines=True) for part in text.split("\r"))
            try:
                self.target.write(shown)
            except UnicodeEncodeError:  # a stream that could not be told what to do with such letters
                self._write_ascii(shown)
            except (OSError, ValueError):
                self.lose()
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        if not self.lost:
            try:
                self.target.flush()
            except (OSError, ValueError):
                self.lose()

    def _write_ascii(self, text: str) -> None:
        try:
            self.target.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        except (OSError, ValueError):
            self.lose()

    def lose(self) -> None:
        """Let the descriptor lead nowhere, so that Python's own last flush does not raise either."""
        self.lost = True
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.target.fileno())
            os.close(nowhere)


class _Warnings(logging.Handler):
    """What is logged and nobody else takes, a line each, on whatever standard error is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


def guard_standard_streams() -> None:
    """Make standard output, standard error and the log safe for the rest of this process."""
    _open_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, SafeStream):
            setattr(sys, name, SafeStream(stream))
    logging.lastResort = _Warnings(logging.WARNING)


def complain(text: str) -> None:
    """One line on standard error."""
    print(visible(text), file=sys.stderr)


def _open_descriptors() -> None:
    """Where a standard descriptor is closed, the next file opened would get its number, and what C libraries print with
    it: let it lead nowhere instead."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one


def steering(stream: TextIO | None) -> SafeStream:
    """The same stream for a writer that makes escape codes itself and neutralises those of others."""
    if isinstance(stream, SafeStream):
        stream = None if stream.lost else stream.target
    return SafeStream(stream, steers=True)


def write_data(text: str) -> None:
    """Write data to standard output, in UTF-8 unless a terminal shows them: what a file holds depends on no setting.

    Raises:
        MedflError: there is no standard output, or it cannot hold the data. A reader that goes away has seen enough.
    """
    stream = sys.stdout if isinstance(sys.stdout, SafeStream) else SafeStream(sys.stdout)
    if stream.lost:
        raise MedflError("there is no standard output to write to; name a file with --out")
    if stream.isatty():
        stream.write(text)
        return
    STATUS.end()
    try:
        stream.flush()
        stream.buffer.write(text.encode("utf-8", "backslashreplace"))
        stream.buffer.flush()
    except OSError as error:
        stream.lose()
        if not isinstance(error, BrokenPipeError):
            raise MedflError(f"standard output cannot be written: {error.strerror}; name a file with --out") from None
