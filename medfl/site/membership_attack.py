"""What a site does to measure how far the model gives its training patches away (`medfl.metrics.membership`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.patch_store import PatchStore
from medfl.messages import MeasureRequest, Request
from medfl.metrics.membership import losses, membership
from medfl.seeds import seed_for


def draw_members(store: PatchStore, cap: int, seed: int) -> NDArray[np.int64]:
    """Rows i64[n] of at most `cap` training patches, drawn by the run's seed and the site's name."""
    rows = store.splits["train"]
    if len(rows) <= cap:
        return rows
    return np.sort(np.random.default_rng(seed_for(seed, "members", store.site)).choice(rows, cap, replace=False))


def attack_members(store: PatchStore, members: NDArray[np.int64], own: Tensor, others: Tensor) -> dict[str, Any]:
    """The figures of `membership` for training patches against the site's test patches.

    Losses are those at temperature 1, which training made small. Only the figures leave the site.

    Args:
        store: the site's patches, with splits "train" and "test".
        members: rows i64[n] of training patches.
        own: logits f64[n, C] of these, of the model that is attacked.
        others: its logits of the test patches, f64[m, C].
    """
    test = store.splits["test"]
    training_losses, test_losses = (
        losses(logits.softmax(1).numpy(), store.labels[rows]) for logits, rows in ((own, members), (others, test))
    )
    return membership(training_losses, test_losses, store.groups[members], store.groups[test])


def members_asked_for(request: Request, store: PatchStore, role: str, seed: int) -> NDArray[np.int64] | None:
    """The training patches that are told from test patches, where the final measurement asks a site for that."""
    if not isinstance(request, MeasureRequest) or "test" not in request.splits or role != "train":
        return None
    return draw_members(store, request.members, seed) if request.members else None
