"""Every random draw has a seed made from what it is for, so order never matters."""

from __future__ import annotations

import hashlib


def seed_for(*parts: object) -> int:
    """A 63-bit seed from the run's seed and what is drawn: `seed_for(run_seed, "train", round, site)`."""
    text = "|".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
