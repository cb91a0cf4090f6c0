"""What the server checks of a trained reply before it counts. A reply that fails is a named failure of its round."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from medfl.federation.server_state import FederationConfig
from medfl.messages import Reply, squared_length
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.context import ServerContext
from medfl.methods.core.method import WEIGHTS
from medfl.metrics.figure_checks import LARGEST_COUNT

LARGEST_LOSS = torch.finfo(torch.float32).max  # a loss beyond is none that was computed


def reason_to_reject(
    reply: Reply, server: ServerContext, plan: FederationConfig, chain: MethodChain, asked: Mapping[str, int]
) -> str | None:
    """Why a trained reply cannot be folded, in one sentence, or None.

    In order: it answers the request to train, it is of this architecture, its vectors have the model's type
    and length and are finite, its numbers make sense, and no method refuses it. A count of samples or steps is the
    site's own word; nothing here can prove it.

    Args:
        reply: of a site that was asked to train, or with an update.
        server: as methods see it in this round.
        plan: states the fingerprint that replies must carry; "" checks none.
        chain: names the further vectors a reply must carry (`Method.sends`), and may refuse it (`Method.refuse`).
        asked: the sites that were asked to train and have not replied yet, and in which round.
    """
    if reply.site not in asked:
        return "the site was not asked to train in this round, or has replied already"
    if reply.round != asked[reply.site]:
        return f"the reply is one to round {reply.round}, and the site was asked in round {asked[reply.site]}"
    if plan.fingerprint and reply.fingerprint != plan.fingerprint:
        return (
            f"the update is of architecture {reply.fingerprint or '(not stated)'}, and the model's is "
            f"{plan.fingerprint}; the site's backbone, classes or medfl differ"
        )
    local = chain.local_layers
    sizes = {"update": server.weights.numel(), "buffers": server.buffers.numel() - len(local)}
    if (reply.masked is not None) != plan.masked:
        return f"the update is {'sent as it is' if plan.masked else 'masked'} in round {reply.round}"
    vectors = {"update": reply.update, "buffers": reply.buffers, **reply.extra}
    if reply.masked is not None:
        if reply.masked.dtype != torch.int64 or reply.masked.shape != (sizes["update"] + sizes["buffers"],):
            return f"the masked update has {reply.masked.numel():,} values in round {reply.round}"
        del vectors["update"], vectors["buffers"]
    for name, length in chain.sends.items():
        vectors.setdefault(name, None)
        sizes[name] = server.weights.numel() if length == WEIGHTS else length
    for name, vector in vectors.items():
        reason = _flaw(name, vector, sizes.get(name), reply)
        if reason is not None:
            return f"{reason} in round {reply.round}"
    if not 1 <= reply.samples <= LARGEST_COUNT or not 1 <= reply.steps <= LARGEST_COUNT:
        return f"the reply counts {reply.samples} training samples and {reply.steps} steps"
    if reply.train_loss is not None and not abs(reply.train_loss) <= LARGEST_LOSS:
        return f"the training loss is not finite in round {reply.round}"
    for method in chain.acting("reject"):
        refusal: str | None = method.reject(server, local.taken_out(reply, server.origin(reply.site)))
        if refusal is not None:
            return refusal
    return None


def _flaw(name: str, vector: Tensor | None, size: int | None, reply: Reply) -> str | None:
    """What is wrong with one vector of a reply; a vector without a known size need only be finite.

    A squared length, which a reply computes once, is finite only where all values are.
    """
    what = "the buffers have" if name == "buffers" else f"the {name} has" if name == "update" else f"`{name}` has"
    if vector is None:
        return f"{what} not been sent"
    if size is not None and vector.shape != (size,):
        shown = f"{vector.numel():,} values" if vector.dim() == 1 else f"shape {tuple(vector.shape)}"
        return f"{what} {shown}, the model {size:,}"
    if size is not None and vector.dtype != torch.float32:
        return f"{what} type {str(vector.dtype).removeprefix('torch.')}, not float32"
    if not (math.isfinite(reply.square) if name == "update" else is_finite(vector)):
        return f"{what} values that are not finite"
    return None


def is_finite(vector: Tensor) -> bool:
    """Whether all values are finite. A finite squared length says so in one pass; a large one says nothing."""
    if not vector.is_floating_point():
        return True
    flat = vector.flatten()
    return math.isfinite(squared_length(flat)) or bool(torch.isfinite(flat).all())
