"""Two classes of tiles, and what is dealt of them."""

import numpy as np

from medfl.data.partition import Partition

TWO = ("lung_aca", "lung_n")


def counts(allocation: Partition) -> dict[str, list[int]]:
    return {
        share.site: np.bincount(share.labels, minlength=len(share.catalog.classes)).tolist()
        for share in allocation.sites
    }
