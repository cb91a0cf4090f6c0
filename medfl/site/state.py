"""What a site carries from round to round: a value, and its form on a disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

STATE, PENDING = "state.", "pending."  # before the names of tensors on a disk


class PendingState(NamedTuple):
    """What a site's state becomes once the server accepts its reply to a round."""

    round: int
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class SiteMemory:
    """What a site carries from round to round. It is replaced by later rounds, and so are its tensors; neither is
    ever written to.

    Attributes:
        site: name.
        state: the site's state by name, as its last accepted reply left it.
        round: of that reply; -1 where there was none, or where a run's checkpoint, which does not say, is read.
        pending: the state that follows it, while the server has not said whether it accepts the reply.
    """

    site: str
    state: Mapping[str, Tensor] = field(default_factory=dict)
    round: int = -1
    pending: PendingState | None = None

    def promoted(self, accepted: int) -> SiteMemory:
        """The memory of a site whose reply to round `accepted` was its last accepted one: what was pending since that
        round, or an earlier one, is its state."""
        if self.pending is None or self.pending.round > accepted:
            return self
        return SiteMemory(self.site, self.pending.state, self.pending.round)

    def without_pending(self) -> SiteMemory:
        """The memory of a site that trains anew: no reply of it is on its way."""
        return self if self.pending is None else replace(self, pending=None)

    def proposing(self, round_: int, changes: Mapping[str, Tensor]) -> SiteMemory:
        """The memory with changes to the state that wait for the reply of a round to be accepted."""
        return replace(self, pending=PendingState(round_, {**self.state, **changes}))

    def encode(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and what else there is, ready for JSON; `decode` turns both back."""
        tensors = {f"{STATE}{name}": tensor for name, tensor in self.state.items()}
        pending = self.pending
        if pending is not None:
            # A file takes no tensor twice, and what a round leaves alone is in both.
            tensors |= {
                f"{PENDING}{name}": tensor.clone() if self.state.get(name) is tensor else tensor
                for name, tensor in pending.state.items()
            }
        return tensors, {"round": self.round, "pending": None if pending is None else pending.round}

    @classmethod
    def decode(cls, site: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> SiteMemory:
        """The memory of a site from what `encode` made of it; tensors of other names are left alone.

        Raises:
            ValueError: the facts are not those of a memory.
        """
        if not isinstance(facts, Mapping):
            raise ValueError("no mapping")
        round_, pending = facts.get("round", -1), facts.get("pending")
        if not _round(round_) or not (pending is None or _round(pending)):
            raise ValueError("no rounds")
        later = None if pending is None else PendingState(pending, _under(PENDING, tensors))
        return cls(site, _under(STATE, tensors), round_, later)


def _round(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= -1


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
