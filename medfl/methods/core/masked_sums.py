"""Sums of vectors whose adder sees the sum and no vector: pairwise masks, a mask of each site's own, fixed point.

K. Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017
(doi:10.1145/3133956.3133982), section 4. Site u of the sites U of a round sends, all modulo 2^64,

    y_u = x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv)

The pair's seed s_uv comes from one X25519 agreement a process and the round's tag (HKDF), so that the seeds of a round
tell nothing of another's; b_u is drawn anew. In the sum over all sites the masks of pairs cancel. Where sites D dropped
out, each of the others reveals its seeds with them, and its own b_u; a site that is thought lost and yet arrives stays
hidden by its b, which nobody asks it for then.

Values are whole multiples of 2^-32 in 64-bit integers, so that masks cancel to the last bit: a sum of n sites is within
n 2^-33 of the exact one, as long as it stays below 2^31. PRG is ChaCha20's key stream.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medfl.methods.core.method import Method

Words = NDArray[np.int64]
FRACTION = 32  # bits behind the point
LARGEST = 2.0 ** (63 - FRACTION)
"""Sums are below it."""
SEED = 32  # bytes of a key, a public key and a seed
KEY, OWN, PAIR = "key", "own_seed", "pair_"
"""Names of what a site announces and reveals: its key, its own seed, a seed that it shares with the site of the name
that follows. No site's name has "_"."""
SIGNED = ("certificate", "signature")
"""What a site's kit adds to its key."""
LEAST_SITES = 3
"""Of a round: of two, each knows the other's vector from the sum."""
BLOCK = 1 << 20  # values that are masked at a time
SINGLE = {
    "reject": "looks at each update before it is taken",
    "transform_reply": "changes each update before it is summed",
    "aggregation_weight": "weighs each update by what it is",
    "on_reply": "looks at each update",
}
"""Phases in which the server acts on one site's update, and what a method does there."""


class MaskKey:
    """One site's key for as long as its process lives; it is in no file."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        self._private = X25519PrivateKey.generate()
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def seed(self, other: bytes, tag: str) -> bytes:
        """The seed that this site and the one of the public key `other` share under a tag. ValueError for no key."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        agreed = self._private.exchange(X25519PublicKey.from_public_bytes(other))
        return HKDF(SHA256(), SEED, salt=None, info=b"medfl masked sum " + tag.encode()).derive(agreed)


def new_seed() -> bytes:
    """A seed from the operating system's entropy."""
    return secrets.token_bytes(SEED)


def least_survivors(participants: int) -> int:
    """How many of a round's sites must have sent their vectors for a sum to be unmasked: more than half."""
    return participants // 2 + 1


def to_fixed(parts: Iterable[tuple[Tensor, float]], terms: int) -> Words:
    """i64[n]: vectors f32 on the CPU one after another, each times a factor, in fixed point.

    Args:
        parts: (vector, factor).
        terms: vectors that will be in the sum.

    Raises:
        ValueError: a value so large that the sum could pass what 64 bits hold.
    """
    bound, made = LARGEST / terms, []
    for vector, factor in parts:
        exact = vector.numpy().astype(np.float64) * factor
        if not np.all(np.abs(exact) < bound):
            raise ValueError(
                f"a value of {np.abs(exact).max():.3g} (update times patches) is too large for a masked sum of {terms} "
                f"sites, which takes less than {bound:.3g}; lower `training.optimizer.lr`, or go without "
                f"`training.secure_aggregation`"
            )
        made.append(np.rint(exact * 2.0**FRACTION).astype(np.int64))
    return np.concatenate(made)


def from_fixed(words: Words) -> NDArray[np.float64]:
    """The numbers that words in fixed point stand for."""
    return words.astype(np.float64) * 2.0**-FRACTION


def mask(words: Words, site: str, own: bytes, pairs: Mapping[str, bytes]) -> None:
    """Mask the vector of `site` in place, with its own seed and those that it shares with the other sites of a sum."""
    _add(words, own, 1)
    for other, seed in pairs.items():
        _add(words, seed, _sign(site, other))


def unmask(total: Words, own: Collection[bytes], pairs: Mapping[tuple[str, str], bytes]) -> None:
    """Take out of a sum, in place, what does not cancel: the sites' own masks, and those that they share with sites
    whose vectors are not in it, (site, dropped site) -> seed."""
    for seed in own:
        _add(total, seed, -1)
    for (site, dropped), seed in pairs.items():
        _add(total, seed, -_sign(site, dropped))


def why_not_summed(methods: Sequence[Method]) -> str | None:
    """Which method needs more than a weighted sum of updates, and why, as the end of a sentence; None if none does."""
    for method in methods:
        acts = (what for phase, what in SINGLE.items() if method.acts_in(phase) and not method.weighs_equally)
        for reason, applies in (
            ("keeps the updates of a round side by side", method.keeps_updates),
            (f"sends {', '.join(method.sends)} beside the update", bool(method.sends)),
            ("keeps layers at the sites that are taken out of each update", method.local_norms),
            *((what, True) for what in acts),
        ):
            if applies:
                return f"{method.name} {reason}"
    return None


def _sign(site: str, other: str) -> int:
    return 1 if site < other else -1


def _add(words: Words, seed: bytes, sign: int) -> None:
    add = np.add if sign > 0 else np.subtract
    begin = 0
    for stream in _key_stream(seed, len(words)):
        block = words[begin : begin + len(stream)]
        add(block, stream, out=block)  # whole numbers of 64 bits wrap around
        begin += len(stream)


def _key_stream(seed: bytes, count: int) -> Iterator[Words]:
    """i64[count] of ChaCha20 under a key that is used once, in blocks."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor()
    for begin in range(0, count, BLOCK):
        yield np.frombuffer(stream.update(bytes(8 * min(BLOCK, count - begin))), dtype="<i8")
