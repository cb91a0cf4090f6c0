"""A site's state on its own disk: what `Site` holds between rounds, saved before each reply leaves.

`Site` promotes its pending state when the server says that it has accepted that round's reply. A server that is
killed may come back one checkpoint earlier than what it last said, so the keeper holds the state before the last
promotion as well, and goes back to it when a request says so. A process that a stopped run left behind may still be
at work when the next one begins: the file belongs to the keeper that opened it last, and no other writes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from medfl.messages import Request
from medfl.runs.folder import aligned, flush
from medfl.site.site import Site


class StateLost(Exception):
    """The site's state does not go with what the server asks."""


class SiteStateFile:
    """Keeps one site's state of one run.

    Args:
        folder: where this site keeps the state of runs; one file a run.
        run: the run's identity.
        site: the site, whose state is set from the file if there is one.
    """

    def __init__(self, folder: Path, run: str, site: Site) -> None:
        self.file = folder / f"{run}.safetensors"
        self.site = site
        self.round = -1  # the latest round whose state is committed
        self.before: tuple[int, dict[str, Tensor]] | None = None
        self.mine = uuid.uuid4().hex
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._alone() as owner:
            owner.truncate(0)
            owner.write(self.mine)
            owner.flush()
            self.known = self._load()

    def settle(self, request: Request) -> None:
        """Make the site's state the one that the server believes in; promoting is left to the site.

        Raises:
            StateLost: it cannot be had any more.
        """
        accepted = request.last_accepted_round
        if not self.known and accepted >= 0:
            raise StateLost("the state that this site kept in earlier rounds is gone; start a new run")
        if accepted >= self.round:
            return
        if self.before is None or self.before[0] > accepted:
            raise StateLost("this site's state is of a later round than the server's; start a new run")
        self.round, self.site.state = self.before
        self.before, self.site.pending = None, None

    def note(self, state: dict[str, Tensor], pending: tuple[int, dict[str, Tensor]] | None, trained: bool) -> None:
        """Save what a request changed, given the state and the pending state from before it. The first training is
        noted even where the method keeps nothing, so that a lost file is told from a site that is new."""
        site = self.site
        if site.state is not state and pending is not None:
            self.before, self.round = (self.round, state), pending[0]
        if site.state is not state or site.pending is not pending or (trained and not self.known):
            self._save()

    def _save(self) -> None:
        site, held = self.site, self.site.pending
        parts = {f"state.{name}": tensor for name, tensor in site.state.items()}
        facts = {"round": self.round, "pending": held and held[0], "before": self.before and self.before[0]}
        for kind, kept in (("pending", held), ("before", self.before)):
            parts |= {f"{kind}.{name}": tensor for name, tensor in (kept[1] if kept else {}).items()}
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in parts.items()}
        with self._alone() as owner:
            if owner.read() != self.mine:
                raise StateLost("another process of this site has taken over")
            staged = self.file.with_suffix(".tmp")
            save_file(tensors, staged, metadata={"facts": json.dumps(facts)})
            flush(staged)
            os.replace(staged, self.file)
        self.known = True

    @contextmanager
    def _alone(self) -> Iterator[TextIO]:
        """The file that names the owner, open at its start and locked."""
        with self.file.with_suffix(".owner").open("a+", encoding="ascii") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            yield stream

    def _load(self) -> bool:
        try:
            with safe_open(self.file, "pt") as opened:
                facts = json.loads(opened.metadata()["facts"])
            parts = aligned(load_file(self.file))
        except FileNotFoundError:
            return False
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            raise StateLost("the state that this site kept is damaged; restore it or start a new run") from None

        def of(kind: str) -> dict[str, Tensor]:
            return {name.removeprefix(kind): t for name, t in parts.items() if name.startswith(kind)}

        self.round, self.site.state = facts["round"], of("state.")
        self.site.pending = None if facts["pending"] is None else (facts["pending"], of("pending."))
        self.before = None if facts["before"] is None else (facts["before"], of("before."))
        return True
