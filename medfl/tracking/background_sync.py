"""The mirror of a running federation: a background thread that MLflow, and only MLflow, may keep waiting."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from medfl import config
from medfl.tracking.sync import SyncResult, sync

LONGEST_PAUSE = 60.0
logger = logging.getLogger(__name__)


class Mirror:
    """Uploads a run folder while it grows.

    MLflow is imported in the thread, on the first `notify`: never before the first training step. A server that
    does not answer is asked again after 1, 2, 4 ... 60 s, and costs the run one warning.

    Attributes:
        seconds: time spent uploading so far.
    """

    def __init__(self, folder: Path, tracking: config.Tracking) -> None:
        self.seconds = 0.0
        self._folder = folder
        self._tracking = tracking
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._result: SyncResult | None = None
        self._problem = ""
        self._report = ""
        self._thread: threading.Thread | None = None

    def notify(self) -> None:
        """Say that the run folder has a further round. Returns at once."""
        if not self._tracking.enabled:
            return
        self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="medfl-mirror", daemon=True)
            self._thread.start()

    def close(self, timeout: float = 120.0, report: str = "") -> SyncResult:
        """Upload what is left, and the report's page, waiting `timeout` seconds at most, and end the thread. Never
        raises."""
        if not self._tracking.enabled:
            return SyncResult("off")
        self._report = report
        self._closing.set()
        self.notify()
        assert self._thread is not None
        self._thread.join(timeout)
        if self._result is not None and not self._thread.is_alive():
            return self._result
        reason = self._problem or f"MLflow took longer than {timeout:.0f} s"
        return SyncResult("pending", reason=reason, hint=f"medfl track {self._folder}")

    def _work(self) -> None:
        pause = 1.0
        while True:
            self._wake.wait()
            self._wake.clear()
            last = self._closing.is_set()
            self._result = self._attempt(last)
            if last:
                return
            if self._result is None:
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                self._wake.set()
            else:
                pause = 1.0

    def _attempt(self, last: bool) -> SyncResult | None:
        started = time.perf_counter()
        try:
            return sync(self._folder, self._tracking, finished=last, report=self._report if last else "")
        except Exception as error:  # whatever goes wrong here, the run itself is sound and goes on
            if not self._problem:
                logger.warning("%s", error)
            self._problem = str(error)
            return None
        finally:
            self.seconds += time.perf_counter() - started
