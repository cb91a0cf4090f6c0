"""What FLARE's streams leave behind is freed by its bytes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from medfl.engines.nvflare.flare_app import StreamGarbage


class Stream:
    """Refers to itself, as FLARE's do, so that only a look for cycles frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def no_other_look() -> Iterator[None]:
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def test_cycles_are_freed_once_enough_bytes_were_carried() -> None:
    garbage = StreamGarbage()
    stream = weakref.ref(Stream())
    garbage.add(StreamGarbage.EVERY - 1)
    assert stream() is not None
    garbage.add(1)
    assert stream() is None


def test_bytes_are_counted_anew_after_a_look() -> None:
    garbage = StreamGarbage()
    garbage.add(StreamGarbage.EVERY)
    stream = weakref.ref(Stream())
    garbage.add(StreamGarbage.EVERY - 1)
    assert stream() is not None
