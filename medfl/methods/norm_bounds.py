"""Rules over the length of an update: `norm_clip` shortens what is too long, `norm_guard` refuses it by name.

norm_clip: Z. Sun et al., "Can You Really Backdoor Federated Learning?", arXiv 1911.07963, section 4 (norm
thresholding): every update enters the mean as

    D_i min(1, C / ||D_i||),

C stated, or adaptive: the median length of the updates that came in during the last `window` rounds that counted, times
`factor`. Andrew et al., arXiv 1905.03871, aim at the same median in small steps, because under differential privacy no
length may be looked at; here the server sees them all and takes it at once. Sample counts weigh as in FedAvg.

norm_guard: an update longer than `factor` times that median is a failure of its site, with both figures in the record.

Replies are streamed, so the median is of earlier rounds, and the order of sites changes nothing. Until a round has
counted there is no median: in the first one norm_guard refuses nothing, and norm_clip shortens nothing unless `bound`
is stated. Of buffers (BatchNorm statistics) it is the change from the global ones that is treated so, always against
the median of such changes, since a bound for weights means nothing there.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.messages import Reply
from medfl.methods.core.context import ServerContext
from medfl.methods.core.method import Method, number, require


@dataclass(frozen=True)
class _Lengths(Method):
    """What both share: lengths of earlier rounds, in `server.json_state`, and of this one, in `server.round_sums`."""

    factor: float = 1.0
    window: int = 3

    def __post_init__(self) -> None:
        number(self.factor, "factor", 1.0, math.inf)
        number(self.window, "window", 1, math.inf)
        require(isinstance(self.window, int), f"`window` must be a whole number of rounds, not {self.window!r}")

    def limits(self, server: ServerContext) -> tuple[float, float]:
        """The longest update and buffer change that pass: `factor` times the medians. Without a median, or where
        that is 0 and says nothing, whatever is finite passes."""
        rounds: list[list[list[float]]] = server.json_state.get(self.name, [])
        seen = [pair for lengths in rounds for pair in lengths]
        usual = [median(pair[part] for pair in seen) if seen else 0.0 for part in (0, 1)]
        update, buffers = (self.factor * value if value > 0 else math.inf for value in usual)
        return update, buffers

    def note(self, server: ServerContext, reply: Reply) -> None:
        """Remember a reply's lengths, should the round count."""
        pair = torch.tensor([lengths(server, reply)], dtype=torch.float64)
        have = server.round_sums.get(self.name)
        server.round_sums[self.name] = pair if have is None else torch.cat([have, pair])

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """The round counts, and so do its lengths; the oldest round is forgotten."""
        rounds: list[Any] = [*server.json_state.get(self.name, []), server.round_sums[self.name].tolist()]
        server.json_state[self.name] = rounds[-self.window :]
        return mean


@dataclass(frozen=True)
class NormClip(_Lengths):
    """Shorten every update to `bound`, or to `factor` times the median length of the last `window` rounds."""

    name: ClassVar[str] = "norm_clip"
    paper: ClassVar[str] = "arXiv:1911.07963"
    title: ClassVar[str] = "Can You Really Backdoor Federated Learning?"
    guards_updates: ClassVar[bool] = True
    async_safe: ClassVar[bool] = True
    bound: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bound is not None:
            number(self.bound, "bound", 0.0, math.inf, open_low=True)

    def transform_reply(self, server: ServerContext, reply: Reply) -> Reply:
        """D min(1, C / ||D||), and the same for the change of the buffers."""
        assert reply.update is not None
        assert reply.buffers is not None
        self.note(server, reply)
        limits = self.limits(server)
        wanted = (self.bound or limits[0], limits[1])
        shares = [
            min(1.0, most / long) if long > 0 else 1.0
            for most, long in zip(wanted, lengths(server, reply), strict=True)
        ]
        moved = (reply.buffers - server.buffers) * shares[1]
        return dataclasses.replace(
            reply,
            update=reply.update * shares[0] if shares[0] < 1 else reply.update,
            buffers=server.buffers + moved if shares[1] < 1 else reply.buffers,
        )


@dataclass(frozen=True)
class NormGuard(_Lengths):
    """Refuse an update longer than `factor` times the median length of the last `window` rounds, by name."""

    name: ClassVar[str] = "norm_guard"
    async_safe: ClassVar[bool] = True
    factor: float = 5.0

    def reject(self, server: ServerContext, reply: Reply) -> str | None:
        """The figure, the limit and where it comes from."""
        for what, value, limit in zip(
            ("update", "change of the buffers"), lengths(server, reply), self.limits(server), strict=True
        ):
            if value > limit:
                return (
                    f"the {what} has length {value:.4g}, above the limit of {limit:.4g}: {self.factor:g} times the "
                    f"median of the last {self.window} rounds (`method.norm_guard.factor`)"
                )
        return None

    def on_reply(self, server: ServerContext, reply: Reply) -> None:
        """It counts for the median from the next round on."""
        self.note(server, reply)


def lengths(server: ServerContext, reply: Reply) -> tuple[float, float]:
    """Euclidean lengths of a reply's update and of its buffers' change from the global ones."""
    assert reply.update is not None
    assert reply.buffers is not None
    update = float(torch.linalg.vector_norm(reply.update))
    return update, float(torch.linalg.vector_norm(reply.buffers - server.buffers))
