"""A site's memory on its own disk, saved before each reply leaves.

A site's pending state is promoted when the server says that it has accepted that round's reply. A server that is killed
may come back one checkpoint earlier than what it last said, so the file holds the memory before the last promotion as
well, and goes back to it when a request says so. A process that a stopped run left behind may still be at work when the
next one begins: the file belongs to the process that opened it last, and no other writes it.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medfl.data.atomic_file import PRIVATE_FOLDER
from medfl.data.file_lock import lock_file
from medfl.messages import Request
from medfl.runs.tensor_files import read_tensors, write_tensors
from medfl.site.site import Site
from medfl.site.state import SiteMemory

BEFORE = "before."  # before the names of tensors of the memory before the last promotion


class StateLost(Exception):
    """The site's state does not go with what the server asks."""


class SiteStateFile:
    """Keeps one site's memory of one run.

    Args:
        folder: where this site keeps the memory of runs; one file a run.
        run: the run's identity.
        site: the site, whose memory is set from the file, or begun anew where there is none.
    """

    def __init__(self, folder: Path, run: str, site: Site) -> None:
        self.file = folder / f"{run}.safetensors"
        self.site = site
        self.memory = SiteMemory(site.name)  # as the file holds it
        self.before: SiteMemory | None = None  # the last promotion
        self.owner = uuid.uuid4().hex
        self.file.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        with self._alone() as owner:
            owner.truncate(0)
            owner.write(self.owner)
            owner.flush()
            self.exists = self._load()
        site.restore(self.memory)

    def settle(self, request: Request) -> None:
        """Make the site's memory the one that the server believes in; promoting is left to the site.

        Raises:
            StateLost: it cannot be had any more.
        """
        accepted = request.last_accepted_round
        if not self.exists and accepted >= 0:
            raise StateLost("the state that this site kept in earlier rounds is gone; start a new run")
        if accepted >= self.memory.round:
            return
        if self.before is None or self.before.round > accepted:
            raise StateLost("this site's state is of a later round than the server's; start a new run")
        self.site.restore(self.before)
        self.before = None

    def save(self) -> None:
        """Save what a request has changed."""
        memory = self.site.memory()
        if memory.round > self.memory.round:
            self.before = self.memory.without_pending()
        if memory is not self.memory:
            self._save(memory)

    def create(self) -> None:
        """Have a file even where the method keeps nothing, so that a lost file is told from a site that is new."""
        if not self.exists:
            self._save(self.site.memory())

    def _save(self, memory: SiteMemory) -> None:
        tensors, facts = memory.encode()
        if self.before is not None:
            earlier, facts["before"] = self.before.encode()
            tensors |= {f"{BEFORE}{name}": tensor for name, tensor in earlier.items()}
        # On the host, and none twice: what a promotion left alone is in both memories.
        tensors = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
        with self._alone() as owner:
            if owner.read() != self.owner:
                raise StateLost("another process of this site has taken over")
            text = json.dumps(facts)
            write_tensors(self.file, tensors, {"facts": text, "check": _check_sum(text, tensors)})
        self.memory, self.exists = memory, True

    @contextmanager
    def _alone(self) -> Iterator[TextIO]:
        """The file that names the owner, open at its start and locked."""
        with self.file.with_suffix(".owner").open("a+", encoding="ascii") as stream:
            lock_file(stream, wait=True)
            stream.seek(0)
            yield stream

    def _load(self) -> bool:
        """Read the file; whether there is one."""
        try:
            with safe_open(self.file, "pt") as opened:
                metadata = opened.metadata()
            facts, tensors = json.loads(metadata["facts"]), read_tensors(self.file)
            summed = {"facts": metadata["facts"], "check": _check_sum(metadata["facts"], tensors)}
            if metadata not in (summed, {"facts": metadata["facts"]}):  # 0.1 wrote no sum
                raise ValueError("check sum")
            self.memory = SiteMemory.decode(self.site.name, tensors, facts)
            if "before" in facts:
                earlier = {name.removeprefix(BEFORE): t for name, t in tensors.items() if name.startswith(BEFORE)}
                self.before = SiteMemory.decode(self.site.name, earlier, facts["before"])
        except FileNotFoundError:
            return False
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
            raise StateLost("the state that this site kept is damaged; restore it or start a new run") from None
        return True


def _check_sum(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """A sum that a damaged file does not have; it guards against accidents, not against intent."""
    total = zlib.crc32(facts.encode())
    for name in sorted(tensors):
        data = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data
        total = zlib.crc32(data, zlib.crc32(name.encode(), total))
    return f"{total:08x}"
