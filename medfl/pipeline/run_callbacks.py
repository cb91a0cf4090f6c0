"""Who looks on at the rounds of a run: the privacy ledger, the checkpoints, and whoever is told about progress.

Their order matters: the timer closes the round's account, the ledger completes its record, and then the record is
written and shown.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from medfl.federation.callbacks import Callback, PhaseTimer
from medfl.federation.server_state import ServerState
from medfl.metrics.record_types import RoundRecord
from medfl.runs.background_writer import Background
from medfl.runs.folder import RunFolder
from medfl.runs.patient_ledger import PatientLedger
from medfl.runs.privacy_ledger import Ledger
from medfl.runs.progress import ProgressCallbacks
from medfl.site.site import Site


@dataclass
class PrivacyAccount(Callback):
    """Notes each round's release in the ledger, and what is spent in the round's record; lets the next round close the
    run where another release would pass its budget."""

    ledger: Ledger | PatientLedger
    rounds: int

    def before_run(self, state: ServerState) -> None:
        """A resumed run has spent more than its rounds tell where one of them is to be repeated."""
        self._close(state)

    def after_round(self, record: RoundRecord, state: ServerState) -> None:
        """See Callback."""
        record.update(self.ledger.spend(record))
        self._close(state)

    def _close(self, state: ServerState) -> None:
        if state.closing is None and state.round < self.rounds and self.ledger.exhausted():
            state.closing = state.round


@dataclass
class CheckpointWriter(Callback):
    """Writes every whole round into the run folder while the next one is played.

    Attributes:
        sites: those of this process, whose memory is part of the checkpoint.
        timer: what the round and the run so far took; closed before this one is called.
    """

    folder: RunFolder
    sites: Collection[Site]
    timer: PhaseTimer
    watcher: ProgressCallbacks
    _writer: Background = field(default_factory=Background, init=False)

    def after_round(self, record: RoundRecord, state: ServerState) -> None:
        """Hand the round over as a value that later rounds leave alone."""
        phases, seconds = dict(self.timer.round_seconds), dict(self.timer.seconds)
        memories, snapshot = [site.memory() for site in self.sites], state.snapshot()

        def write() -> None:
            self.folder.save_round(record, phases, snapshot, memories, seconds)
            self.watcher.saved()

        self._writer.submit(write)

    def after_run(self, state: ServerState, error: BaseException | None) -> None:
        """Wait until the last round is on disk."""
        self._writer.close(error)


@dataclass
class RoundTeller(Callback):
    """Tells about every round; `rounds` is how many there are to be."""

    watcher: ProgressCallbacks
    rounds: int

    def after_round(self, record: RoundRecord, state: ServerState) -> None:
        """See Callback."""
        self.watcher.round(record, self.rounds if state.closing is None else state.closing)
