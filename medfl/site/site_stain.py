"""The stain of one site: what it tells of it, and its patches as the stain of all wants them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.normalise import F64, NoStain, StainStatistics
from medfl.data.patch_store import PatchStore
from medfl.data.stain_exchange import NUMBERS, DyeExchange, DyeSpread, dye_spread, patch_dyes
from medfl.data.stained_store import in_stain, own_rows, store_statistics
from medfl.messages import Request, StainRequest, TrainRequest
from medfl.site.shared_model import LocalTrainingConfig

CHUNK = 256  # patches looked at at a time
log = logging.getLogger(__name__)


class SiteStain:
    """Looks at a site's patches as they were rendered: those that train, or all where none does, without their labels.

    Args:
        store: its patches as they were rendered.
        training: says what the site may be asked.

    Attributes:
        store: its patches in the stain of the last message.
        exchange: the dyes of other sites for the patches that train; None where there are none.
    """

    def __init__(self, store: PatchStore, training: LocalTrainingConfig) -> None:
        self.rendered, self.store, self.training = store, store, training
        self.exchange: DyeExchange | None = None
        self.rows = own_rows(store)
        self._reference: tuple[float, ...] = ()
        self._others: tuple[float, ...] = ()
        self._own: dict[str, StainStatistics | None] = {}

    def take(self, request: Request) -> bool:
        """Take the stain of a message, and with one to train the dyes of others; whether there is anything new in it.

        Raises:
            ValueError: numbers that no stain has. MedflError: the cache cannot be written.
        """
        others = request.stain_others if isinstance(request, TrainRequest) else self._others
        if (request.stain_reference, others) == (self._reference, self._others):
            return False
        self.store, self.exchange = self._normalised(request.stain_reference), self._exchange(others)
        self._reference, self._others = request.stain_reference, others
        return True

    def answer(self, request: StainRequest) -> dict[str, Any]:
        """What is asked for and may be told: "statistics", "dyes", or None for one that cannot be had or stands on too
        few source groups.

        Raises:
            ValueError: the site's own pipeline does not have it told.
        """
        if request.method not in ("", self.training.stain_statistics):
            raise ValueError(f"the server asks for the stain by {request.method}, this site's pipeline has none told")
        if request.dyes and not self.training.augment.exchange:
            raise ValueError("the server asks for dyes, this site's pipeline has none told")
        enough = len(np.unique(self.rendered.groups[self.rows])) >= self.training.min_count
        answer: dict[str, Any] = {}
        if request.method:
            own = self.statistics(request.method) if enough else None
            answer["statistics"] = own and own.numbers
        if request.dyes:
            spread = self._spread() if enough else None
            answer["dyes"] = spread and spread.numbers
        return answer

    def statistics(self, method: str) -> StainStatistics | None:
        """The site's own; None where its patches have none, which a warning says."""
        if method not in self._own:
            self._own[method] = store_statistics(self.rendered, method)
        return self._own[method]

    def _normalised(self, reference: Sequence[float]) -> PatchStore:
        return in_stain(self.rendered, reference, self.statistics) if reference else self.rendered

    def _exchange(self, others: Sequence[float]) -> DyeExchange | None:
        if not others or not self.training.augment.exchange or "train" not in self.rendered.splits:
            return None
        spreads = [DyeSpread.of(others[begin : begin + NUMBERS]) for begin in range(0, len(others), NUMBERS)]
        return DyeExchange(self.rows, self._dyes[0], spreads)

    @cached_property
    def _dyes(self) -> tuple[F64, NDArray[np.bool_]]:
        parts = [
            patch_dyes(self.rendered.images[part]) for part in np.array_split(self.rows, -(-len(self.rows) // CHUNK))
        ]
        return np.concatenate([dyes for dyes, _ in parts]), np.concatenate([seen for _, seen in parts])

    def _spread(self) -> DyeSpread | None:
        dyes, seen = self._dyes
        try:
            return dye_spread(dyes[seen])
        except NoStain as reason:
            log.warning("site %s: it tells no dyes of its patches: %s", self.rendered.site, reason)
            return None
