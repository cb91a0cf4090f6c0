"""Writing that the next round overlaps: one thread, one task at a time, in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

Task = Callable[[], None]


class Background:
    """Carries out tasks one after another in a thread of its own.

    A task that raises ends the work: later tasks are dropped, and the error is raised by the next call here, so that
    a full disk stops a run a round after it happened and not in the end.
    """

    def __init__(self) -> None:
        self._tasks: queue.Queue[Task | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def submit(self, task: Task) -> None:
        """Have a task done. Returns at once unless two are waiting already. Raises what an earlier task raised."""
        self._check()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="medfl-writer", daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def close(self) -> None:
        """Wait until everything submitted is done. Raises what a task raised."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()
            self._thread = None
        self._check()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close; an error of the body goes before one of a task."""
        try:
            self.close()
        except BaseException:
            if error is None:
                raise

    def _check(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._error is None:
                try:
                    task()
                except BaseException as error:
                    self._error = error
