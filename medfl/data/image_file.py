"""An image file as a patch: decoded, 8-bit RGB, upright; or why it gives none."""

from __future__ import annotations

import errno
import functools
import logging
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable, to_rgb

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
"""What a file may be by its content; nothing else is looked for, whatever its name."""
PIXELS_AT_ONCE = 16_000_000
TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PASSING = "EMFILE ENFILE ENOMEM EIO EACCES EPERM ENOENT EAGAIN EINTR EBUSY ESTALE ETIMEDOUT ENOTCONN ENODEV ELOOP"
PASSING = frozenset(getattr(errno, name) for name in _PASSING.split())
"""Errors of the system that say nothing of a file's content."""
PatchReader = Callable[[], U8]
"""Reads one patch u8[H, W, 3]; raises Unreadable where there is none."""
log = logging.getLogger(__name__)


class ReadFailure(Unreadable):
    """A patch that could not be read now, for a reason that need not lie in its file: no memory, no right, no disk."""


class PixelBudget:
    """Pixels that threads decode at one time. An image waits until there is room, one above the whole has it alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._change = threading.Condition()
        self._mine = threading.local()

    @contextmanager
    def patch(self) -> Iterator[None]:
        """Within this block a thread's images count; they are done with when it ends."""
        self._mine.pixels = 0
        try:
            yield
        finally:
            with self._change:
                self._used -= self._mine.pixels
                self._change.notify_all()
            del self._mine.pixels

    def take(self, pixels: int) -> None:
        """Wait for room for an image. A thread that has some does not wait, and none outside of `patch` does."""
        own = getattr(self._mine, "pixels", None)
        if own is None:
            return
        with self._change:
            self._change.wait_for(lambda: own or not self._used or self._used + pixels <= self.limit)
            self._used += pixels
        self._mine.pixels = own + pixels


BUDGET = PixelBudget(PIXELS_AT_ONCE)


def read_image(path: Path) -> U8:
    """The image u8[H, W, 3], RGB and upright.

    Grayscale, CMYK, RGBA (over white), palette and 16-bit images are converted and the EXIF orientation is honoured.

    Raises:
        ReadFailure: it cannot be read now. Unreadable: the file gives no patch. Both say why in a few words.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a named pipe would be waited for
            raise Unreadable("not a regular file")
        with path.open("rb") as file:
            begin = file.read(4)
            file.seek(0)
            try:
                with Image.open(file, formats=FORMATS) as image:
                    BUDGET.take(image.width * image.height)
                    if image.mode == "CMYK":
                        _warn_of_inks()
                    return np.asarray(to_rgb(image))
            except UnidentifiedImageError:
                if begin in TIFF_BEGINS:
                    raise Unreadable("a TIFF of a kind that is not read; save it as 8-bit RGB") from None
                raise Unreadable("not an image" if begin else "zero bytes") from None
    except Exception as error:  # a damaged file may raise anything
        raise failure(error) from None


def image_readers(paths: Iterable[Path]) -> list[PatchReader]:
    """A reader for each of some image files."""
    return [functools.partial(read_image, path) for path in paths]


def failure(error: BaseException) -> Unreadable:
    """Why there is no patch, from what reading it raised: for good, or (ReadFailure) for now."""
    cause = error
    while cause.__cause__ is not None:  # the cause is what the user needs
        cause = cause.__cause__
    if isinstance(cause, MemoryError):
        return ReadFailure("not enough memory")
    if isinstance(cause, OSError) and cause.errno in PASSING:
        return ReadFailure(cause.strerror or str(cause))
    return cause if isinstance(cause, Unreadable) else Unreadable(failure_reason(cause))


def failure_reason(error: BaseException) -> str:
    """Why a patch could not be read, in a few words, from what reading it raised."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels; cut patches of at most 100 megapixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"damaged: {(str(error).strip() or type(error).__name__).splitlines()[0]}"


@functools.cache
def _warn_of_inks() -> None:
    """Say once that inks become colours by rule of thumb."""
    log.warning(
        "some images are in CMYK: their inks are converted without a colour profile, so colours may differ from those "
        "of other images; save them as RGB"
    )
