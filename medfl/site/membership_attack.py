"""What a site does to measure how far the model gives its training patches away (`medfl.metrics.membership`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.patch_store import PatchStore
from medfl.metrics.membership import losses, membership
from medfl.seeds import seed_for


def attack_members(
    store: PatchStore, logits: Callable[[NDArray[np.int64]], Tensor], others: Tensor, cap: int, seed: int
) -> dict[str, Any]:
    """The figures of `membership` for at most `cap` training patches, drawn, against the site's test patches.

    Losses are those at temperature 1, which training made small. Only the figures leave the site.

    Args:
        store: the site's patches, with splits "train" and "test".
        logits: rows i64[n] -> logits f64[n, C] of the model that is attacked.
        others: its logits of the test patches, f64[n, C].
        cap: at least 1.
        seed: of the run.
    """
    rows, test = store.splits["train"], store.splits["test"]
    if len(rows) > cap:
        rows = np.sort(np.random.default_rng(seed_for(seed, "members", store.site)).choice(rows, cap, replace=False))
    known, unknown = (
        losses(scores.softmax(1).numpy(), store.labels[own]) for scores, own in ((logits(rows), rows), (others, test))
    )
    return membership(known, unknown, store.groups[rows], store.groups[test])
