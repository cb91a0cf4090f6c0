"""Writing that the next round overlaps: one thread, one task at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """Carries out one task at a time in a thread of its own.

    A task is handed over when the one before it is done, so what is on disk is never more than one round behind, and a
    full disk stops a run one round after it happened and not in the end.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="medfl-writer")
        self._last: Future[None] | None = None

    def submit(self, task: Callable[[], None]) -> None:
        """Have a task done, once the one before it is. Raises what that one raised."""
        self.wait()
        self._last = self._pool.submit(task)

    def wait(self) -> None:
        """Wait for the task under way. Raises what it raised, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self, error: BaseException | None = None) -> None:
        """Wait, and end the thread; an error that is on its way goes before one of a task."""
        try:
            self.wait()
        except BaseException:
            if error is None:
                raise
        finally:
            self._pool.shutdown()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close, where an error of the body goes before one of a task."""
        self.close(error)
