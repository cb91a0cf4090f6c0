"""Messages that are longer than one call should carry.

A message of at most `PIECE` bytes travels whole. A longer one lies in a temporary file (`TMPDIR`) at the end that sends
it and at the end that receives it, and travels as calls of one piece each, so that neither end, nor what carries the
calls, holds more than a piece of it as bytes. Such a call is a frame: `MAGIC`, a line of JSON that says what it asks,
and the piece.

    {"put": begin, "of": size}    a piece of a message; its answer is empty, or a failure
    {"handle": size}              answer the message whose pieces were put
    {"take": begin}               a piece of that answer, which comes as a frame {"taken": begin}, or a failure

An answer that begins with `MAGIC`, {"of": size}, stands for one that is taken in pieces. Pieces come in order: one that
is lost, comes twice, or makes the message longer than it was said to be, ends it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO

from safetensors import SafetensorError

from medfl.errors import MedflError

PIECE = 8 * 2**20  # bytes
MAGIC = b"medflpcs"  # eight bytes, which as a length no message has
LINE_LIMIT = 200  # bytes of a frame's line


class BadPiece(ValueError):
    """A piece that does not continue its message."""


class SpooledMessage:
    """A message in a temporary file without a name: it goes with this object, and with the process.

    Args:
        size: bytes of the whole message.
        whole: the file, where the message is there; otherwise it comes in pieces.

    Attributes:
        size: as given.
        received: bytes of it that are there.
    """

    def __init__(self, size: int, whole: IO[bytes] | None = None) -> None:
        with _on_disk():
            self._file: IO[bytes] = whole or tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as this
        self.size, self.received = size, size if whole else 0

    @staticmethod
    def of_file(write: Callable[[Path], None]) -> SpooledMessage:
        """A whole message, which `write` puts at a path. Raises MedflError where there is no room."""
        with _on_disk(), tempfile.TemporaryDirectory(prefix="medfl-message-") as folder:
            path = Path(folder) / "message"
            write(path)
            return SpooledMessage(path.stat().st_size, path.open("rb", buffering=0))

    @property
    def path(self) -> Path:
        """Where this process can open it, and only as long as this object lives."""
        return Path(f"/proc/self/fd/{self._file.fileno()}")

    def __len__(self) -> int:
        return self.size

    def add(self, begin: int, piece: bytes) -> None:
        """The next piece. Raises BadPiece where it is another one, MedflError where there is no room."""
        if begin != self.received or not 0 < len(piece) <= min(PIECE, self.size - begin):
            raise BadPiece("a piece of a message that does not continue it")
        with _on_disk():
            while piece:  # a file without a buffer may take a part
                piece = piece[self._file.write(piece) :]
        self.received = self._file.tell()

    def read(self, begin: int, count: int | None = None) -> bytes:
        """So many bytes, or a piece; or as many as are left."""
        return os.pread(self._file.fileno(), PIECE if count is None else count, begin)


@contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise MedflError(
            f"a long message finds no room in {tempfile.gettempdir()} ({why}); make room, or set TMPDIR elsewhere"
        ) from None


Message = bytes | SpooledMessage


def framed(piece: bytes = b"", **asked: int) -> bytes:
    """A frame as bytes."""
    return MAGIC + json.dumps(asked).encode() + b"\n" + piece


@dataclass(frozen=True)
class Frame:
    """A call that carries or asks for a piece.

    Attributes:
        asked: its line.
        piece: the bytes behind it.
    """

    asked: dict[str, int]
    piece: bytes

    @staticmethod
    def of(data: bytes) -> Frame | None:
        """None where the bytes are no frame but a message. Raises BadPiece."""
        if data[: len(MAGIC)] != MAGIC:
            return None
        line, ending, piece = data[len(MAGIC) :].partition(b"\n")
        try:
            asked = json.loads(line) if ending and len(line) <= LINE_LIMIT else None
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict) or not all(type(value) is int and value >= 0 for value in asked.values()):
            raise BadPiece("a piece of a message without a line that says which")
        return Frame(asked, piece)


def exchange(ask: Callable[[bytes], bytes], message: Message, limit: int) -> Message:
    """Send a message and bring its answer, either of them in pieces where it is long.

    Args:
        ask: carries bytes to the other end and its answer back.
        limit: bytes that an answer can have.

    Raises:
        BadPiece: an answer that is longer, or whose pieces do not make it up.
        MedflError: there is no room on the disk.
    """
    if isinstance(message, SpooledMessage):
        for begin in range(0, len(message), PIECE):
            if refused := ask(framed(message.read(begin), put=begin, of=len(message))):
                return refused
        answer = ask(framed(handle=len(message)))
    else:
        answer = ask(message)
    if (frame := Frame.of(answer)) is None:
        return answer
    if not 0 < (size := frame.asked.get("of", 0)) <= limit:
        raise BadPiece(f"an answer of {size:,} bytes, more than the model allows")
    whole = SpooledMessage(size)
    while whole.received < size:
        answer = ask(framed(take=whole.received))
        if (frame := Frame.of(answer)) is None:
            return answer
        whole.add(frame.asked.get("taken", size), frame.piece)
    return whole


class PieceDesk:
    """The other end: what has been put there, and the answer that waits to be taken."""

    def __init__(self) -> None:
        self._put: SpooledMessage | None = None
        self._waiting: SpooledMessage | None = None
        self._lock = Lock()

    def answered(self, data: bytes, limit: int, answer: Callable[[Message], Message]) -> bytes:
        """What a call is answered: a message, by `answer`; a piece, by what was put here or waits here.

        Args:
            limit: bytes that a message can have.

        Raises:
            BadPiece: a piece that fits nothing that is here. MedflError: there is no room on the disk.
        """
        frame = Frame.of(data)
        message = data if frame is None else self._opened(frame, limit)
        if frame is not None and isinstance(message, bytes):
            return message
        return self._offered(answer(message))

    def _opened(self, frame: Frame, limit: int) -> bytes | SpooledMessage:
        """The bytes that a frame is answered at once; or the message that it asks to be handled."""
        with self._lock:
            asked = frame.asked
            if asked.keys() == {"put", "of"}:
                return self._take_in(asked["put"], asked["of"], frame.piece, limit)
            if asked.keys() == {"handle"}:
                put, self._put = self._put, None
                if put is None or not asked["handle"] == put.size == put.received:
                    raise BadPiece("a message whose pieces are not all there")
                return put
            if asked.keys() == {"take"}:
                return self._hand_out(asked["take"])
            raise BadPiece("a piece of a message that asks for nothing known")

    def _offered(self, answer: Message) -> bytes:
        """The answer itself, or where it is long a frame in its place; it waits to be taken until the next one."""
        with self._lock:
            self._waiting = answer if isinstance(answer, SpooledMessage) else None
            return framed(of=len(answer)) if isinstance(answer, SpooledMessage) else answer

    def _take_in(self, begin: int, size: int, piece: bytes, limit: int) -> bytes:
        if begin == 0:
            if size > limit:
                raise BadPiece(f"a message of {size:,} bytes, more than the model allows")
            self._put = SpooledMessage(size)
        if self._put is None or self._put.size != size:
            raise BadPiece("a piece of a message that does not continue it")
        self._put.add(begin, piece)
        return b""

    def _hand_out(self, begin: int) -> bytes:
        if self._waiting is None or not begin < self._waiting.size:
            raise BadPiece("a piece of an answer that is not there")
        piece = self._waiting.read(begin)
        if begin + len(piece) == self._waiting.size:
            self._waiting = None
        return framed(piece, taken=begin)
